"""Video that is not finished: growing files, network streams, cameras, and the running scores of the command line."""

import io
import json
import re
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from servers import FileServer

import videozoo
from videozoo import cli
from videozoo.data import ArrayReader, VideoError, follow_video, open_camera, open_video
from videozoo.data import live as live_module
from videozoo.streaming import Stream
from videozoo.streaming.cli import Block

MODEL = "mc3_r18w16_8x4_camera_motion"  # its weights come with the package; a window is 29 frames
VIDEO = Path(__file__).parent / "data" / "video" / "demo_24f_bt709.mp4"
CAMERA = "testsrc2=size=64x48:rate=30:duration=2"  # FFmpeg's picture generator, in place of a camera


def encode(path, kind, count=40, size=(64, 48), options=()):
    """Writes a moving picture: ``kind`` is FFmpeg's name of the format."""
    y, x = np.ogrid[: size[1], : size[0]]
    with av.open(str(path), "w", format=kind, options=dict(options)) as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 5
        for t in range(count):
            picture = np.stack(np.broadcast_arrays(128 + 100 * np.sin(x / 9 + t / 4), 4 * y, 5 * t), -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8))))
        container.mux(stream.encode())
    return path


FORMATS = {"ts": ("mpegts", {}), "mkv": ("matroska", {}), "mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov"})}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A video in each format that is readable while it grows, and an ordinary MP4."""
    folder = tmp_path_factory.mktemp("videos")
    found = {
        name: encode(folder / f"video.{name}", *(kind, 40, (64, 48), options))
        for name, (kind, options) in FORMATS.items()
    }
    return found | {"plain": encode(folder / "plain.mp4", "mp4")}


@pytest.fixture
def server():
    with FileServer() as server:
        yield server


# Growing files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FORMATS, "plain"])
def test_a_complete_file_gives_the_frames_that_the_reader_gives(videos, kind):
    with follow_video(videos[kind], idle=0.01) as video:
        assert video.fps == 10 and not video.is_live
        frames = [*video]
    with open_video(videos[kind]) as reader:
        assert np.array_equal([frame for frame, _ in frames], reader.get(range(40)))
    np.testing.assert_allclose([seconds for _, seconds in frames], np.arange(40) / 10, atol=1e-3)
    assert video.end == "the file did not grow for 0.01 s" and video.broken == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_is_followed_while_it_grows(videos, tmp_path, monkeypatch, kind):
    path, content = tmp_path / "growing", io.BytesIO(videos[kind].read_bytes())
    path.write_bytes(content.read(2000))
    left = []  # bytes that are not written when the reader begins to wait

    def write_more(self):
        left.append(len(content.getbuffer()) - content.tell())
        with open(path, "ab") as growing:
            growing.write(content.read(500))

    monkeypatch.setattr(live_module.GrowingFile, "_wait", write_more)
    with follow_video(path, idle=0.2) as video, open_video(videos[kind]) as reader:
        frames = iter(video)
        first = next(frames)
        assert left[-1] > 1000, "it does not wait for the whole file"
        assert np.array_equal([frame for frame, _ in (first, *frames)], reader.get(range(40)))
    assert path.read_bytes() == content.getvalue()


def test_closing_ends_the_wait_for_more(videos):
    video = follow_video(videos["ts"], idle=1000)
    seen = threading.Event()
    found = []

    def read():
        for item in video:
            found.append(item)
            if len(found) == 20:
                seen.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert seen.wait(20)
    video.close()
    thread.join(20)
    assert not thread.is_alive()
    video.close()
    assert [*video] == []


def test_turned_pictures_come_upright(tmp_path):
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        for value in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * value, np.uint8))))
        container.mux(stream.encode())
    with follow_video(path, idle=0.01) as video, open_video(path) as reader:
        assert np.array_equal([frame for frame, _ in video], reader.get(range(10)))


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("gone.ts", None, "there is no such file"),
        ("text.txt", b"no video\n" * 500, "no video that can be read while it grows|is a text file"),
        ("empty.ts", b"", "no video that can be read while it grows"),
        ("half.mp4", VIDEO.read_bytes()[:3000][::-1], "ordinary MP4 has its index at the end"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:4,\nfile://PLACE/video.ts\n", "no video that can be read|no frame decodes"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile 'video.ts'\n", "no video that can be read|no frame decodes"),
    ],
)
def test_what_cannot_be_followed(tmp_path, videos, name, content, reason):
    path = tmp_path / name
    (tmp_path / "video.ts").write_bytes(videos["ts"].read_bytes())
    if content is not None:
        path.write_bytes(content.replace(b"PLACE", str(tmp_path).encode()))
    with pytest.raises(VideoError, match=reason):
        [*follow_video(path, idle=0.05)]


# Network -------------------------------------------------------------------------------------------------------------


def test_a_recording_on_a_server_waits_for_its_reader(server, videos):
    server.files["/video.mkv"] = videos["mkv"].read_bytes()
    with follow_video(f"{server.url}/video.mkv") as video:
        assert not video.is_live and video.fps == 10
        frames = [frame for frame, _ in video]
    with open_video(videos["mkv"]) as reader:
        assert np.array_equal(frames, reader.get(range(40)))
    assert video.end == ""


class Endless(BaseHTTPRequestHandler):
    """Sends what there is of a stream, and then nothing more until the test is over."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)
        self.wfile.flush()
        self.server.over.wait(60)


@pytest.fixture
def endless():
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.content, server.over, server.daemon_threads = b"", threading.Event(), True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


def test_a_stream_that_stops_sending_ends_after_a_while(endless, videos):
    endless.content = videos["ts"].read_bytes()
    with follow_video(f"http://127.0.0.1:{endless.server_port}/live", idle=1.0) as video:
        assert video.is_live
        assert len([*video]) == 40
    assert video.end == "nothing came any more"


def test_a_server_that_says_nothing_is_given_up(endless):
    with pytest.raises(VideoError, match=r"http://127.0.0.1:\d+/live: nothing came for 0.2 s"):
        follow_video(f"http://127.0.0.1:{endless.server_port}/live", idle=0.2)


@pytest.mark.parametrize(
    "address, reason",
    [
        ("file:///etc/hostname", "file:// cannot be followed: use http"),
        ("concat://a|b", "concat:// cannot be followed"),
    ],
)
def test_only_network_addresses_are_addresses(address, reason):
    with pytest.raises(VideoError, match=reason):
        follow_video(address)


def test_a_playlist_from_elsewhere_cannot_read_local_files(server, videos):
    server.files["/list.m3u8"] = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{videos['ts']}\n#EXT-X-ENDLIST\n".encode()
    )
    server.files["/good.m3u8"] = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nvideo.ts\n#EXT-X-ENDLIST\n"
    server.files["/video.ts"] = videos["ts"].read_bytes()
    with pytest.raises(VideoError):
        [*follow_video(f"{server.url}/list.m3u8", idle=2)]
    with follow_video(f"{server.url}/good.m3u8", idle=2) as video:
        assert len([*video]) == 40
    with pytest.raises(VideoError, match="is not there, or no video"):
        follow_video(f"{server.url}/gone.ts")


def test_ordinary_files_stay_off_the_network(server, videos, tmp_path):
    server.files["/video.ts"] = videos["ts"].read_bytes()
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{server.url}/video.ts\n#EXT-X-ENDLIST\n")
    for read in (open_video, lambda path: [*follow_video(path, idle=0.05)]):
        with pytest.raises(VideoError):
            read(path)
    assert server.log == []


# Cameras -------------------------------------------------------------------------------------------------------------


def test_a_camera_gives_frames_and_times():
    with open_camera(CAMERA, input_format="lavfi") as video:
        assert video.is_live and video.fps == 30
        frames = [*video]
    assert len(frames) == 60 and frames[0][0].shape == (48, 64, 3) and frames[0][0].dtype == np.uint8
    np.testing.assert_allclose([seconds for _, seconds in frames], np.arange(60) / 30)


@pytest.mark.parametrize("device", [99, "/dev/no_camera", "testsrc2=size=64x48"])
def test_a_camera_that_is_not_there(device):
    with pytest.raises(
        VideoError, match=rf"camera {re.escape(str(device))}: cannot be opened .*is it there and free\?"
    ):
        open_camera(device)


def test_a_system_without_numbers_of_cameras(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(VideoError, match="camera 0: cameras have no numbers on this system"):
        open_camera(0)
    with pytest.raises(VideoError, match="camera Front: cannot be opened"):
        open_camera("Front")


# Command line --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command line in this process: exit code, stdout and stderr."""
    monkeypatch.setitem(live_module.CAMERAS, sys.platform, ("lavfi", CAMERA))

    def run(*argv):
        try:
            code = cli.main([str(arg) for arg in argv])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "argv, reason",
    [
        (["predict"], "give one of: VIDEO, --webcam N, --follow URL|FILE"),
        (["predict", VIDEO, "--webcam", "0"], "give one of"),
        (["predict", "--follow", VIDEO, "--webcam", "0"], "give one of"),
        (["predict", VIDEO, "--every", "4"], "--every is for live video"),
        (["predict", VIDEO, "--idle", "4"], "--idle is for live video"),
        (["predict", "--webcam", "0", "--fps", "-1"], "'-1' is not a number above 0"),
        (["predict", "--webcam", "0", "--reader", "torchcodec"], "does not read live video"),
        (["predict", "--webcam", "0", "--out", "page.html"], "name a FILE.jsonl"),
    ],
)
def test_wrong_usage_exits_with_2(run, argv, reason):
    code, out, err = run(*argv)
    assert code == 2 and not out and reason in err


def test_follow_prints_lines_and_writes_them_as_json(run, videos, tmp_path):
    out_file = tmp_path / "scores.jsonl"
    code, out, err = run(
        "predict", "--follow", videos["ts"], "--idle", 0.05, "--every", 5, "--topk", 2, "--out", out_file
    )
    assert code == 0
    stream = Stream(videozoo.create_model(MODEL, pretrained=True), every=5, topk=2)
    with open_video(videos["ts"]) as reader:
        wanted = [scores for i, frame in enumerate(reader.get(range(40))) if (scores := stream.push(frame, i / 10))]
    rows = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert [row["frame"] for row in rows] == [28, 33, 38] and rows[0]["seconds"] == pytest.approx(2.8)
    assert all(row["trained"] and row["model"] == f"{MODEL}.vz" and row["dropped"] == 0 for row in rows)
    for row, scores, line in zip(rows, wanted, out.splitlines(), strict=True):
        assert [(p["label"], p["probability"]) for p in row["predictions"]] == scores.top
        (first, p), (second, q) = scores.top
        assert line == f"{row['seconds']:.1f} s  {first} {100 * p:.1f} %, {second} {100 * q:.1f} %"
    assert re.fullmatch(
        r"videozoo: the file did not grow for 0.05 s: 3 predictions from 40 frames in \d+\.\d s\n"
        rf"videozoo: wrote {re.escape(str(out_file))}\n",
        err,
    )


def test_json_goes_to_the_output(run, videos):
    code, out, _ = run("predict", "--follow", videos["ts"], "--idle", 0.05, "--json", "--fps", 5, "--window", 30)
    assert code == 0 and out == "", "eight seconds are needed, the video has four"
    code, out, _ = run("predict", "--follow", videos["ts"], "--idle", 0.05, "--json", "--every", 11)
    assert code == 0 and [json.loads(line)["frame"] for line in out.splitlines()] == [28, 39]


def not_live(video):
    """The video, treated as a recording: no window is dropped, however slow the machine is."""
    video.is_live, video.path = False, "camera 0"
    return video


def test_a_camera_is_shown_in_a_block_that_stays_in_place(run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(
        live_module, "open_camera", lambda *_, **__: not_live(open_camera(CAMERA, input_format="lavfi"))
    )
    code, out, err = run("predict", "--webcam", 0, "--topk", 3, "--every", 10)
    assert code == 0 and err.startswith("videozoo: the video is over: 4 predictions from 60 frames in ")
    blocks = out.split("\x1b[5A\x1b[J")
    assert len(blocks) == 4
    for number, block in enumerate(blocks, 1):
        lines = block.splitlines()
        assert lines[0].startswith("camera 0, 30 a second  ") and len(lines) == 5
        assert all(re.match(r"  \S.* +\d+\.\d %", line) for line in lines[1:4])
        assert lines[4] == f"  29 frames, every 10: prediction {number}"


def test_random_weights_are_called_so(run):
    code, out, err = run("predict", "--webcam", 0, "--no-pretrained", "--every", 60)
    assert code == 0 and "warning: The weights are random numbers" in err and out.strip().endswith("MEANINGLESS")


def test_ctrl_c_ends_with_a_summary(run, monkeypatch, tmp_path, videos):
    real = Stream.run

    def interrupted(self, *args, **kwargs):
        with closing(real(self, *args, **kwargs)) as results:
            yield next(results)
            raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "run", interrupted)
    out_file = tmp_path / "scores.jsonl"
    code, out, err = run("predict", "--follow", videos["ts"], "--idle", 1000, "--out", out_file)
    assert code == 0 and err.startswith("videozoo: interrupted: 1 predictions from ")
    assert len(out.splitlines()) == len(out_file.read_text().splitlines()) == 1
    for thread in threading.enumerate():
        if thread.name == "videozoo-capture":
            thread.join(20)
            assert not thread.is_alive(), "closing the video ends its thread"


def test_a_missing_camera_is_told_in_one_sentence(run, monkeypatch):
    monkeypatch.setitem(live_module.CAMERAS, sys.platform, ("v4l2", "/dev/no_video{}"))
    code, out, err = run("predict", "--webcam", 0)
    assert (code, out) == (1, "") and re.fullmatch(r"videozoo: camera 0: cannot be opened .*\n", err)


def test_lines_of_a_block_are_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "21")
    output = io.StringIO()
    block = Block(output)
    block.show(["a" * 50, "b"])
    block.show(["c"])
    assert output.getvalue() == "a" * 20 + "\nb\n\x1b[2A\x1b[Jc\n"


def test_a_window_of_a_followed_file_is_what_predict_sees(videos):
    model = videozoo.create_model(MODEL, pretrained=True)
    with follow_video(videos["mkv"], idle=0.01) as video:
        first = next(Stream(model).run(video, drop=False))
    with open_video(videos["mkv"]) as reader:
        window = ArrayReader(reader.get(range(29)))
    assert first.top == videozoo.predict(model, window, views="fast")
