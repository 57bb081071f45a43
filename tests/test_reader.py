"""Readers: the right frames, in any order, from good, odd and broken files."""

import json
import os
import pickle
import subprocess
import sys
import types
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videozoo.data import ArrayReader, VideoError, VideoReader, create_transform, open_video
from videozoo.data import pyav as pyav_module
from videozoo.data.packets import FileMemory, KnownFile
from videozoo.data.pyav import PyAVReader
from videozoo.data.resize import rescale_size, resize_frames

VIDEOS = Path(__file__).parent / "data" / "video"
SHORT = VIDEOS / "demo_24f_bt709.mp4"
GOLDEN = json.loads((VIDEOS.parent / "data_decode.json").read_text())


def crc(frames):
    return zlib.crc32(np.ascontiguousarray(frames).tobytes())


def sequential(path):
    """All frames, by decoding from start to end."""
    with av.open(str(path)) as container:
        stream, frames = container.streams.video[0], []
        for packet in container.demux(stream):
            try:
                decoded = stream.codec_context.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                continue
            frames += [frame.to_ndarray(format="rgb24") for frame in decoded]
    return np.stack(frames)


@pytest.fixture(scope="module")
def scene():
    """48 frames (96 x 128) in which every frame differs from the others."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (12, 28, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([picture[:, 2 * i : 2 * i + 128] for i in range(48)])


def write_video(path, frames, codec="libx264", rotation=None, pix_fmt="yuv420p", **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def remux(source, target, shift_frames=0, **options):
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                shift = int(shift_frames / stream.average_rate / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return target


def assert_frames(path, truth, **kwargs):
    rng = np.random.default_rng(0)
    with open_video(path, **kwargs) as reader:
        assert len(reader) == len(truth)
        for start in range(0, len(truth), 7):
            chunk = range(start, min(start + 7, len(truth)))
            np.testing.assert_array_equal(reader.get(chunk), truth[chunk.start : chunk.stop])
        for _ in range(8):
            indices = rng.integers(0, len(truth), 5)
            np.testing.assert_array_equal(reader.get(indices), truth[indices])


# Exact bytes


@pytest.mark.parametrize("name", sorted(GOLDEN))
@pytest.mark.parametrize("num_threads", [0, 1])
def test_every_byte_of_every_frame(name, num_threads):
    facts = GOLDEN[name]
    with open_video(VIDEOS / name, num_threads=num_threads) as reader:
        count = facts["frames_decoded"]
        assert (len(reader), reader.width, reader.height) == (count, facts["width"], facts["height"])
        assert reader.fps == pytest.approx(facts["fps"])
        total = 0
        for start in range(0, count, 40):
            total = zlib.crc32(reader.get(range(start, min(start + 40, count))).tobytes(), total)
        assert total == facts["crc32_rgb_all_frames"]
    places = [facts["crc32_rgb"][place] for place in ("last", "first", "mid")]
    with open_video(VIDEOS / name, num_threads=num_threads) as reader:
        frames = reader.get([place["index"] for place in places])
        assert [crc(frame) for frame in frames] == [place["crc32"] for place in places]
        assert crc(reader.get([places[2]["index"]])) == places[2]["crc32"]


def test_any_order_and_repeats():
    with open_video(VIDEOS / "demo.mp4") as reader:
        frames = reader.get([250, 3, 250, 190, 3])
        assert frames.shape == (5, 256, 340, 3) and frames.dtype == np.uint8
        assert np.array_equal(frames[0], frames[2]) and np.array_equal(frames[1], frames[4])
        assert [crc(f) for f in frames[[0, 3]]] == [crc(reader.get([i])) for i in (250, 190)]
        assert reader.get([]).shape == (0, 256, 340, 3)
        np.testing.assert_array_equal(reader.get(torch.tensor([3])), frames[1:2])


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("bframes.mp4", "libx264", {"g": "12", "bf": "3"}),
        ("open_gop.mkv", "libx264", {"g": "10", "x264-params": "open-gop=1:bframes=4:b-pyramid=normal"}),
        ("intra_refresh.mkv", "libx264", {"x264-params": "intra-refresh=1:keyint=15"}),
        ("stream.ts", "libx264", {"g": "12"}),
        ("hevc.mp4", "libx265", {"x265-params": "keyint=10:open-gop=1:bframes=3:log-level=none"}),
        ("hidden_frames.webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("old.avi", "mpeg4", {"g": "12", "bf": "2"}),
        ("old.mp4", "mpeg4", {"g": "12", "bf": "2"}),
        ("raw.h264", "libx264", {"g": "12"}),
    ],
)
def test_codecs_and_containers(tmp_path, scene, name, codec, options):
    path = write_video(tmp_path / name, scene, codec, **options)
    assert_frames(path, sequential(path), num_threads=2)


@pytest.fixture
def decoded(monkeypatch):
    """Packets given to the decoder so far."""
    packets = []
    original = pyav_module.PyAVReader._decode
    monkeypatch.setattr(
        pyav_module.PyAVReader, "_decode", lambda self, packet: packets.append(packet) or original(self, packet)
    )
    return packets


def test_sparse_reading_decodes_only_the_needed_groups(tmp_path, scene, decoded):
    frames = np.concatenate([scene] * 3)  # 144 frames, a key frame every 12
    path = write_video(tmp_path / "gop12.mp4", frames, g="12", bf="2", **{"x264-params": "scenecut=0"})
    with open_video(path, num_threads=1) as reader:
        decoded.clear()
        reader.get([5, 77, 140])
        assert len(decoded) <= 3 * 16
        decoded.clear()
        for start in range(0, 144, 6):  # reading on does not go back to the key frame
            reader.get(range(start, start + 6))
        assert len(decoded) <= 144 + 12


def test_reading_on_in_a_file_without_time_stamps_does_not_start_again(decoded):
    with open_video(VIDEOS / "test.avi") as reader:
        decoded.clear()
        for start in range(0, len(reader), 4):
            reader.get(range(start, start + 4))
        assert len(decoded) <= len(reader) + 1


def test_sound_files_are_never_decoded_to_count(monkeypatch):
    monkeypatch.setattr(pyav_module.PyAVReader, "_count_by_decoding", lambda self: pytest.fail("counted by decoding"))
    with open_video(VIDEOS / "demo.mp4", num_threads=1) as reader:
        reader.get([60])
        for index in (
            *range(59, 30, -1),
            0,
            270,
            1,
            269,
            188,
            187,
            186,
        ):  # frames that reading the ones before has passed, or skipped
            reader.get([index])


def test_rotation_is_applied(tmp_path, scene):
    upright = write_video(tmp_path / "a.mp4", scene[:3])
    turned = write_video(tmp_path / "b.mp4", scene[:3], rotation=90)
    with open_video(upright) as a, open_video(turned) as b:
        assert (b.width, b.height) == (a.height, a.width)
        np.testing.assert_array_equal(b.get([2]), np.rot90(a.get([2]), axes=(1, 2)))


# Frame counts that do not trust the container


def test_header_that_lies(tmp_path, scene):
    path = write_video(tmp_path / "a.avi", scene, "mpeg4")
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 24), (b"strh", 40)):
        place = data.index(tag) + offset
        data[place : place + 4] = (999).to_bytes(4, "little")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 999
    assert_frames(path, sequential(path))


def test_frames_before_the_start_of_an_edit_list_do_not_count(tmp_path, scene):
    source = write_video(tmp_path / "a.mp4", scene, g="12", bf="2")
    path = remux(source, tmp_path / "b.mp4", shift_frames=6)
    truth = sequential(path)
    assert len(truth) < len(scene)
    assert_frames(path, truth)


@pytest.mark.parametrize(("name", "warns"), [("a.mp4", True), ("a.mkv", False), ("a.ts", False)])
def test_truncated_file_gives_the_frames_that_decode(tmp_path, name, warns, recwarn):
    path = remux(VIDEOS / "demo.mp4", tmp_path / name, **({"movflags": "faststart"} if warns else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    truth = sequential(path)
    assert 50 < len(truth) < 250
    with open_video(path) as reader:
        assert len(reader) == len(truth)
        indices = [len(truth) - 1, 0, len(truth) // 2]
        np.testing.assert_array_equal(reader.get(indices), truth[indices])
        with pytest.raises(IndexError, match=str(len(truth))):
            reader.get([len(truth)])
    assert any("cut off" in str(w.message) for w in recwarn) == warns


def damaged_inside(tmp_path):
    """A file whose packets are all there, while some in the middle do not decode."""
    path = remux(VIDEOS / "demo.mp4", tmp_path / "damaged.mp4")
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 300_000
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    return path, len(sequential(path))


def test_frames_that_fail_while_reading_make_the_reader_count_anew(tmp_path):
    path, count = damaged_inside(tmp_path)
    with open_video(path) as reader:
        assert len(reader) == 280 > count
        with pytest.warns(UserWarning, match=f"{count} frames"), pytest.raises(VideoError, match="Sample again"):
            reader.get(range(280))
        assert len(reader) == count
        assert reader.get([0, count - 1]).shape[0] == 2


def test_damaged_first_frame(tmp_path):
    path = remux(VIDEOS / "demo.mp4", tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 4 : start + 9000] = bytes(8996)
    path.write_bytes(data)
    truth = sequential(path)
    with pytest.warns(UserWarning, match="damaged"), open_video(path) as reader:
        assert 0 < len(reader) == len(truth)
        reader.get([len(truth) - 1])


def test_transform_samples_again_after_a_new_count(tmp_path):
    path, count = damaged_inside(tmp_path)
    transform = create_transform(num_frames=1, stride=1, clips=280, segments=280, resize=32, size=32)
    with pytest.warns(UserWarning, match="damaged"), open_video(path) as reader:
        views = transform.views(reader)
        assert len(views.frames) == count and views[0].shape[0] == 280


# Errors


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_beginning(path):
    remux(VIDEOS / "demo.mp4", path, movflags="faststart")
    path.write_bytes(path.read_bytes()[:9000])


BROKEN = {
    "missing.mp4": (lambda path: None, "no such file"),
    "empty.mp4": (lambda path: path.touch(), "empty"),
    "text.mp4": (lambda path: path.write_text("this is no video\n" * 99), "not a video"),
    "text.txt": (lambda path: path.write_text("this is no video\n" * 99), "text file"),
    "audio.m4a": (write_audio, "no video stream, only audio"),
    "no_index.mp4": (lambda path: path.write_bytes((VIDEOS / "demo.mp4").read_bytes()[:300_000]), "not a video"),
    "beginning.mp4": (write_beginning, "no frame decodes"),
    "folder": (lambda path: path.mkdir(), "no images"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_files_name_path_and_reason(tmp_path, name):
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(tmp_path / name)
    assert caught.value.path == str(tmp_path / name) and caught.value.path in str(caught.value)


@pytest.mark.parametrize("index", [-1, 24, 999])
def test_index_out_of_range(index):
    with open_video(VIDEOS / "demo_24f_bt709.mp4") as reader:
        with pytest.raises(IndexError, match=f"bt709.mp4: frame {index} .*24"):
            reader.get([0, index])
        with pytest.raises(TypeError, match="float"):
            reader.get([0.5])


def test_closed_reader():
    reader = open_video(VIDEOS / "demo_24f_bt709.mp4")
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.get([0])


def test_unknown_reader_and_wrong_kind(tmp_path):
    with pytest.raises(ValueError, match="opencv"):
        open_video(VIDEOS / "demo.mp4", reader="opencv")
    with pytest.raises(VideoError, match="reader='images'"):
        open_video(tmp_path, reader="pyav")
    with pytest.raises(VideoError, match="folder"):
        open_video(VIDEOS / "demo.mp4", modality="flow")


def test_names_with_colons_are_files(tmp_path, monkeypatch):
    (tmp_path / "pipe:1.mp4").write_bytes((VIDEOS / "demo_24f_bt709.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    with open_video("pipe:1.mp4") as reader:
        assert len(reader) == 24


def test_nothing_heavy_is_imported_before_a_file_is_opened():
    code = (
        "import sys, videozoo.data; print([m for m in ('av', 'PIL', 'torchvision', 'torchcodec') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# Folders and arrays


def save_images(folder, names, size=(24, 16), mode="RGB"):
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(names):
        Image.new(mode, size, (value, value + 50, 200)[: len(mode)] if mode == "RGB" else value).save(folder / name)
    return folder


@pytest.mark.parametrize("template", ["img_{:05d}.png", "{:05d}.png", "image_{}.png", "frame{}.png"])
def test_folder_in_natural_order(tmp_path, template):
    folder = save_images(tmp_path / "clip", [template.format(i) for i in range(1, 13)])
    (folder / "notes.txt").write_text("not a frame")
    with open_video(folder, fps=12.5) as reader:
        assert isinstance(reader, VideoReader)
        assert (len(reader), reader.width, reader.height, reader.fps) == (12, 24, 16, 12.5)
        frames = reader.get([11, 0, 1, 0])
        assert frames.shape == (4, 16, 24, 3) and frames[:, 0, 0].tolist() == [
            [11, 61, 200],
            [0, 50, 200],
            [1, 51, 200],
            [0, 50, 200],
        ]
    assert open_video(folder).fps == 0.0


@pytest.mark.parametrize("prefix", ["flow_", ""])
def test_flow_folder(tmp_path, prefix):
    folder = tmp_path / "clip"
    save_images(folder, [f"{prefix}x_{i:05d}.png" for i in range(1, 4)], mode="L")
    save_images(folder, [f"{prefix}y_{i:05d}.png" for i in range(3, 0, -1)], mode="L")
    save_images(folder, [f"img_{i:05d}.png" for i in range(1, 6)])
    with open_video(folder, modality="flow") as reader:
        assert reader.get(range(3))[:, 0, 0].tolist() == [[0, 2], [1, 1], [2, 0]]
    assert len(open_video(folder)) == 5
    (folder / f"{prefix}y_00002.png").unlink()
    with pytest.raises(VideoError, match="x_00002.png has no partner"):
        open_video(folder, modality="flow")


def test_folder_reads_only_what_is_asked_and_reports_bad_images(tmp_path):
    folder = save_images(tmp_path / "clip", ["1.png", "2.png", "3.png"])
    (folder / "2.png").write_bytes(b"broken")
    Image.new("RGB", (10, 16)).save(folder / "3.png")
    with open_video(folder) as reader:
        assert reader.get([0]).shape == (1, 16, 24, 3)
        with pytest.raises(VideoError, match="2.png is not a readable image"):
            reader.get([1])
        with pytest.raises(VideoError, match="1.png is 24x16, 3.png is 10x16"):
            reader.get([0, 2])


def test_array_reader(scene):
    for frames in (scene, torch.from_numpy(scene)):
        with ArrayReader(frames, fps=25) as reader:
            assert (len(reader), reader.width, reader.height, reader.fps) == (48, 128, 96, 25)
            np.testing.assert_array_equal(reader.get([4, 2, 4]), scene[[4, 2, 4]])
    with pytest.raises(ValueError, match="float64"):
        ArrayReader(scene / 255)


# torchcodec, through a stand-in with the interface that the adapter uses


def install_torchcodec(monkeypatch, decoder):
    package, module = types.ModuleType("torchcodec"), types.ModuleType("torchcodec.decoders")
    package.decoders, module.VideoDecoder = module, decoder
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)


class Decoder:
    def __init__(self, source, *, dimension_order, num_ffmpeg_threads, seek_mode):
        assert (dimension_order, seek_mode) == ("NHWC", "exact")
        self.frames = torch.from_numpy(sequential(source))
        height, width = self.frames.shape[1:3]
        self.metadata = types.SimpleNamespace(average_fps=28.0, width=width, height=height)

    def __len__(self):
        return len(self.frames)

    def get_frames_at(self, indices):
        if 23 in indices:
            raise RuntimeError("no more frames\nC++ stack")
        return types.SimpleNamespace(data=self.frames[indices])


def test_torchcodec_adapter(monkeypatch):
    install_torchcodec(monkeypatch, Decoder)
    path = VIDEOS / "demo_24f_bt709.mp4"
    with open_video(path, reader="torchcodec") as reader, open_video(path) as expected:
        assert (len(reader), reader.width, reader.height, reader.fps) == (24, 340, 256, 28.0)
        np.testing.assert_array_equal(reader.get([9, 2, 9]), expected.get([9, 2, 9]))
        with pytest.raises(VideoError, match="no more frames.*reader='pyav'"):
            reader.get([23])


def test_torchcodec_missing_or_without_ffmpeg(monkeypatch):
    def decoder(*args, **kwargs):
        raise RuntimeError("Could not load libtorchcodec. Likely causes: ...")

    install_torchcodec(monkeypatch, decoder)
    with pytest.raises(ImportError, match="install FFmpeg"):
        open_video(VIDEOS / "demo.mp4", reader="torchcodec")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match="pip install torchcodec"):
        open_video(VIDEOS / "demo.mp4", reader="torchcodec")


def test_errors_come_back_whole_from_a_worker_process():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "holds no video")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "holds no video", "a.mp4: holds no video")


# Speed without other frames ------------------------------------------------------------------------------------------


def test_a_file_that_is_opened_again_is_not_scanned_again(tmp_path, monkeypatch):
    file = tmp_path / "a.mp4"
    file.write_bytes(SHORT.read_bytes())
    with open_video(file) as video:
        facts, expected = repr(video), video.get([3, 20, 7])
    scans = []
    explore = PyAVReader._explore
    monkeypatch.setattr(PyAVReader, "_explore", lambda self: (scans.append(self.path), explore(self)))
    with open_video(file) as video:
        assert repr(video) == facts and np.array_equal(video.get([3, 20, 7]), expected)
    assert not scans
    os.utime(file, ns=(1, 1))  # the file has been written anew, as far as one can see
    open_video(file).close()
    assert scans == [str(file)]


def test_remembered_files_are_bounded():
    memory, stamps = FileMemory(limit=10), np.arange(4)
    known = KnownFile(stamps, stamps, [(0, 0, 0)], (4, 2), 0)
    for name in "abc":
        memory.put((name, 0, 0), known)
        memory.get(("a", 0, 0))
    assert [memory.get((name, 0, 0)) is None for name in "abc"] == [False, True, False]
    memory.forget(("a", 0, 0))
    memory.put(("d", 0, 0), known)
    assert [memory.get((name, 0, 0)) is None for name in "acd"] == [True, False, False]


def test_frames_scaled_by_the_decoder():
    with (
        open_video(SHORT) as video,
        open_video(SHORT, size=60) as small,
    ):
        width, height = rescale_size(video.width, video.height, (-1, 60))
        frames = small.get([9, 2, 9])
        assert frames.shape == (3, height, width, 3) and np.array_equal(frames[0], frames[2])
        full = torch.from_numpy(video.get([9, 2]))
        resized = resize_frames(full, (height, width), backend="torch_antialias").numpy()
        assert np.abs(frames[:2].astype(int) - resized).mean() < 3  # close, but not equal
        assert (small.width, small.height) == (video.width, video.height)


def test_only_the_decoder_scales(tmp_path):
    for path, reader in ((tmp_path, "auto"), (SHORT, "torchcodec")):
        with pytest.raises(ValueError, match=r"size=64 .* only reader='pyav'"):
            open_video(path, reader=reader, size=64)


def test_transform_lets_the_decoder_scale():
    config = {"num_frames": 4, "stride": 2, "size": 48, "resize": 60}
    plain, fast = (create_transform(resize_backend=backend, **config) for backend in ("cv2", "decoder"))
    with open_video(SHORT) as video:
        before = video.get([5])
        views, scaled = plain(video), fast(video)
        assert scaled.shape == views.shape and not torch.equal(scaled, views)
        assert (scaled - views).abs().mean() < 0.15
        assert np.array_equal(video.get([5]), before)  # the reader gives whole frames again
        frames = video.get(range(8))
    assert torch.equal(plain(frames), fast(frames))  # frames that come from elsewhere are resized as ever
