"""Recipes: the published numbers of every configuration, and no contradiction to the catalog."""

import csv
import gzip
import re
from pathlib import Path

import pytest

from videozoo import catalog, factory
from videozoo.data.config import TRAIN_DEFAULTS, resolve_data_config
from videozoo.training.config import TrainConfig
from videozoo.training.recipes import describe, find_recipe, list_recipes, recipe, recipe_for

PLAIN = {  # what no published training uses, whatever TrainConfig's defaults are
    "probe_epochs": 0, "accumulate": 1, "scale_lr": True, "layer_decay": 1.0, "head_lr_scale": 1.0,
    "min_lr_ratio": 0.0, "gamma": 0.1, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "repeats": 1,
    "class_balanced": False, "freeze_stages": 0, "precise_bn": 0, "ema": 0.0, "patience": 0,
}  # fmt: skip
FREE = {  # of the machine and the run, or without effect where there is no mixing and no warm-up
    *("compile", "workers", "val_views", "checkpoint_every", "seed", "logger", "mix_prob", "warmup_ratio", "dropout"),
    *("channels_last", "grad_checkpointing"),
}
DATA = Path(__file__).parent / "data" / "recipes_v0.12.tsv.gz"
STARTS = {  # hash in a published file's name -> its entry
    "1f39486b": "tsn_r50_f8_k400_flow.mma0",
    "883baf16": "tsn_r50_f8_k400.mma0_256p",
    "d512ab1b": "tsn_r50_f6_mit.mma0",
    "decb8568": "slowonly_r50_4x16_k400_flow.mma0",
    "ef80e3d7": "tsn_r50_f8_k400.mma0",
}


def published_rows():
    """The published training configurations of recognisers, one dict each."""
    with gzip.open(DATA, "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


ROWS = published_rows()


def schedule_settings(text):
    """``step 32,48; warm-up linear 16 ep from ratio 0.1`` as settings."""
    if text == "step none":
        return {"schedule": "constant", "milestones": (), "warmup_epochs": 0}
    kind, *warmup = text.removesuffix("; per iteration").split("; ")
    settings = {"warmup_epochs": 0}
    if match := re.fullmatch(r"step ([\d,]+)", kind):
        settings |= {"schedule": "step", "milestones": tuple(map(int, match[1].split(","))), "gamma": 0.1}
    else:
        floor = re.fullmatch(r"cosine to (0|0\.5 x lr)", kind)[1]
        settings |= {"schedule": "cosine", "milestones": (), "min_lr_ratio": float(floor.split()[0])}
    for part in warmup:
        match = re.fullmatch(r"warm-up linear (\d+) ep(?: from ratio 0\.1)?", part)
        settings |= {"warmup_epochs": int(match[1]), "warmup_ratio": 0.1}
    return settings


def optimizer_settings(text):
    match = re.fullmatch(r"SGD lr ([\d.]+) wd ([\de.-]+)( TSM groups fc_lr5)?", text)
    groups = "tsm" if match[3] else "plain"
    return {"optimizer": "sgd", "lr": float(match[1]), "weight_decay": float(match[2]), "groups": groups}


def weights_settings(text):
    if text == "none":
        return {"init": "scratch"}
    started = "load ckpt" in text and "af7fb746" not in text  # weights of TSM do not make a TIN
    return {"init": "" if started or text.startswith("ckpt") else "imagenet"}


def other_settings(text):
    settings = {"freeze_bn": "none", "sync_bn": False, "loss_weight": 1.0}
    for part in filter(None, text.split("; ")):
        if match := re.fullmatch(r"loss BCELossWithLogits x([\d.]+)", part):
            settings["loss_weight"] = float(match[1])
        elif part.startswith("SyncBN"):
            settings["sync_bn"] = True
        elif part in ("norm_eval", "bn_frozen"):
            settings["freeze_bn"] = "statistics" if part == "norm_eval" else "all"
        else:
            assert part in ("omnisource", "find_unused_parameters"), part
    return settings


def augmentation(row):
    """The ``data`` of a row."""
    if "audio" in row["config"]:
        return {}
    text, data = row["augmentation"], {}
    if match := re.search(r"MSC\(([\d., ]+)\) gap(\d)( 13crops)?", text):
        data["train_crop"] = "multi_scale_crop"
        data["scales"] = [float(scale) for scale in match[1].split(",")]
        data |= {"max_scale_gap": int(match[2]), "fixed_crops": 13 if match[3] else 5}
    elif "RRC" in text:
        data["train_crop"] = "random_resized_crop"
    else:
        assert text == "128x171 keep > RandCrop112 > flip0.5"
        data = {"resize": [171, 128], "size": 112, "train_crop": "multi_scale_crop", "scales": [112 / 128]}
        data |= {"max_scale_gap": 0, "fixed_crops": 13}
    data["hflip"] = 0.5 if "flip0.5" in text or "'Fliplr', 'p': 0.5" in text else 0.0
    if "ColorJitter" in text:
        data["color_jitter"] = [0.125, 0.4, 0.4, 0.5]
    if " dense " in row["frames"]:
        data["sampling"] = "dense"
    if data["hflip"] and "sthv1" in row["config"] and "label_map" not in text:
        data["flip_labels"] = []
    return data


def published_settings(row):
    """All settings that a row of the published table states."""
    batch = 32 if row["batch"].startswith("not set") else int(row["batch"].split()[0])
    return PLAIN | {
        "epochs": int(row["epochs"]),
        "batch_size": batch,
        "lr_batch": 8 * batch,
        "momentum": 0.9,
        "nesterov": row["config"].startswith("tpn"),
        "clip_grad": float(row["clip"]),
        "precision": "fp16" if "fp16" in row["config"] else "no",
        **schedule_settings(row["schedule"]),
        **optimizer_settings(row["optimizer"]),
        **weights_settings(row["weights"]),
        **other_settings(row["other"]),
        "data": augmentation(row),
    }


def test_every_published_configuration_is_a_recipe():
    assert len(ROWS) == 117
    configurations = set(list_recipes(configurations=True)) - set(list_recipes())
    configurations = {name for name in configurations if "_ava_rgb" not in name}  # see test_detection_training.py
    assert configurations == {row["config"] for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["config"])
def test_numbers_are_the_published_ones(row):
    found = recipe(row["config"])
    expected = published_settings(row)
    assert {key: getattr(found, key) for key in expected} == expected
    assert set(found.to_dict()) - set(expected) - {"input"} <= FREE and not found.input


@pytest.mark.parametrize("row", [r for r in ROWS if "load ckpt" in r["weights"]], ids=lambda row: row["config"])
def test_start_is_the_entry_of_the_loaded_checkpoint(row):
    digits = row["weights"].rsplit(maxsplit=1)[-1]
    found = find_recipe(row["config"])
    if digits == "af7fb746":
        assert "tsm_r50_f8_k400.mma0" in found.notes
        return
    assert found.start == STARTS[digits]
    assert catalog.entries()[found.start].hash_prefix == digits


@pytest.mark.parametrize("name", [n for n in list_recipes() if find_recipe(n).origin])
def test_recipe_is_the_training_of_its_origin(name):
    own, origin = find_recipe(name), find_recipe(find_recipe(name).origin)
    assert own.config == origin.config
    assert (own.title, own.start, own.notes) == (origin.title, origin.start, origin.notes)


def trained_entries():
    """Entries of MMAction2 0.12 whose training is a published configuration: not those with data from the web."""
    entries = [e for e in catalog.entries().values() if e.tag.startswith("mma0") and e.task == "recognition"]
    joint = [e for e in entries if e.pretrain == "ig1b" or (e.tag.endswith("_omni") and e.dataset == "k400")]
    return [e for e in entries if e not in joint and e.family != "x3d"]


def test_known_trainings_of_entries_are_found():
    assert len(trained_entries()) > 100
    for entry in trained_entries():
        found = find_recipe(entry.full_name)
        assert found.origin in {row["config"] for row in ROWS}, entry.full_name
        assert found.config == recipe_for(entry) == recipe(found.origin)
        if found.start and entry.pretrain:
            assert catalog.entries()[found.start].dataset == entry.pretrain
        assert (found.config.init == "imagenet") == (entry.pretrain == "in1k") or "tsm_r50" in found.notes


@pytest.mark.parametrize("entry", trained_entries(), ids=lambda e: e.full_name)
def test_augmentation_agrees_with_the_entry(entry):
    if entry.modality == "audio":
        return
    own = resolve_data_config(pretrained_cfg=entry, use_test_size=False)
    found = resolve_data_config(recipe_for(entry).data, pretrained_cfg=entry, use_test_size=False)
    keys = {"sampling", "size", "clips", "segments"} | {k for k in TRAIN_DEFAULTS if k in entry.train}
    keys |= {"train_crop"} if "crop" in entry.train else set()
    if found["train_crop"] != "multi_scale_crop":
        keys -= {"scales", "max_scale_gap", "fixed_crops"}
    assert {key: _plain(found[key]) for key in keys} == {key: _plain(own[key]) for key in keys}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def test_dropout_is_that_of_the_published_network():
    seen = {}
    for entry in trained_entries():
        key = (entry.architecture, entry.model_args.get("drop_rate"))
        if key not in seen:
            model = factory._build(entry.architecture, factory._build_args(entry))
            seen[key] = max(part.p for name, part in model.named_children() if name in ("head_drop", "frame_drop"))
        assert recipe_for(entry).dropout == seen[key], entry.full_name


def test_lr_is_meant_for_eight_gpus_unless_stated():
    assert (recipe("tsn").lr, recipe("tsn").batch_size, recipe("tsn").lr_batch) == (0.01, 32, 256)
    assert recipe("finetune") == TrainConfig()


def test_probe_learns_the_classifier_alone():
    assert recipe("probe").probe_epochs == recipe("probe").epochs > 0


def test_names():
    assert "published" not in list_recipes() and {"tsn", "slowfast", "finetune"} <= set(list_recipes())
    alias, upstream = recipe("slowfast_r50_k400"), recipe("slowfast_r50_8x8x1_256e_kinetics400_rgb.py")
    assert alias == upstream == recipe_for("slowfast_r50_8x8_k400.mma0_256p")
    assert recipe("slowfast_r50_256p_8x8x1_256e_kinetics400_rgb") == upstream
    with pytest.raises(ValueError, match="no recipe 'slowfst': did you mean slowfast, "):
        recipe("slowfst")
    with pytest.raises(ValueError, match="no recipe 'published'"):
        recipe("published")
    with pytest.raises(ValueError, match="did you mean tsm_r50_1x1x16_50e_sthv2_rgb"):
        recipe("tsm_r50_1x1x16_50e_stv2_rgb")
    with pytest.raises(ValueError, match=r"slowfast_r50_8x8_k400\.ptv was trained is not known.*nearest.*slowfast"):
        recipe_for("slowfast_r50_8x8_k400.ptv")
    with pytest.raises(ValueError, match="x3d_m_16x5_k400.fair was trained is not known"):
        recipe_for(catalog.entries()["x3d_m_16x5_k400.fair"])


def test_description_has_what_a_user_decides_by():
    text = describe("tsn_hmdb51")
    assert text.startswith("tsn_hmdb51: TSN on HMDB51")
    assert "lr=0.025" in text and "milestones=[20, 40]" in text and "tsn_r50_f8_k400.mma0_256p" in text
    assert "tsn_r50_1x1x8_50e_hmdb51_kinetics400_rgb" in text
    assert "momentum" not in text  # it is the default
    for name in list_recipes(configurations=True):
        assert describe(name).startswith(f"{name}: ") and len(describe(name).splitlines()) >= 2
