"""``videozoo finetune`` as people call it: from videos to a folder for other commands, wrong usage, processes."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_blocks import write_videos
from servers import HubServer

import videozoo
from videozoo.checkpoint import load_state_dict
from videozoo.cli import main
from videozoo.training import run as run_module

ROOT = Path(videozoo.__file__).parent.parent
SHORT = ["--device", "cpu", "--epochs", "2", "--probe-epochs", "1", "--batch-size", "4"]
TINY = ["--input", "size=32", "resize=32", "clips=1", "crops=1", "--transform", "hflip=0", *SHORT]
RANDOM = ["--model", "mc3_r18w16_8x4", "--no-pretrained"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos a class for training and two for validation."""
    return write_videos(tmp_path_factory.mktemp("moves"))


@pytest.fixture
def finetune(capsys):
    """Runs ``videozoo finetune``; its exit code and what it says."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main(["finetune", *map(str, arguments)])
        except SystemExit as error:
            code = error.code
        return code, capsys.readouterr().err

    return call


def copy(videos, root, rename=lambda path: path, splits=("train", "val")):
    """The videos of some splits in a folder of their own, by other names."""
    for path in videos.glob("*/*/*.mp4"):
        if path.relative_to(videos).parts[0] in splits:
            target = root / rename(path.relative_to(videos))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return root


def log(run):
    return list(csv.DictReader((run / "log.csv").open()))


# The result ----------------------------------------------------------------------------------------------------------


def test_command_line_from_videos_to_prediction(videos, finetune, tmp_path, capsys):
    """finetune, then info, predict and eval on what it leaves; the second call finds the run finished."""
    run = tmp_path / "run"
    command = [videos, *RANDOM, "--out", run, *TINY]
    code, err = finetune(*command)
    assert code == 0
    assert "learning rate 0.000625 (0.01 for 64 clips, scaled)" in err and "epoch 2/2" in err
    assert "0.73 M of 0.73 M parameters learn after 1 epoch of the classifier alone" in err
    assert (run / "labels.txt").read_text() == "left\nright\n"
    assert (run / "curves.svg").read_text().startswith("<svg")
    card = (run / "README.md").read_text()
    assert "mc3_r18w16_8x4" in card and "| started from | random weights |" in card
    rows = log(run)
    assert [row["epoch"] for row in rows] == ["1", "2"] and float(rows[0]["top1"]) >= 0
    code, err = finetune(*command)
    assert code == 0 and "the run is finished" in err and "epoch 2/2" not in err

    model = f"local-dir:{run}"
    assert main(["info", model]) == 0
    out = capsys.readouterr().out
    assert "mc3_r18w16_8x4" in out and "left, right" in out and "measured on the validation videos" in out
    assert main(["predict", str(videos / "val/left/4.mp4"), "--model", model]) == 0
    out = capsys.readouterr().out
    assert "left" in out and "right" in out
    assert main(["eval", model, "--data", str(videos)]) == 0
    kept = max(rows, key=lambda row: float(row["top1"]))
    assert f"{float(kept['top1']):.2f}" in capsys.readouterr().out


def test_a_result_is_where_the_next_training_starts(videos, finetune, tmp_path):
    """--model local-dir: keeps a classifier of the same classes; --checkpoint gives weights to a new one."""
    first = tmp_path / "first"
    assert finetune(videos, *RANDOM, "--out", first, *TINY)[0] == 0
    before = load_state_dict(first / "model.safetensors")
    still = ["--lr", "0", "--freeze-bn", "statistics"]
    assert finetune(videos, "--model", f"local-dir:{first}", "--out", tmp_path / "second", *TINY, *still)[0] == 0
    after = load_state_dict(tmp_path / "second" / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert f"| started from | local-dir:{first} |" in (tmp_path / "second" / "README.md").read_text()

    names = {"left": "a", "right": "b"}
    other = copy(videos, tmp_path / "renamed", lambda path: path.parent.with_name(names[path.parent.name]) / path.name)
    weights = ["--model", "mc3_r18w16_8x4", "--checkpoint", first / "model.safetensors"]
    recipe = ["--recipe", "tsn", *TINY, *still]  # which would start from ImageNet weights
    assert finetune(other, *weights, "--out", tmp_path / "third", *recipe)[0] == 0
    after = load_state_dict(tmp_path / "third" / "model.safetensors")
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"fc.weight", "fc.bias"}
    assert "| started from | model.safetensors |" in (tmp_path / "third" / "README.md").read_text()


def test_class_names_of_all_kinds(videos, finetune, tmp_path, monkeypatch):
    """Blanks, quotes, pipes and other alphabets reach labels, cards and the Hub as they are."""
    names = {"left": 'go ← "left"', "right": "it's | right, ünï"}
    root = copy(videos, tmp_path / "data", lambda path: path.parent.with_name(names[path.parent.name]) / path.name)
    run = tmp_path / "a run"
    code, err = finetune(root, *RANDOM, "--out", run, *TINY)
    assert code == 0 and f"--model 'local-dir:{run}'" in err
    assert (run / "labels.txt").read_text(encoding="utf-8").splitlines() == sorted(names.values())
    model = videozoo.create_model(f"local-dir:{run}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == sorted(names.values())
    with HubServer() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
        code = (
            "import sys, videozoo; "
            "model = videozoo.create_model(sys.argv[1], pretrained=True); "
            "videozoo.push_to_hub(model, 'me/moves', token=sys.argv[2]); "
            "print(videozoo.create_model('hf-hub:me/moves', pretrained=True).pretrained_cfg['label_names'])"
        )
        command = [sys.executable, "-c", code, f"local-dir:{run}", hub.token]
        done = subprocess.run(
            command, env=os.environ | environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        card = hub.commits[hub.resolve("me/moves", "main")]["README.md"].decode()
    assert str(sorted(names.values())) in done.stdout
    assert "measured on the validation videos" in card and "it's \\| right, ünï" in card and "Published" not in card


def test_command_line_holds_out_and_warns_of_leaks(videos, finetune, tmp_path):
    root = copy(videos, tmp_path / "data", splits=("train",))
    copied = root / "val" / "left" / "another name.mp4"
    copied.parent.mkdir(parents=True)
    copied.write_bytes((root / "train" / "left" / "0.mp4").read_bytes())
    shared = [*RANDOM, *TINY, "--epochs", "1"]
    code, err = finetune(root, "--out", tmp_path / "a", *shared)
    assert code == 0 and "1 validation videos are also trained on" in err and "same content" in err
    code, err = finetune(root, "--out", tmp_path / "b", "--hold-out", "0.25", *shared)
    assert code == 0 and "6 training videos, 2 for validation" in err
    code, err = finetune(root, "--out", tmp_path / "c", "--no-val", *shared)
    assert code == 0 and "8 training videos, 0 for validation" in err and "top1" not in log(tmp_path / "c")[0]


def test_lists_with_several_labels(videos, finetune, tmp_path):
    """The metric is mAP, also where a class does not occur among the validation videos."""
    root = tmp_path / "lists"
    for split in ("train", "val"):
        lines = []
        for number, path in enumerate(sorted((videos / split).glob("*/*.mp4"))):
            target = root / "videos" / f"{split}{number}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            more = " 2" if split == "train" and number % 3 == 0 else ""
            lines.append(f"videos/{target.name} {int(path.parent.name == 'right')}{more}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    lists = ["--annotations", root / "train.txt", root / "val.txt", "--multi-label"]
    mixed = ["--mixup", "0.5", "--cutmix", "0.5", "--label-smoothing", "0.1", "--class-balanced"]
    code, err = finetune(root, *lists, *RANDOM, "--out", tmp_path / "run", *TINY, *mixed)
    assert code == 0 and "3 classes" in err and float(log(tmp_path / "run")[-1]["mAP"]) > 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_cfg"]["multi_label"] is True


# Wrong usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "slowfast_r50"], "slowfast_r50"),
        (["--model", "tsn_r18_f8"], "weights"),
        (["--model", "tsn_r50_f3_k400_flow", "--no-pretrained"], "folders of flow images"),
        ([*RANDOM, "--transform", "hlfip=0"], "hflip"),
        ([*RANDOM, "--transform", "flip_labels=[(left,right]"], "is a quote missing"),
        ([*RANDOM, "--input", "hflip=0"], "input"),
        ([*RANDOM, "--recipe", "tns"], "no recipe 'tns'"),
        ([*RANDOM, "--epochs", "0"], "epochs=0"),
        ([*RANDOM, "--lr", "nan"], "lr=nan must be a finite number"),
        ([*RANDOM, "--precision", "fp16", "--device", "cpu"], "precision fp16 needs a GPU: use bf16"),
        ([*RANDOM, "--no-val", "--patience", "3"], "give validation videos"),
        ([*RANDOM, "--freeze-stages", "9", *TINY], "use 0 to 5"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(options, message, videos, finetune, tmp_path):
    code, err = finetune(videos, "--out", tmp_path / "run", *options)
    assert code == 1 and message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "size=32", "DIR", *RANDOM], "DIR, which comes first"),
        (["DIR", "--model", "tsn_r18_f8", "--no-pretrained", "--init", "imagenet"], "say different things"),
        (["DIR", *RANDOM, "--no-val", "--hold-out", "0.2"], "not allowed with"),
    ],
)
def test_contradictions_are_wrong_usage(options, message, finetune):
    code, err = finetune(*options)
    assert code == 2 and message in err and err.count("\n") < 4


def broken(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no video")


def test_data_that_cannot_be_validated_are_told_before_training(videos, finetune, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module._Run, "_train_epoch", None)
    root = copy(videos, tmp_path / "data", splits=("train",))
    code, err = finetune(root, *RANDOM, "--out", tmp_path / "run", *TINY)
    assert code == 1 and "has no split 'val'" in err and "--hold-out 0.2" in err and "--no-val" in err
    broken(root / "val" / "left" / "9.mp4")
    code, err = finetune(root, *RANDOM, "--out", tmp_path / "run", *TINY)
    assert code == 1 and "none of 1 validation videos" in err and "left/9.mp4: not a video file" in err
    (root / "val.txt").write_text("train/left/0.mp4 -1\n")
    (root / "train.txt").write_text("train/left/0.mp4 0\ntrain/right/0.mp4 1\n")
    lists = ["--annotations", root / "train.txt", root / "val.txt"]
    code, err = finetune(root, *lists, *RANDOM, "--out", tmp_path / "run", *TINY)
    assert code == 1 and "without label" in err


def test_one_class_is_not_enough(videos, finetune, tmp_path):
    root = copy(videos, tmp_path / "data", lambda path: path.parent.with_name("all") / path.name)
    code, err = finetune(root, *RANDOM, "--out", tmp_path / "run", *TINY)
    assert code == 1 and "videos of one class only" in err


def test_folder_that_cannot_be_written_is_told_before_training(videos, finetune, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module._Run, "_train_epoch", None)
    (tmp_path / "file").touch()
    code, err = finetune(videos, *RANDOM, "--out", tmp_path / "file", *TINY)
    assert code == 1 and "cannot be written" in err and "choose another folder" in err


def test_training_needs_accelerate(videos, finetune, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    code, err = finetune(videos, *RANDOM, "--out", tmp_path / "run", *TINY)
    assert code == 1 and "pip install 'videozoo[train]'" in err


def test_precision_of_accelerate_launch_is_not_passed_over(videos, finetune, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    code, err = finetune(videos, *RANDOM, "--out", tmp_path / "run", *TINY)
    assert code == 1 and "give the run precision bf16 too" in err
    assert finetune(videos, *RANDOM, "--out", tmp_path / "run", *TINY, "--precision", "bf16")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_told_to_stop_says_how_to_go_on(number, videos, finetune, tmp_path, monkeypatch):
    step = run_module.RunLog.step

    def step_and_stop(self, *args):
        step(self, *args)
        os.kill(os.getpid(), number)

    command = [videos, *RANDOM, "--out", tmp_path / "run", *TINY, "--checkpoint-every", "1"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    with monkeypatch.context() as patch:
        patch.setattr(run_module.RunLog, "step", step_and_stop)
        code, err = finetune(*command)
    signal.signal(signal.SIGINT, before)
    assert code == 130 and "the same command goes on" in err and "Traceback" not in err
    code, err = finetune(*command)
    assert code == 0 and "going on after 0 epochs" in err and len(log(tmp_path / "run")) == 2


# Processes -----------------------------------------------------------------------------------------------------------


def launch(processes, *arguments):
    """The command under torchrun, or in one process of its own; its stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    call = [sys.executable, *(torchrun if processes > 1 else []), *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_two_processes_equal_one(videos, tmp_path):
    """The same global batch, with batch norms at rest: they see each process's clips."""
    command = ["-m", "videozoo", "finetune", videos, *RANDOM, *TINY, "--freeze-bn", "statistics", "--dropout", "0"]
    for processes, name in ((2, "two"), (1, "one")):
        size = 4 // processes
        err = launch(processes, *command, "--batch-size", size, "--out", tmp_path / name)
        assert err.count("epoch 2/2") == 1
    one, two = (load_state_dict(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5, msg=key)
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in ("one", "two")]
    np.testing.assert_allclose(np.array(losses[0], float), np.array(losses[1], float), rtol=1e-5)


RUN_IN_PARTS = """
import os, sys
import torch
from pathlib import Path
from videozoo.data.folders import load_folder
from videozoo.training import TrainConfig, finetune, prepare_model, run

videos, folder, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["RANK"])
train = load_folder(videos, "train")
val = load_folder(videos, "val", class_names=train.class_names)
config = TrainConfig(
    epochs=2, probe_epochs=0, batch_size=2, checkpoint_every=1, ema=0.9, dropout=0.3, mixup=0.4,
    input={"size": 32, "resize": 32, "clips": 1, "crops": 1},
)

def train_in(folder):
    return finetune(prepare_model("mc3_r18w16_8x4", train, config, pretrained=False), train, val, folder, config,
                    device="cpu")

validate, save, buffers = run._Run._validate, run._Run._save_checkpoint, []

def look(self):
    row = validate(self)
    buffers.append(torch.cat([b.flatten().float() for m in (self.model, self.ema.module) for b in m.buffers()]))
    return row

run._Run._validate = look
whole = train_in(folder / "whole")
torch.save(buffers, folder / f"{rank}.pt")

def save_and_die(self):
    save(self)
    if self.state.epoch == 1 and self.state.step == 1:
        raise KeyboardInterrupt

run._Run._save_checkpoint = save_and_die
try:
    train_in(folder / "parts")
except KeyboardInterrupt:
    run._Run._save_checkpoint = save
parts = train_in(folder / "parts")
keys = ("loss", "lr", "top1")
assert [[row[key] for key in keys] for row in whole.history] == [[row[key] for key in keys] for row in parts.history]
"""


def test_two_processes_validate_one_model_and_go_on_exactly(videos, tmp_path):
    """Batch norms of both have the statistics that are kept; a run that was stopped equals one that was not."""
    (tmp_path / "script.py").write_text(RUN_IN_PARTS)
    launch(2, tmp_path / "script.py", videos, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first) == 2 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    whole, parts = (load_state_dict(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
