"""Training of localisers through `videozoo finetune` and as a library: they learn, go on, and refuse what is wrong."""

import csv
import json

import numpy as np
import pytest
import torch
from localization_data import POSITIONS, WIDTH, small_bmn, small_bsn, write_split
from PIL import Image

import videozoo
from videozoo.data import regions
from videozoo.data.activitynet import load_feature_set
from videozoo.evaluation.metrics import temporal
from videozoo.localization import create_localizers, localize_features, proposal_chain
from videozoo.training import TrainConfig, finetune, recipe
from videozoo.training.localization import find_candidates, prepare_localizer

FAST = ["--device", "cpu", "--no-scale-lr", "--batch-size", "16", "--milestones", "50"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """240 videos for training, 12 for validation; the marks of borders fit BMN's idea of a position."""
    root = tmp_path_factory.mktemp("data")
    write_split(root, "train", 240, seed=0)
    write_split(root, "val", 12, seed=5)
    return root


def chance(root):
    """AUC of random segments."""
    rng = np.random.default_rng(1)
    table = json.loads((root / "anet_anno_val.json").read_text())
    truth = {name: [row["segment"] for row in facts["annotations"]] for name, facts in table.items()}
    seconds = table["v_val0"]["duration_second"]
    found = {
        name: np.column_stack([np.sort(rng.uniform(0, seconds, (100, 2)), 1), rng.uniform(size=100)]) for name in truth
    }
    return temporal.average_recall(truth, found).auc


def history(folder):
    with (folder / "log.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# Learning ------------------------------------------------------------------------------------------------------------


def test_bmn_learns_through_the_command_line(run, data, tmp_path):
    _, name = small_bmn(tmp_path / "start")
    out = tmp_path / "run"
    code, _, err = run("finetune", data, "--model", name, "--out", out, "--epochs", 4, "--lr", 0.005, *FAST)
    assert code == 0 and "240 training videos, 12 for validation, 15 steps an epoch of 16 videos" in err
    auc = [row["AUC"] for row in history(out)]
    assert max(auc) > chance(data) + 20 and auc[-1] > 95
    assert history(out)[-1]["loss"] < 0.6 * history(out)[0]["loss"]
    card = (out / "README.md").read_text()
    assert "videozoo localize features.npy --model local-dir:run" in card and "classes" not in card
    code, text, _ = run("eval", f"local-dir:{out}", "--data", data, "--device", "cpu")
    assert code == 0 and f"{max(auc):.2f}" in text
    assert "validation  measured" in text and "published" not in text
    networks = create_localizers(f"local-dir:{out}", pretrained=True)
    best = localize_features(proposal_chain(networks), [data / "features" / "v_val0.npy"]).segments[0]
    table = json.loads((data / "anet_anno_val.json").read_text())["v_val0"]
    truth = [t / table["duration_second"] for t in table["annotations"][0]["segment"]]
    assert best[:2] == pytest.approx(truth, abs=2.1 / POSITIONS)


def test_both_networks_of_bsn_learn_one_after_the_other(run, tmp_path):
    root = tmp_path / "data"
    write_split(root, "train", 240, seed=0, shift=0.5)
    write_split(root, "val", 12, seed=5, shift=0.5)
    _, (tem, pem) = small_bsn(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, err = run("finetune", root, "--model", tem, "--out", first, "--epochs", 7, "--lr", 0.02, *FAST)
    assert code == 0 and "try it" not in err
    tem_log = history(first)
    assert tem_log[-1]["loss"] < 0.4 * tem_log[0]["loss"] and max(r["AUC"] for r in tem_log) > chance(root) + 20
    options = ["--tem", f"local-dir:{first}", "--epochs", 2, "--lr", 0.02, *FAST]
    code, _, err = run("finetune", root, "--model", pem, "--out", second, *options)
    assert code == 0 and "looking for candidates in 240 videos" in err
    assert f"--model local-dir:{first} --pem local-dir:{second}" in err
    pem_log = history(second)
    assert pem_log[-1]["loss"] < 0.8 * pem_log[0]["loss"]
    assert max(r["AUC"] for r in pem_log) > max(r["AUC"] for r in tem_log) - 2
    code, text, _ = run("eval", f"local-dir:{first}", "--pem", f"local-dir:{second}", "--data", root, "--device", "cpu")
    assert code == 0 and "bsn_tem + bsn_pem" in text


def write_frames(root, split, count):
    """Videos whose second half shines in the colour of their class, with proposals for it, and their list."""
    videos = []
    for number in range(count):
        name, label = f"video_{split}_{number}", 1 + number % 2
        folder = root / f"rawframes_{split}" / name
        folder.mkdir(parents=True)
        for place in range(1, 41):
            colour = [(30, 30, 30), (220, 30, 30), (30, 30, 220)][label * (place > 20)]
            Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).save(folder / f"img_{place:05d}.png")
        rows = ((label, 0.9, 1.0, 22.0, 40.0), (label, 0.2, 0.2, 8.0, 24.0), (0, 0.0, 0.0, 1.0, 15.0))
        videos.append(regions.ProposalVideo(name, 40, ((label, 20.0, 40.0),), rows))
    (root / f"thumos14_tag_{split}_proposal_list.txt").write_text(regions.write_proposals(videos))


def test_ssn_learns_from_frames_of_proposals(tmp_path):
    torch.manual_seed(0)
    write_frames(tmp_path, "val", 4)
    write_frames(tmp_path, "test", 2)
    train, val = (videozoo.load_dataset("thumos14", tmp_path, split=split) for split in ("val", "test"))
    train.num_classes = 2
    config = recipe("ssn").replace(
        epochs=9, batch_size=2, lr=0.01, scale_lr=False, dropout=0.0, milestones=(9,), freeze_bn="none", init="scratch"
    )
    model = prepare_localizer("small_ssn", train, config)
    assert model.num_classes == 2
    model.pretrained_cfg |= {"test": {"resize": 16, "size": 16, "crops": 1}}
    result = finetune(model, train, val, tmp_path / "run", config, device="cpu")
    losses = [row["loss"] for row in result.history]
    assert min(losses[2:]) < 0.6 * losses[0] and "mAP@0.50" in result.best
    assert "videozoo localize clip.mp4 --model local-dir:run" in (tmp_path / "run" / "README.md").read_text()


# Going on, and the published settings --------------------------------------------------------------------------------


def test_a_run_that_goes_on_is_the_same_as_one_that_was_not_stopped(data, tmp_path):
    train, val = (load_feature_set(data, split) for split in ("train", "val"))
    train.samples, val.samples = train.samples[:48], val.samples[:4]
    config = recipe("bmn").replace(epochs=2, batch_size=12, milestones=(1,))
    kwargs = {"in_chans": WIDTH, "num_frames": POSITIONS, "hidden": 16, "points": 8}

    def model():
        return prepare_localizer("bmn", train, config, **kwargs)

    whole = finetune(model(), train, val, tmp_path / "whole", config, device="cpu").history
    stopping = model()
    forward, calls = stopping.forward, []

    def stop(x):
        calls.extend([x] * stopping.training)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(x)

    stopping.forward = stop
    with pytest.raises(KeyboardInterrupt):
        finetune(stopping, train, val, tmp_path / "parts", config.replace(checkpoint_every=1), device="cpu")
    again = finetune(model(), train, val, tmp_path / "parts", config.replace(checkpoint_every=1), device="cpu").history
    for a, b in zip(whole, again, strict=True):
        assert all(a[key] == b[key] for key in a if key not in ("seconds", "clips_per_second"))
    table = json.loads((data / "anet_anno_val.json").read_text())
    table["v_val0"]["annotations"] = []
    (tmp_path / "other.json").write_text(json.dumps(table))
    other = load_feature_set(data, "val", annotations=tmp_path / "other.json")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        finetune(model(), train, other, tmp_path / "parts", config, device="cpu")


def test_recipes_are_the_published_schedules():
    bmn, tem, pem, ssn = map(recipe, ("bmn", "bsn_tem", "bsn_pem", "ssn"))
    assert (bmn.epochs, bmn.milestones, bmn.lr, bmn.batch_size, bmn.lr_batch) == (9, (7,), 0.001, 8, 16)
    assert (tem.epochs, tem.milestones, tem.lr, tem.weight_decay) == (20, (7,), 0.001, 1e-4)
    assert (pem.epochs, pem.milestones, pem.lr, pem.weight_decay) == (20, (10,), 0.01, 1e-5)
    assert (ssn.epochs, ssn.milestones, ssn.lr, ssn.weight_decay, ssn.clip_grad) == (450, (200, 400), 0.001, 1e-6, 35)
    assert ssn.freeze_bn == "partial" and {c.optimizer for c in (bmn, tem, pem)} == {"adam"}
    assert recipe("bmn_400x100_2x8_9e_activitynet_feature") == bmn == recipe("bmn_anet.mma0")
    assert recipe("bsn_pem_anet.mma0") == pem and recipe("ssn_r50_thumos14.mma0") == ssn


# Bad input -----------------------------------------------------------------------------------------------------------


def test_videos_without_features_are_replaced_and_named(run, data, tmp_path):
    _, name = small_bmn(tmp_path / "start")
    table = json.loads((data / "anet_anno_train.json").read_text())
    table |= {"v_gone": table["v_train0"]}
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.json").write_text(json.dumps(table))
    lists = [tmp_path / "lists" / "train.json", data / "anet_anno_val.json"]
    options = ["--out", tmp_path / "run", "--epochs", 1, "--annotations", *lists, *FAST, "--batch-size", "241"]
    code, _, err = run("finetune", data, "--model", name, *options)
    assert code == 0 and err.count("has no features of v_gone") == 1 and "is replaced by another video" in err


@pytest.mark.parametrize(
    "options, code, reason",
    [
        (["--model", "bsn_anet"], 1, "stands for two networks"),
        (["--model", "bsn_pem_anet", "--no-pretrained"], 2, "needs --tem NAME"),
        (["--model", "bmn_anet", "--tem", "x"], 2, "has no use for --tem"),
        (["--model", "bmn_anet", "--hold-out", "0.2"], 2, "--hold-out is for other networks"),
        (["--model", "bmn_anet", "--no-pretrained", "--mixup", "0.2"], 1, "mixup=0.2 is for recognisers"),
        (["--model", "bmn_anet", "--no-pretrained", "--recipe", "finetune"], 1, "probe_epochs=2 is for recognisers"),
        (["--model", "bmn_anet", "--no-pretrained", "--transform", "hflip=0.5"], 1, "without augmentation"),
    ],
)
def test_what_does_not_fit_is_told_before_training(run, data, tmp_path, options, code, reason):
    found, _, err = run("finetune", data, *options, "--out", tmp_path / "run", "--device", "cpu")
    assert found == code and reason in err and not (tmp_path / "run" / "log.csv").exists()


def test_features_of_another_width_stop_a_run_with_a_reason(run, data, tmp_path):
    code, _, err = run("finetune", data, "--model", "bmn", "--no-pretrained", "--out", tmp_path / "run", *FAST)
    assert code == 1 and f"have features of width {WIDTH}" in err or f"has features of width {WIDTH}" in err


def test_the_second_network_needs_the_first(data):
    train = load_feature_set(data, "train")
    with pytest.raises(ValueError, match="bmn is not the first network of BSN"):
        find_candidates(videozoo.create_model("bmn", in_chans=WIDTH), train)
    model = prepare_localizer("bsn_pem", train, recipe("bsn_pem"))
    with pytest.raises(ValueError, match="bsn_pem is trained on a CandidateSet, got a FeatureSet"):
        finetune(model, train, None, "unused", recipe("bsn_pem").replace(epochs=1), device="cpu")
    with pytest.raises(ValueError, match="tsn_r18_f8 finds no segments"):
        prepare_localizer("tsn_r18_f8", train, TrainConfig(), pretrained=False)
