"""Training of detectors: clips and boxes, whole runs, and the published schedules."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detection_data import LEFT, RIGHT, write_ava, write_jhmdb

import videozoo
from videozoo import catalog
from videozoo.cli import main
from videozoo.data import ava, resolve_data_config
from videozoo.data.detection import load_detection
from videozoo.models.detector import ResNet3dDetector
from videozoo.models.r2plus1d import full_block
from videozoo.models.resnet3d import Stem, stage_kernels
from videozoo.training import TrainConfig, find_recipe, finetune, prepare_model
from videozoo.training.persons import PersonClips, collate_persons
from videozoo.training.recipes import describe

TALK, STAND = 79, 12
INPUT = {"num_frames": 2, "stride": 4, "size": 64, "resize": 64, "clips": 1, "crops": 0}
PUBLISHED = {  # configuration: clips a GPU, learning rate, hash of the weights that it began with
    "slowfast_context_kinetics_pretrained_r50_4x16x1_20e_ava_rgb": (9, 0.1125, "bcde7ed7"),
    "slowfast_kinetics_pretrained_r50_4x16x1_20e_ava_rgb": (9, 0.1125, "bcde7ed7"),
    "slowfast_kinetics_pretrained_r50_8x8x1_20e_ava_rgb": (5, 0.075, "73547d2b"),
    "slowonly_kinetics_pretrained_r101_8x8x1_20e_ava_rgb": (6, 0.075, "0c730aef"),
    "slowonly_kinetics_pretrained_r50_4x16x1_20e_ava_rgb": (16, 0.2, "a69556c6"),
    "slowonly_kinetics_pretrained_r50_4x16x1_20e_ava_rgb_custom_classes": (16, 0.2, "a69556c6"),
    "slowonly_omnisource_pretrained_r101_8x8x1_20e_ava_rgb": (6, 0.075, "b5dbb701"),
    "slowonly_omnisource_pretrained_r50_4x16x1_20e_ava_rgb": (16, 0.2, "51b1f7ea"),
}


@videozoo.register_model
def narrow_roi_2x4(*, num_classes=80, in_chans=3, drop_rate=0.0):
    """A detector of eight channels."""
    options = {"make_block": full_block, "expansion": 1, "stem": Stem((1, 7, 7)), "base_width": 8, "init_std": 0.1}
    return ResNet3dDetector(
        stage_kernels(18, (1, 1, 1, 1)), num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, **options
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_ava(tmp_path_factory.mktemp("ava"))


@pytest.fixture(scope="module")
def data(root):
    """Two of the eighty classes, as a user chooses his own."""
    return tuple(load_detection("ava21", root, split, classes=[TALK, STAND]) for split in ("train", "val"))


def settings(**changes):
    defaults = {"epochs": 8, "probe_epochs": 0, "batch_size": 4, "lr": 0.05, "scale_lr": False, "input": INPUT}
    return TrainConfig(**{**defaults, "data": {"hflip": 0.0}, **changes})


def train_on(data, folder, config, **kwargs):
    train, val = data
    model = prepare_model("narrow_roi_2x4", train, config, pretrained=False)
    return finetune(model, train, val, folder, config, device="cpu", **kwargs)


def weights(folder):
    return videozoo.checkpoint.load_state_dict(folder / "model.safetensors")


# Clips ---------------------------------------------------------------------------------------------------------------


def training_clips(data, **options):
    model = prepare_model("narrow_roi_2x4", data, settings(), pretrained=False)
    config = resolve_data_config(options, model=model, use_test_size=False)
    return PersonClips(data, ava.KeyFrameTransform(config, is_training=True))


def test_clips_teach_the_persons_and_the_proposals_that_cover_them(data):
    clips = training_clips(data[0], hflip=0.5)
    for epoch in range(6):
        clip = clips[epoch, 2, 0]
        assert clip.frames.shape == (2, 64, 64, 3) and clip.frames.dtype == torch.uint8
        assert len(clip.boxes) == 4 and (clip.targets.sum(1) == 1).all(), "the proposal of nobody is left out"
        for box, target in zip(clip.boxes, clip.targets, strict=True):
            x1, y1, x2, y2 = (round(v) for v in box.tolist())
            person = clip.frames[0, y1 + 4 : y2 - 4, x1 + 2 : x2 - 2].float()
            if person.shape[1] > 4:
                assert (person.mean() < 180) == (target.tolist() == [1, 0]), "striped persons talk, white ones stand"
    again, other = clips[5, 2, 0], clips[6, 2, 0]
    assert torch.equal(clip.frames, again.frames) and torch.equal(clip.boxes, again.boxes)
    assert not torch.equal(clip.boxes, other.boxes)
    batch = collate_persons([clips[0, 0, 0], clips[0, 2, 0]])
    assert batch.frames.shape == (2, 2, 64, 64, 3) and [len(rows) for rows in batch.boxes] == [4, 4]
    assert batch.targets.shape == (8, 2) and len(batch) == 2
    moved = training_clips(data[0], hflip=0.5, box_jitter=0.1)[5, 2, 0]
    assert torch.equal(moved.frames, clip.frames) and not torch.equal(moved.boxes, clip.boxes)
    assert (moved.boxes - clip.boxes).abs().max() < 8


def test_unread_films_are_replaced_and_told(tmp_path):
    root = write_ava(tmp_path / "ava")
    (root / "videos" / "film1.mp4").write_bytes(b"no film")
    data = load_detection("ava21", root, "train", classes=[TALK, STAND])
    clip = training_clips(data)[0, 1, 0]
    assert clip.number != 1 and list(clip.unread) == [str(root / "videos" / "film1.mp4")]
    for path in (root / "videos").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of 4 films of .* can be read"):
        training_clips(data)[0, 1, 0]


def test_crops_that_are_larger_than_the_frames_are_refused(data):
    for options in ({"size": 65}, {"resize": (64, 64)}):
        with pytest.raises(ValueError, match="make it a number from size on"):
            training_clips(data[0], **options)


# Runs ----------------------------------------------------------------------------------------------------------------


def test_four_films_are_learnt_by_heart(data, tmp_path):
    result = train_on(data, tmp_path, settings(epochs=40))
    assert result.history[-1]["loss"] < 0.15 and result.best["mAP"] == pytest.approx(100)
    model = videozoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    cfg = model.pretrained_cfg
    assert cfg["label_names"] == data[0].class_names and cfg["task"] == "detection" and cfg["dataset"] == "ava21"
    assert cfg["metrics"][0]["mAP"] == pytest.approx(100)
    card = (tmp_path / "README.md").read_text()
    assert "A detector of persons' actions" in card and "videozoo detect clip.mp4" in card
    assert (tmp_path / "labels.txt").read_text().splitlines() == data[0].class_names


def test_an_interrupted_run_equals_a_whole_one(data, tmp_path):
    class Killed(BaseException):
        pass

    config = settings(epochs=3, batch_size=2, checkpoint_every=1, dropout=0.5, ema=0.5, data={"hflip": 0.5})
    whole = train_on(data, tmp_path / "whole", config)
    lines = []

    def log(text):
        lines.append(text)
        if text.startswith("epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        train_on(data, tmp_path / "parts", config, log=log)
    rest = train_on(data, tmp_path / "parts", config)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in rest.history]
    for key, value in weights(tmp_path / "whole" / "last").items():
        assert torch.equal(value, weights(tmp_path / "parts" / "last")[key]), key
    train, val = data
    other = type(train)(**{**vars(train), "frames": train.frames[:3] + train.frames[:1]})
    with pytest.raises(ValueError, match="holds a run with other settings"):
        train_on((other, val), tmp_path / "parts", config)


def test_videos_with_tubes_are_learnt_and_measured(tmp_path):
    root = write_jhmdb(tmp_path)
    rows = {
        (f"{name}/v{i}", t): np.array([LEFT, RIGHT]) for i, name in enumerate(("stand", "talk")) for t in range(1, 7)
    }
    ava.write_proposals(rows, tmp_path / "p.json")
    train = load_detection("jhmdb", root, "train", is_training=True)
    val = load_detection("jhmdb", root, proposals=tmp_path / "p.json")
    result = train_on((train, val), tmp_path / "run", settings(epochs=4, lr=0.02, input={**INPUT, "stride": 1}))
    assert {"frame_mAP", "video_mAP_0.2", "video_mAP_0.5"} <= result.history[0].keys()
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.2}, "mixup=0.2 is for classifiers of whole videos"),
        ({"precise_bn": 2}, "precise_bn=2 is for classifiers"),
        ({"data": {"color_jitter": (0.1, 0.1, 0.1, 0.1)}}, "not augmented by color_jitter: they know hflip"),
    ],
)
def test_settings_without_meaning_are_refused(changes, message, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_on(data, tmp_path, settings(**changes))


def test_networks_of_another_task_are_refused(data):
    with pytest.raises(ValueError, match="network for recognition, a detector of persons' actions is expected here"):
        prepare_model("slowfast_r50_k400", data[0], settings(), pretrained=False)


# Commands ------------------------------------------------------------------------------------------------------------


def run_cli(capsys, *arguments):
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        code = leaving.code
    return (code, *capsys.readouterr())


def test_the_command_trains_and_its_result_is_measured_and_used(root, tmp_path, capsys):
    out = tmp_path / "mine"
    pairs = [f"{key}={value}" for key, value in INPUT.items()]
    code, _, err = run_cli(
        capsys, "finetune", root, "--dataset", "ava21", "--classes", TALK, STAND, "--model", "narrow_roi_2x4",
        "--no-pretrained", "--out", out, "--device", "cpu", "--epochs", 2, "--probe-epochs", 1, "--batch-size", 2,
        "--input", *pairs,
    )  # fmt: skip
    assert code == 0, err
    assert "2 classes; 2 steps an epoch" in err and "try it: videozoo detect VIDEO" in err and "mAP" in err
    code, text, err = run_cli(capsys, "eval", f"local-dir:{out}", "--data", root, "--device", "cpu")
    assert code == 0 and "4 key frames measured" in text, err
    (tmp_path / "boxes.json").write_text(json.dumps({"frames": {"0": [[4, 12, 43, 51]]}}))
    video = root / "videos" / "film0.mp4"
    code, text, err = run_cli(
        capsys, "detect", video, "--model", f"local-dir:{out}", "--boxes", tmp_path / "boxes.json", "--json"
    )
    assert code == 0, err
    actions = json.loads(text)["persons"][0]["actions"]
    assert set(actions) == {"talk to (e.g., self, a person, a group)", "stand"}
    code, _, err = run_cli(capsys, "finetune", root, "--model", "narrow_roi_2x4", "--classes", 12)
    assert code == 2 and "--dataset ava21" in err
    code, _, err = run_cli(capsys, "finetune", root, "--dataset", "ava21", "-m", "narrow_roi_2x4", "--hold-out", "0.2")
    assert code == 2 and "ava21 has boxes" in err


def test_two_processes_learn_what_one_does(root, tmp_path):
    """Under torchrun each takes half of a batch. Films of training that validate are told of, once."""
    pairs = [f"{key}={value}" for key, value in INPUT.items()]
    lines = [
        "import os, sys",
        f"sys.path[:0] = [{str(Path(videozoo.__file__).parent.parent)!r}, {str(Path(__file__).parent)!r}]",
        "import test_detection_training",
        "from videozoo.cli import main",
        "sys.exit(main(sys.argv[1:]))",
    ]
    (tmp_path / "run.py").write_text("\n".join(lines))
    curves = []
    for processes in (2, 1):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes > 1 else []
        call = [
            sys.executable,
            *torchrun,
            tmp_path / "run.py",
            "finetune",
            root,
            "--dataset",
            "ava21",
            "--classes",
            TALK,
        ]
        call += [STAND, "--model", "narrow_roi_2x4", "--no-pretrained", "--out", tmp_path / f"by{processes}"]
        call += ["--device", "cpu", "--epochs", 2, "--probe-epochs", 0, "--batch-size", 4 // processes]
        call += ["--freeze-bn", "statistics", "--dropout", 0, "--workers", 0, "--input", *pairs]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, call)), capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("are the same video: same film") == 4, "training and validation have the same films"
        rows = list(csv.DictReader((tmp_path / f"by{processes}" / "log.csv").open()))
        curves.append([[float(row[key]) for key in ("loss", "mAP")] for row in rows])
    assert len(curves[0]) == 2 and np.allclose(*curves, rtol=1e-4)


# Published schedules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules_are_recipes(name):
    batch, lr, digits = PUBLISHED[name]
    found = find_recipe(name)
    config = found.config
    assert (config.batch_size, config.lr, config.lr_batch) == (batch, lr, 8 * batch)
    assert (config.epochs, config.schedule, config.milestones, config.gamma) == (20, "step", (10, 15), 0.1)
    assert (config.warmup_epochs, config.warmup_ratio, config.weight_decay) == (5, 0.1, 1e-5)
    assert (config.optimizer, config.momentum, config.clip_grad, config.dropout) == ("sgd", 0.9, 40, 0.5)
    assert config.data == {"hflip": 0.5} and config.probe_epochs == 0
    assert catalog.entries()[config.init].hash_prefix == digits
    assert found.start in describe(name) and config.init in describe(name)
    own = catalog.find_entry(name)
    assert find_recipe(own.full_name).config == config
    model, trunk = (videozoo.factory._build(*_network(n)).state_dict() for n in (found.start, config.init))
    assert {k: v.shape for k, v in model.items() if not k.startswith("fc.")} == {
        k: v.shape for k, v in trunk.items() if not k.startswith("fc.")
    }


def _network(name):
    entry = catalog.find_entry(name)
    return (entry.architecture, videozoo.factory._build_args(entry)) if entry else (name, {})


def test_published_training_clips_are_cut_from_frames_of_256_to_320_pixels(monkeypatch):
    model = videozoo.create_model("slowonly_r50_ava21")
    config = resolve_data_config(find_recipe("slowonly_ava").config.data, model=model, use_test_size=False)
    assert (config["resize"], config["size"], config["hflip"]) == (256, 256, 0.5)
    transform, drawn = ava.KeyFrameTransform(config, is_training=True), []

    def resize(frames, scale, **_):
        drawn.append(scale)
        return frames.new_zeros(1, scale[1], scale[1] + 40, 3)

    monkeypatch.setattr(ava, "resize", resize)
    for seed in range(300):
        frames, boxes = transform.cut(
            torch.zeros(1, 3, 4, 3, dtype=torch.uint8), np.array([[0, 0, 1, 1]]), np.random.default_rng(seed)
        )
        assert frames.shape == (1, 256, 256, 3) and boxes.tolist() == [[0, 0, 255, 255]]
    shorts = [short for _, short in drawn]
    assert min(shorts) == 256 and max(shorts) == 320 and {long for long, _ in drawn} == {-1}


def test_a_detector_starts_from_the_trunk_of_a_recogniser(data, tmp_path, monkeypatch):
    torch.manual_seed(1)
    source = videozoo.create_model("slowonly_r50_4x16_k400")
    create = videozoo.factory.create_model

    def published(name, pretrained=False, **kwargs):
        if pretrained:
            assert name == "slowonly_r50_4x16_k400.mma0"
            return source
        return create(name, **kwargs)

    monkeypatch.setattr("videozoo.training.preparation.create_model", published)
    config = find_recipe("slowonly_kinetics_pretrained_r50_4x16x1_20e_ava_rgb").config
    model = prepare_model("slowonly_r50_4x16_ava21", data[0], config)
    assert torch.equal(model.layer3[1].conv2.weight, source.layer3[1].conv2.weight)
    assert model.fc.weight.shape == (2, 2048) and model.pretrained_cfg["pretrain"] == "slowonly_r50_4x16_k400.mma0"
    source.conv1 = torch.nn.Conv3d(3, 32, 1)
    with pytest.raises(ValueError, match="slowonly_r50_4x16_k400.mma0"):
        prepare_model("slowonly_r50_4x16_ava21", data[0], config)
