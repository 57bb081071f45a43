"""Whole training runs: from a folder of videos to a folder that loads, with interruptions, freezing and processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import videozoo
from videozoo.cli import main
from videozoo.data.datasets import load_dataset
from videozoo.data.folders import load_folder
from videozoo.models.r2plus1d import full_block
from videozoo.models.resnet2d import ResNet2d, plain_block
from videozoo.models.resnet3d import ResNet3d, Stem, stage_kernels
from videozoo.training import TrainConfig, TrainingError, finetune, prepare_model
from videozoo.training import run as run_module

SIZE, FRAMES = 32, 8
INPUT = {"size": SIZE, "resize": SIZE, "clips": 1, "crops": 1}
PLAIN = {"hflip": 0.0, "train_crop": "center"}
ROOT = Path(videozoo.__file__).parent.parent


@videozoo.register_model
def narrow2d_f8(*, num_classes=400, in_chans=3, drop_rate=0.0):
    """A TSN of eight channels."""
    return ResNet2d(
        18, plain_block(18), base_width=8, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, init_std=0.1
    )


@videozoo.register_model
def narrow3d_8x1(*, num_classes=400, in_chans=3, drop_rate=0.0):
    """A 3-D ResNet of eight channels."""
    options = {"make_block": full_block, "expansion": 1, "stem": Stem((3, 7, 7)), "base_width": 8, "init_std": 0.1}
    return ResNet3d(
        stage_kernels(18, (3, 1, 1, 1)), num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, **options
    )


# Videos --------------------------------------------------------------------------------------------------------------


def moving_block(right: bool, seed: int, count: int = 12) -> np.ndarray:
    """uint8 frames (T, H, W, 3): a bright block over a dark ground that moves to one side; the ground tells nothing."""
    rng = np.random.default_rng(seed)
    frames = np.full((count, SIZE, SIZE + 16, 3), rng.integers(0, 80, 3), np.uint8)
    y, color = rng.integers(4, 16), rng.integers(160, 256, 3)
    for t in range(count):
        x = 2 + 3 * t if right else SIZE + 2 - 3 * t
        frames[t, y : y + 10, max(x, 0) : x + 10] = color
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos a class for training and two for validation."""
    root = tmp_path_factory.mktemp("moves")
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        for right, name in ((False, "left"), (True, "right")):
            for number in numbers:
                write_video(root / split / name / f"{number}.mp4", moving_block(right, 10 * number + right))
    return root


@pytest.fixture(scope="module")
def data(videos):
    train = load_folder(videos, "train")
    return train, load_folder(videos, "val", class_names=train.class_names)


def settings(**changes):
    defaults = {
        "epochs": 4,
        "probe_epochs": 0,
        "batch_size": 4,
        "lr": 0.02,
        "scale_lr": False,
        "input": INPUT,
        "data": PLAIN,
    }
    return TrainConfig(**{**defaults, **changes})


def new_model(train, config, name="narrow3d_8x1"):
    torch.manual_seed(0)
    return prepare_model(name, train, config, pretrained=False)


def train_on(data, folder, config, name="narrow3d_8x1", **kwargs):
    train, val = data
    return finetune(new_model(train, config, name), train, val, folder, config, device="cpu", **kwargs)


def weights(folder):
    return videozoo.checkpoint.load_state_dict(Path(folder) / "model.safetensors")


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, msg=key)


# Learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("narrow2d_f8", {"input": INPUT | {"segments": 4, "clips": 4}}),
        ("narrow3d_8x1", {}),
        (
            "slowfast_r50_8x8",
            {"input": INPUT | {"num_frames": 8, "stride": 1, "clips": 1, "crops": 1}, "epochs": 12, "precise_bn": 1},
        ),
    ],
)
def test_eight_clips_are_learnt_by_heart(name, changes, videos, data, tmp_path):
    """2-D, 3-D and two-pathway networks; the 2-D one sees no motion, but where the blocks are."""
    config = settings(
        **{"epochs": 20, "batch_size": 8, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.0, **changes}
    )
    result = train_on((data[0], None), tmp_path, config, name)
    assert result.history[-1]["loss"] < 0.1 < 0.5 < result.history[0]["loss"]
    model = videozoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    right = sum(
        videozoo.predict(model, data[0].path(number), topk=1)[0][0] == data[0].class_names[sample.label]
        for number, sample in enumerate(data[0].samples)
    )
    assert right == 8


def test_eight_clips_of_flow_are_learnt_by_heart(tmp_path):
    """Folders of flow images as the published flow models take them."""
    root = tmp_path / "flow"
    lines = []
    for number in range(8):
        folder = root / "rawframes_train" / f"v{number}"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(number)
        for t in range(1, 7):
            for axis in "xy":
                value = 128 + (40 if number % 2 else -40) * (axis == "x")
                field = np.clip(value + rng.integers(-9, 10, (SIZE, SIZE)), 0, 255).astype(np.uint8)
                Image.fromarray(field).save(folder / f"{axis}_{t:05d}.jpg", quality=95)
        lines.append(f"v{number} 6 {number % 2}")
    (root / "train.txt").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("left\nright\n")
    train = load_folder(root, "train", annotations=root / "train.txt", modality="flow")
    flow = {"num_frames": 5, "stride": 1, "segments": 1, "clips": 1, "crops": 1}
    config = settings(epochs=15, batch_size=8, optimizer="adamw", lr=2e-3, input=INPUT | flow)
    torch.manual_seed(0)
    model = prepare_model("tsn_r50_f3_k400_flow", train, config, pretrained=False)
    assert model.pretrained_cfg["modality"] == "flow" and model.num_classes == 2
    result = finetune(model, train, None, tmp_path / "run", config, device="cpu")
    assert result.history[-1]["loss"] < 0.1


def test_probe_then_whole_network(data, tmp_path):
    """The classifier learns alone for an epoch, with its trunk's statistics at rest; then everything learns."""
    config = settings(epochs=2, probe_epochs=1)
    model = new_model(data[0], config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen = {}

    def look(text):
        if text.startswith("epoch"):
            seen[len(seen)] = {key: value.clone() for key, value in model.state_dict().items()}

    finetune(model, *data, tmp_path, config, device="cpu", log=look)
    changed = {key for key in before if not torch.equal(before[key], seen[0][key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert all(not torch.equal(before[key], seen[1][key]) for key in before if key.endswith("weight"))


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({"freeze_stages": 2}, lambda key: key.startswith(("conv1", "bn1", "layer1"))),
        ({"freeze_bn": "statistics"}, lambda key: "running" in key or "num_batches" in key),
        ({"freeze_bn": "partial"}, lambda key: ".bn" in key or "downsample.1" in key),
    ],
)
def test_frozen_parts_do_not_move(changes, still, data, tmp_path):
    config = settings(epochs=1, **changes)
    model = new_model(data[0], config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    finetune(model, data[0], None, tmp_path, config, device="cpu")
    after = weights(tmp_path)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == still(key), key


def test_everything_at_once(data, tmp_path):
    """The settings that change what a step does work together."""
    config = settings(
        epochs=2, mixup=0.8, cutmix=1.0, label_smoothing=0.1, repeats=2, class_balanced=True, accumulate=2,
        batch_size=2, ema=0.9, dropout=0.2, precision="bf16", layer_decay=0.8, warmup_epochs=1, schedule="step",
        milestones=(1,), workers=1, logger="tensorboard", nesterov=True, clip_grad=1.0,
    )  # fmt: skip
    result = train_on(data, tmp_path, config)
    assert len(result.history) == 2 and all(np.isfinite(row["loss"]) for row in result.history)
    assert list((tmp_path / "tensorboard").iterdir())


def test_precise_statistics(data, tmp_path):
    """The kept running statistics are those of the training clips under the kept weights."""
    config = settings(epochs=1, precise_bn=2)
    train_on((data[0], None), tmp_path, config)
    model = videozoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    transform = videozoo.create_transform(model, is_training=True, **PLAIN)
    rng = np.random.default_rng(0)
    clips = torch.stack([transform(data[0].path(i), rng) for i in range(8)])
    first = model.conv1(clips)
    torch.testing.assert_close(model.bn1.running_mean, first.mean((0, 2, 3, 4)), rtol=0.1, atol=0.05)


def test_accumulated_passes_equal_one_large_batch(data, tmp_path):
    """With the statistics of batch norms at rest, which see the parts of a batch."""
    shared = {"epochs": 2, "freeze_bn": "statistics", "lr": 0.01, "scale_lr": False}
    train_on(data, tmp_path / "one", settings(batch_size=8, **shared))
    train_on(data, tmp_path / "two", settings(batch_size=4, accumulate=2, **shared))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5, msg=key)


# Interruptions -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 3, 4, 5])
def test_resumed_run_equals_an_uninterrupted_one(after, data, tmp_path, monkeypatch):
    """Killed within an epoch or at its end, in the probe or after it: same losses, same weights."""
    config = settings(
        epochs=4, probe_epochs=1, batch_size=2, checkpoint_every=1, dropout=0.5, mixup=0.4, ema=0.9, momentum=0.9
    )
    whole = train_on(data, tmp_path / "whole", config)
    save, calls = run_module._Run._save_checkpoint, []

    def save_and_die(self):
        save(self)
        calls.append(1)
        if len(calls) == after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_module._Run, "_save_checkpoint", save_and_die)
        train_on(data, tmp_path / "parts", config)
    rest = train_on(data, tmp_path / "parts", config)
    for a, b in zip(whole.history, rest.history, strict=True):
        assert {k: a[k] for k in ("epoch", "lr", "loss", "top1")} == {k: b[k] for k in ("epoch", "lr", "loss", "top1")}
    assert_same_weights(tmp_path / "whole" / "last", tmp_path / "parts" / "last")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_folders_of_other_runs_are_refused(data, tmp_path):
    config = settings(epochs=1)
    first = train_on(data, tmp_path, config)
    again = train_on(data, tmp_path, config)  # it is finished
    assert again.history == first.history
    with pytest.raises(ValueError, match=r"other settings \(lr 0.02 -> 0.5"):
        train_on(data, tmp_path, settings(epochs=1, lr=0.5))
    assert len(train_on(data, tmp_path, settings(epochs=2), restart=True).history) == 2
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged"):
        train_on(data, tmp_path, config)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="holds a model"):
        train_on(data, tmp_path, config)


def test_early_stop_and_best_model(data, tmp_path, monkeypatch):
    """The kept model is that of the best validation, the run ends when it stays away."""
    scores = iter([50.0, 75.0, 60.0, 70.0, 99.0])
    monkeypatch.setattr(run_module._Run, "_validate", lambda self: {"top1": next(scores)})
    result = train_on(data, tmp_path, settings(epochs=5, patience=2))
    assert [row["top1"] for row in result.history] == [50.0, 75.0, 60.0, 70.0]
    assert result.best["epoch"] == 2
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["metrics"][0]["top1"] == 75.0
    assert any(not torch.equal(weights(tmp_path)[key], value) for key, value in weights(tmp_path / "last").items())


def test_loss_that_is_no_number_stops_the_run(data, tmp_path):
    with pytest.raises(TrainingError, match="smaller lr"):
        train_on(data, tmp_path, settings(lr=1e12, clip_grad=0.0))


# Data ----------------------------------------------------------------------------------------------------------------


def test_unreadable_videos_are_named_once(videos, tmp_path, capsys):
    root = tmp_path / "data"
    for split in ("train", "val"):
        for path in (videos / split).glob("*/*.mp4"):
            copy = root / split / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    broken = [root / "train" / "left" / "9.mp4", root / "val" / "right" / "9.mp4"]
    for path in broken:
        path.write_bytes(b"no video")
    train = load_folder(root, "train")
    val = load_folder(root, "val", class_names=train.class_names)
    result = train_on((train, val), tmp_path / "run", settings(epochs=3))
    err = capsys.readouterr().err
    assert err.count(str(broken[0])) == 1 and err.count("right/9.mp4") == 1
    assert result.history[-1]["top1"] >= 0


# The command line ----------------------------------------------------------------------------------------------------


TINY = [
    "--input",
    "size=32",
    "resize=32",
    "segments=4",
    "clips=4",
    "crops=1",
    "--transform",
    "hflip=0",
    "--device",
    "cpu",
]
TINY += ["--epochs", "2", "--probe-epochs", "1", "--batch-size", "4"]


def test_command_line_from_videos_to_prediction(videos, tmp_path, capsys):
    """finetune, then info, predict and eval on what it leaves; the second call finds the run finished."""
    run = tmp_path / "run"
    command = ["finetune", str(videos), "--model", "tsn_r18_f8", "--no-pretrained", "--out", str(run), *TINY]
    assert main(command) == 0
    err = capsys.readouterr().err
    assert "learning rate 0.000625 (0.01 for 64 clips, scaled)" in err and "epoch 2/2" in err
    assert (run / "labels.txt").read_text() == "left\nright\n"
    assert (run / "curves.svg").read_text().startswith("<svg")
    assert "tsn_r18_f8" in (run / "README.md").read_text()
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"] and float(rows[0]["top1"]) >= 0
    assert main(command) == 0
    assert "epoch 2/2" not in capsys.readouterr().err

    assert main(["predict", str(videos / "val/left/4.mp4"), "--model", f"local-dir:{run}"]) == 0
    out = capsys.readouterr().out
    assert "left" in out and "right" in out
    assert main(["eval", f"local-dir:{run}", "--data", str(videos)]) == 0
    kept = max(rows, key=lambda row: (float(row["top1"]), int(row["epoch"])))
    assert f"{float(kept['top1']):.2f}" in capsys.readouterr().out


def test_command_line_holds_out_and_warns_of_leaks(videos, tmp_path, capsys):
    root = tmp_path / "data"
    for split in ("train", "val"):
        for number, path in enumerate(sorted((videos / "train").glob("*/*.mp4"))):
            if split == "train" or number == 0:
                copy = root / split / path.parent.name / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    shared = ["--model", "tsn_r18_f8", "--no-pretrained", *TINY, "--epochs", "1"]
    assert main(["finetune", str(root), "--out", str(tmp_path / "a"), *shared]) == 0
    assert "1 validation videos are also trained on" in capsys.readouterr().err
    assert main(["finetune", str(root), "--out", str(tmp_path / "b"), "--hold-out", "0.25", *shared]) == 0
    assert "6 training videos, 2 for validation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "slowfast_r50"], "slowfast_r50"),
        (["--model", "tsn_r18_f8"], "weights"),
        (["--model", "tsn_r18_f8", "--no-pretrained", "--transform", "hlfip=0"], "hflip"),
        (["--model", "tsn_r18_f8", "--no-pretrained", "--input", "hflip=0"], "input"),
        (["--model", "tsn_r18_f8", "--no-pretrained", "--recipe", "tns"], "no recipe 'tns'"),
        (["--model", "tsn_r18_f8", "--no-pretrained", "--epochs", "0"], "epochs=0"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(options, message, videos, tmp_path, capsys):
    assert main(["finetune", str(videos), "--out", str(tmp_path / "run"), *options]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


# Processes -----------------------------------------------------------------------------------------------------------


def test_two_processes_equal_one(videos, tmp_path):
    """The same global batch, with batch norms at rest: they see each process's clips."""
    options = ["--model", "tsn_r18_f8", "--no-pretrained", *TINY, "--freeze-bn", "statistics", "--dropout", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1"}
    command = ["-m", "videozoo", "finetune", str(videos), *options]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    for launch, size, name in ((two, 2, "two"), ([sys.executable, *command], 4, "one")):
        call = [*launch, "--batch-size", str(size), "--out", str(tmp_path / name)]
        done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch 2/2") == 1
    one, two = (weights(tmp_path / name / "last") for name in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5, msg=key)
    losses = [[row["loss"] for row in csv.DictReader((tmp_path / n / "log.csv").open())] for n in ("one", "two")]
    np.testing.assert_allclose(np.array(losses[0], float), np.array(losses[1], float), rtol=1e-5)


def test_registered_data_sets_train_too(videos, tmp_path):
    """A data set by name, with its own list and classes."""
    root = tmp_path / "jester"
    (root / "videos_train").mkdir(parents=True)
    lines = []
    for number, path in enumerate(sorted((videos / "train").glob("*/*.mp4"))):
        (root / "videos_train" / f"{number}.mp4").write_bytes(path.read_bytes())
        lines.append(f"{number}.mp4 {number}")
    (root / "jester_train_list_videos.txt").write_text("\n".join(lines) + "\n")
    train = load_dataset("jester", root, split="train")
    config = settings(epochs=1)
    model = prepare_model("narrow3d_8x1", train, config, pretrained=False)
    finetune(model, train, None, tmp_path / "run", config, device="cpu")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pretrained_cfg"]["dataset"] == "jester" and config["num_classes"] == 27
