"""Dense features of videos: the same as window by window, in one pass, resumable, with time stamps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import videozoo
from videozoo.cli import main
from videozoo.data import ArrayReader, open_video, resolve_data_config
from videozoo.data.transforms import ClipTransform
from videozoo.data.windows import BLOCK_FRAMES, WindowTransform, window_centres
from videozoo.features import extract_features, extraction, feature_facts, storage, write_features
from videozoo.models.r2plus1d import full_block
from videozoo.models.resnet2d import ResNet2d, plain_block
from videozoo.models.resnet3d import ResNet3d, Stem, stage_kernels

VIDEO = "tests/data/video/demo_24f_bt709.mp4"
SIZE = 32


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@videozoo.register_model
def features2d_f8(*, num_classes=6, in_chans=3, drop_rate=0.5):
    """A TSN of eight channels."""
    return ResNet2d(18, plain_block(18), base_width=8, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate)


@videozoo.register_model
def features3d_4x2(*, num_classes=6, in_chans=3, drop_rate=0.5):
    """A 3-D ResNet of eight channels."""
    options = {"make_block": full_block, "expansion": 1, "stem": Stem((3, 7, 7)), "base_width": 8}
    return ResNet3d(
        stage_kernels(18, (3, 1, 1, 1)), num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, **options
    )


def network(name="features3d_4x2", **facts):
    torch.manual_seed(0)
    kwargs = {"in_chans": facts["in_chans"]} if "in_chans" in facts else {}
    model = videozoo.create_model(name, **kwargs).eval()
    sampling = {"kind": "dense", "frames": 4, "stride": 2, "segments": 1, "stack": False}
    model.pretrained_cfg |= {"sampling": sampling, "test": {"crops": 3, "size": SIZE, "resize": SIZE}, **facts}
    return model


TSN = {"sampling": {"kind": "uniform", "frames": 1, "stride": 1, "segments": 8, "stack": False}}


class LongReader:
    """A video of many frames, all made when they are asked for, that remembers which were."""

    path, width, height, fps = "long", 8, 8, 25.0

    def __init__(self, count):
        self.count, self.asked = count, []

    def __len__(self):
        return self.count

    def get(self, indices):
        self.asked += list(indices)
        return np.stack([np.full((8, 8, 3), i % 256, np.uint8) for i in indices])

    def close(self):
        pass


def by_hand(model, reader, centres, frames, spacing, logits=False):
    """Each window decoded, transformed and put through the network alone."""
    transform = ClipTransform(resolve_data_config(model=model) | {"crops": 1})
    rows = []
    for centre in centres:
        numbers = [min(max(centre + (i - frames // 2) * spacing, 0), len(reader) - 1) for i in range(frames)]
        clip = transform(reader.get(numbers))
        with torch.inference_mode():
            out = model(clip) if logits else model.forward_head(model.forward_features(clip), pre_logits=True)
        rows.append(out[0].numpy())
    return np.stack(rows)


# What features are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_features_equal_those_of_each_window_alone(batch_size, logits):
    model = network()
    found = extract_features(model, VIDEO, every=3, batch_size=batch_size, logits=logits)
    with open_video(VIDEO) as reader:
        expected = by_hand(model, reader, [1, 4, 7, 10, 13, 16, 19, 22], 4, 2, logits)
    assert found.centres.tolist() == [1, 4, 7, 10, 13, 16, 19, 22]
    assert found.times == pytest.approx(found.centres / 28)
    assert found.values.dtype == np.float32 and found.values.shape == (8, 6 if logits else 64)
    assert np.allclose(found.values, expected, atol=1e-5)


def test_networks_over_single_frames_see_single_frames():
    model = network("features2d_f8", **TSN)
    found = extract_features(model, VIDEO)
    with open_video(VIDEO) as reader:
        assert np.allclose(found.values, by_hand(model, reader, [8], 1, 1), atol=1e-5)
    model.num_frames = 4  # as a network with temporal shift, which is tied to its frames
    assert extraction.window_shape(model, resolve_data_config(model=model)) == (4, 16)


def test_flow_is_stacked_around_each_centre(tmp_path):
    rng = np.random.default_rng(0)
    fields = rng.integers(0, 256, (20, SIZE, SIZE, 2), np.uint8)
    for number, field in enumerate(fields, 1):
        for channel, axis in enumerate("xy"):
            Image.fromarray(field[..., channel]).save(tmp_path / f"flow_{axis}_{number:05d}.png")
    facts = {"in_chans": 10, "modality": "flow", "mean": [128.0] * 2, "std": [128.0] * 2, "value_range": [0.0, 255.0]}
    model = network(
        "features2d_f8", **facts, sampling={"kind": "uniform", "frames": 5, "stride": 1, "segments": 8, "stack": True}
    )
    found = extract_features(model, tmp_path, every=8, logits=True)
    clips = [np.clip(np.arange(c - 2, c + 3), 0, 19) for c in (4, 12)]
    x = torch.from_numpy(np.stack([fields[i] for i in clips]).astype(np.float32))  # (2, 5, H, W, 2)
    x = (x.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, :, None] - 128) / 128
    with torch.inference_mode():
        assert np.allclose(found.values, model(x).numpy(), atol=1e-5)
    assert found.times.tolist() == [4, 12], "frames, where the speed is not known"


def test_windows_lie_as_those_of_the_published_features():
    assert window_centres(48, 16).tolist() == [8, 24, 40]
    assert window_centres(41, 16).tolist() == [8, 24, 40]
    assert window_centres(5, 16).tolist() == [2], "a short video has one window all the same"
    with pytest.raises(ValueError, match="at least 1"):
        window_centres(0, 16)


# One pass, bounded memory --------------------------------------------------------------------------------------------


def test_every_frame_is_read_once_and_few_are_held():
    reader = LongReader(3000)
    config = resolve_data_config(model=network()) | {"size": 8, "resize": None}
    transform = WindowTransform(config, frames=8, spacing=2)
    centres = window_centres(len(reader), 4)
    stream, most = transform.stream(reader, centres), 0
    for number, window in enumerate(stream):
        wanted = np.clip(centres[number] + (np.arange(8) - 4) * 2, 0, 2999) % 256
        assert window[:, 0, 0, 0].tolist() == wanted.tolist()
        most = max(most, len(stream.gi_frame.f_locals["held"]))
    assert number == len(centres) - 1
    assert len(reader.asked) == len(set(reader.asked)) and reader.asked == sorted(reader.asked)
    assert most <= BLOCK_FRAMES


def test_a_file_is_decoded_in_one_pass(monkeypatch):
    decoded = []
    reader = open_video("tests/data/video/demo.mp4")
    decode = type(reader)._decode
    monkeypatch.setattr(type(reader), "_decode", lambda self, packet: decoded.append(packet) or decode(self, packet))
    extract_features(network(), reader, every=7)
    assert len(decoded) < 1.1 * len(reader), "overlapping windows must not be decoded anew"
    reader.close()


def test_frames_that_turn_out_to_be_missing_place_the_windows_anew():
    class Damaged(ArrayReader):
        def _read(self, indices):
            if indices[-1] >= 20:
                self._count = 20
            return super()._read(indices[indices < 20])

    frames = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
    model = network()
    found = extract_features(model, Damaged(frames, fps=10.0), every=8)
    assert np.allclose(found.values, extract_features(model, ArrayReader(frames[:20]), every=8).values, atol=1e-6)
    assert found.video["frames"] == 20 and found.centres.tolist() == [4, 12]


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_files_of_all_formats_hold_the_same(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(storage, "PART", 3)
    monkeypatch.setattr(extraction, "PART", 3)
    model = network()
    expected = extract_features(model, VIDEO, every=3)
    for suffix in ("npy", "csv", "safetensors"):
        facts = write_features(model, VIDEO, tmp_path / f"{suffix}.{suffix}", every=3, workers=workers)
        assert facts["shape"] == [8, 64] and facts["times"] == pytest.approx(expected.times, abs=1e-6)
    assert np.allclose(np.load(tmp_path / "npy.npy"), expected.values, atol=1e-6)
    text = (tmp_path / "csv.csv").read_text().splitlines()
    assert text[0].startswith("f0,f1,f2")
    assert np.allclose(np.loadtxt(text[1:], delimiter=","), expected.values, atol=1e-6)
    tensors = load_file(tmp_path / "safetensors.safetensors")
    assert np.allclose(tensors["features"], expected.values, atol=1e-6)
    assert tensors["times"] == pytest.approx(expected.times)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [], "parts are gone"


def test_a_killed_run_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PART", 2)
    monkeypatch.setattr(extraction, "PART", 2)
    model, out = network(), tmp_path / "video.npy"
    seen, forward = [], model.forward_features

    def stop_in_the_fourth(x):
        seen.append(len(x))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return forward(x)

    model.forward_features = stop_in_the_fourth
    with pytest.raises(KeyboardInterrupt):
        write_features(model, VIDEO, out, every=3)
    assert not out.exists() and len(list((tmp_path / ".video.parts").glob("*.npy"))) == 2
    model.forward_features = lambda x: seen.append(len(x)) or forward(x)
    seen.clear()
    write_features(model, VIDEO, out, every=3)
    assert sum(seen) == 4, "the four windows of the parts that were there are not computed anew"
    assert np.allclose(np.load(out), extract_features(model, VIDEO, every=3).values, atol=1e-6)
    seen.clear()
    again = write_features(model, VIDEO, out, every=3)
    assert not seen and again == feature_facts(out)


def test_features_of_another_run_are_not_mixed_in(tmp_path):
    model, out = network(), tmp_path / "video.npy"
    write_features(model, VIDEO, out, every=6)
    with pytest.raises(ValueError, match=r"video.npy holds features of another run \(window differ\)"):
        write_features(model, VIDEO, out, every=3)
    torch.nn.init.ones_(model.fc.weight)
    with pytest.raises(ValueError, match=r"\(weights differ\): give another folder"):
        write_features(model, VIDEO, out, every=6)
    (tmp_path / ".other.parts").mkdir()
    (tmp_path / ".other.parts" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        write_features(model, VIDEO, tmp_path / "other.npy")


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="every=0 must be at least 1"):
        extract_features(network(), VIDEO, every=0)
    with pytest.raises(ValueError, match="must end in .npy"):
        write_features(network(), VIDEO, "features.txt")
    with pytest.raises(ValueError, match="bmn does not take frames"):
        extract_features(videozoo.create_model("bmn"), VIDEO)
    with pytest.raises(ValueError, match="ssn_r50 has no scores of classes"):
        extract_features(videozoo.create_model("ssn_r50"), VIDEO, logits=True)
    with pytest.raises(ValueError, match="workers open the video by its path"):
        extract_features(network(), LongReader(5), workers=1)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_files_and_reports_bad_videos(tmp_path, capsys):
    model = network()
    videozoo.save_pretrained(model, tmp_path / "model")
    (tmp_path / "bad.mp4").write_bytes(b"")
    out = tmp_path / "out"
    options = ["--model", f"local-dir:{tmp_path / 'model'}", "--out", str(out), "--device", "cpu", "--every", "5"]
    code = main(["features", str(tmp_path / "bad.mp4"), VIDEO, *options, "--logits", "--format", "csv"])
    text, err = capsys.readouterr()
    assert code == 1 and "bad.mp4: the file is empty" in err
    assert text == f"{out / 'demo_24f_bt709.csv'}: 5 windows of 6 logits\n"
    facts = json.loads((out / "demo_24f_bt709.json").read_text())
    assert facts["output"] == "logits" and facts["video"]["frames"] == 24 and len(facts["times"]) == 5
    assert main(["features", VIDEO, *options, "--logits", "--format", "csv"]) == 0, "nothing is left to do"
    with pytest.raises(SystemExit) as leaving:
        main(["features", VIDEO, "elsewhere/demo_24f_bt709.avi", *options])
    assert leaving.value.code == 2 and "several videos are called demo_24f_bt709" in capsys.readouterr().err
