"""Whole training runs: from a folder of videos to a folder that loads, with interruptions, freezing and processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_blocks import INPUT, SIZE, write_videos
from PIL import Image

import videozoo
from videozoo.data.datasets import load_dataset
from videozoo.data.folders import load_folder
from videozoo.models import recognizer
from videozoo.models.r2plus1d import full_block
from videozoo.models.resnet2d import ResNet2d, plain_block
from videozoo.models.resnet3d import ResNet3d, Stem, stage_kernels
from videozoo.models.slowfast import SlowFast
from videozoo.training import TrainConfig, TrainingError, finetune, prepare_model
from videozoo.training import run as run_module

PLAIN = {"hflip": 0.0, "train_crop": "center"}


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


@videozoo.register_model
def shallow_slowfast_2x4(*, num_classes=400, in_chans=3, drop_rate=0.0):
    """A SlowFast network of few layers."""
    options = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
    return SlowFast(18, 18, alpha=4, lateral_kernel=5, **options)


# Videos --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("moves"))


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
            "shallow_slowfast_2x4",
            {"input": INPUT | {"num_frames": 8, "stride": 1}, "epochs": 6, "lr": 1e-3},
        ),
    ],
)
def test_eight_clips_are_learnt_by_heart(name, changes, videos, data, tmp_path):
    """2-D, 3-D and two-pathway networks; the 2-D one sees no motion, but where the blocks are."""
    shared = {"epochs": 12, "batch_size": 8, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.0, "precise_bn": 1}
    result = train_on((data[0], None), tmp_path, settings(**{**shared, **changes}), name)
    assert result.history[-1]["loss"] < 0.25 < 0.5 < result.history[0]["loss"]
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
    facts = {"architecture": "narrow2d_f8"}  # in place of the entry's ResNet-50
    model = prepare_model("tsn_r50_f3_k400_flow", train, config, pretrained=False, pretrained_cfg_overlay=facts)
    assert model.pretrained_cfg["modality"] == "flow" and model.num_classes == 2
    result = finetune(model, train, None, tmp_path / "run", config, device="cpu")
    assert result.history[-1]["loss"] < 0.25


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


@pytest.mark.parametrize(
    ("name", "task"), [("slowonly_r50_4x16_ava21", "detection"), ("slowonly_roi_r50_4x16", "detection")]
)
def test_only_classifiers_are_prepared_for_classes(name, task, data):
    with pytest.raises(ValueError, match=f"{name} is a network for {task}, a classifier of whole videos is expected"):
        prepare_model(name, data[0], settings(), pretrained=False)


# Interruptions -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 3, 5, 6, 7])
def test_resumed_run_equals_an_uninterrupted_one(after, data, tmp_path, monkeypatch):
    """Killed before the first step, in an epoch, before or after its validation, in the probe or after it: same losses,
    same weights."""
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


def test_killed_between_the_files_that_an_epoch_leaves(data, tmp_path, monkeypatch):
    """The model of the first epoch is written, its checkpoint is not: the same call makes both again."""
    save = run_module._Run._save_models

    def save_and_die(self, is_best):
        save(self, is_best)
        (tmp_path / ".checkpoint.pt.0123456789ab.tmp").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_module._Run, "_save_models", save_and_die)
        train_on(data, tmp_path, settings(epochs=2))
    assert [row["epoch"] for row in train_on(data, tmp_path, settings(epochs=2)).history] == [1, 2]
    assert not list(tmp_path.glob(".*")), "what the killed process had not finished"


def test_killed_in_validation(data, tmp_path, monkeypatch):
    """The epoch is not trained again: its checkpoint is older than the validation."""
    config = settings(epochs=1, precise_bn=1)
    whole = train_on(data, tmp_path / "whole", config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("videozoo.training.tasks.evaluate", lambda *args, **kwargs: (_ for _ in ()).throw(Killed()))
        train_on(data, tmp_path / "parts", config)
    lines = []
    rest = train_on(data, tmp_path / "parts", config, log=lines.append)
    assert "going on after 0 epochs and 2 of 2 steps" in lines[0]
    assert {**rest.history[0], "seconds": 0, "clips_per_second": 0} == {
        **whole.history[0],
        "seconds": 0,
        "clips_per_second": 0,
    }
    assert rest.history[0]["seconds"] > 0
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_restarted_run_that_is_killed_does_not_go_on_with_the_old_one(data, tmp_path, monkeypatch):
    train_on(data, tmp_path, settings(epochs=1))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_module._Run, "_train_epoch", lambda *args: (_ for _ in ()).throw(Killed()))
        train_on(data, tmp_path, settings(epochs=1), restart=True)
    lines = []
    train_on(data, tmp_path, settings(epochs=1), log=lines.append)
    assert "going on after 0 epochs and 0 of 2 steps" in lines[0]


def test_longer_patience_goes_on_with_a_stopped_run(data, tmp_path, monkeypatch):
    scores = iter([50.0, 40.0, 60.0, 30.0])
    monkeypatch.setattr(run_module._Run, "_validate", lambda self: {"top1": next(scores)})
    assert len(train_on(data, tmp_path, settings(epochs=4, patience=1)).history) == 2
    assert len(train_on(data, tmp_path, settings(epochs=4, patience=2)).history) == 4


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
    with pytest.raises(TrainingError, match="the loss is nan .* smaller lr"):
        train_on(data, tmp_path / "loss", settings(lr=1e12, clip_grad=0.0))
    with pytest.raises(TrainingError, match="epoch 1 cannot be validated.*smaller lr"):
        train_on(data, tmp_path / "scores", settings(lr=1e36, batch_size=8))


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_seeds(seed, same, data, tmp_path):
    """Equal seeds give equal runs, whoever decodes; other ones begin and go on differently."""
    shared = {"epochs": 1, "dropout": 0.5, "mixup": 0.4, "data": {"hflip": 0.5, "flip_labels": ()}}
    one = train_on(data, tmp_path / "one", settings(**shared))
    two = train_on(data, tmp_path / "two", settings(**shared, seed=seed, workers=1))
    assert (one.history[0]["loss"] == two.history[0]["loss"]) == same
    if same:
        assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_checkpointing_of_blocks_learns_the_same(data, tmp_path, monkeypatch):
    seen = []
    block = recognizer.checkpoint_block
    monkeypatch.setattr(recognizer, "checkpoint_block", lambda *args: seen.append(args) or block(*args))
    plain = train_on(data, tmp_path / "plain", settings(epochs=1))
    assert not seen
    saving = train_on(data, tmp_path / "saving", settings(epochs=1, grad_checkpointing=True))
    assert seen, "blocks are computed again in the backward pass"
    assert saving.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-5)
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "saving")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5, msg=key)


def test_layout_of_the_clips(data, tmp_path):
    """Where the setting asks for it, as on a CPU always, clips enter the network with their channels last."""
    config = settings(epochs=1, channels_last=True)
    train, val = data
    model = new_model(train, config)
    clip = torch.empty(2, 3, 8, 16, 16, device="meta")
    assert not model.prepare_input(clip).is_contiguous(memory_format=torch.channels_last_3d)
    finetune(model, train, val, tmp_path, config, device="cpu")
    assert model.prepare_input(clip).is_contiguous(memory_format=torch.channels_last_3d)
    assert model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)


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
    assert err.count(f"{broken[0]} cannot be read and is replaced by another video") == 1
    assert err.count(f"{broken[1]} cannot be read and is left out of the validation") == 1
    assert result.history[-1]["top1"] >= 0


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
