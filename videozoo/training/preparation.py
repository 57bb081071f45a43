"""The model that a run begins with: published weights, a classifier for the data set's classes, its own input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import catalog
from ..checkpoint import load_strict
from ..data.datasets import Dataset
from ..data.detection import KeyFrames
from ..factory import create_model
from ..names import nearest_names
from .config import TrainConfig
from .recipes import NO_ENTRY

__all__ = ["prepare_model"]

EXPECTED = {"recognition": "a classifier of whole videos", "detection": "a detector of persons' actions"}
INPUT_KEYS: dict[str, tuple[tuple[str, str], ...]] = {  # of TrainConfig.input: tables and keys of pretrained_cfg
    "num_frames": (("sampling", "frames"),),
    "stride": (("sampling", "stride"),),
    "sampling": (("sampling", "kind"), ("test", "kind")),
    "segments": (("sampling", "segments"), ("test", "segments")),
    "size": (("", "size"), ("test", "size")),
    "resize": (("train", "resize"), ("test", "resize")),
    "keep_ratio": (("test", "keep_ratio"),),
} | {key: (("test", key),) for key in ("clips", "crops", "average", "positions")}


def prepare_model(
    name: str,
    dataset: Dataset | KeyFrames,
    config: TrainConfig | None = None,
    *,
    pretrained: bool = True,
    checkpoint_path: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A model for the classes of ``dataset``, on published weights: with a new classifier, unless the classes are those
    that the model was trained on.

    ``config.init="imagenet"`` starts from ImageNet weights in place of the published ones; of a detector it may be the
    name of a recogniser whose trunk it has. ``config.input`` may change what one input is (num_frames, stride, size,
    ...) and the test protocol. What is random is drawn with ``config.seed``. ``kwargs`` go to ``create_model``.

    Raises:
        ValueError: what ``create_model`` raises, a key that ``config.input`` cannot have, a network that is not
            of the data set's task.
    """
    config, entry = config or TrainConfig(), catalog.find_entry(name)
    task = "detection" if isinstance(dataset, KeyFrames) else "recognition"
    _check_task(name, entry.task if entry else task, task)
    trunk = config.init if task == "detection" and config.init not in NO_ENTRY else ""
    if trunk:
        pretrained = False
    elif config.init:
        kwargs["init"], pretrained = config.init, False
    if config.dropout is not None:
        kwargs["drop_rate"] = config.dropout
    if checkpoint_path is not None:
        pretrained = False
    weights = {"pretrained": pretrained, "checkpoint_path": checkpoint_path, "cache_dir": cache_dir}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(name, num_classes=dataset.num_classes, **weights, **kwargs)
        _check_task(name, getattr(model, "task", "recognition"), task)
        trunk_licence = _load_trunk(model, trunk, cache_dir) if trunk and checkpoint_path is None else ""
        cfg = model.pretrained_cfg
        known = catalog.label_names(cfg)
        if known != list(dataset.class_names) and (known or cfg.get("dataset") != dataset.name):
            model.reset_classifier(dataset.num_classes)
    if pretrained:
        origin, licence = entry.full_name if entry else name, cfg.get("license", "")
    elif checkpoint_path is not None:
        origin, licence = Path(checkpoint_path).name, ""
    elif trunk:
        origin, licence = trunk, trunk_licence
    else:
        origin, licence = "in1k" if config.init == "imagenet" else "", ""
    model.pretrained_cfg = {
        **_with_input(dict(cfg), config.input),
        "name": "",
        "tag": "",
        "dataset": dataset.name if dataset.name in catalog.datasets() else "",
        "labels": "",
        "label_names": list(dataset.class_names) or None,
        "multi_label": dataset.multi_label,
        "metrics": (),
        "pretrain": origin,
        "license": licence,
        **dict.fromkeys(("resolution", "origin_url", "notes", "description"), ""),  # they are about published weights
    }
    model.has_published_weights = False
    return model


def _check_task(name: str, task: str, wanted: str) -> None:
    if task != wanted:
        raise ValueError(
            f"{name} is a network for {task}, {EXPECTED[wanted]} is expected here: choose one of 'videozoo list "
            f"--task {wanted}'."
        )


def _load_trunk(model: nn.Module, name: str, cache_dir: str | os.PathLike | None) -> str:
    """Load the published weights of a recogniser into a detector, all but those of the classifier; their licence."""
    source = create_model(name, pretrained=True, cache_dir=cache_dir)
    heads = tuple(f"{part}." for part in (source.classifier, source.auxiliary_classifier) if part)
    state = {key: value for key, value in source.state_dict().items() if not key.startswith(heads)}
    own = {key: value for key, value in model.state_dict().items() if key.startswith(f"{model.classifier}.")}
    load_strict(model, state | own, source=name)
    return source.pretrained_cfg.get("license", "")


def _with_input(cfg: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``pretrained_cfg`` with other values of the keys that a data config has; ValueError for other keys."""
    sampling, test = dict(cfg.get("sampling") or catalog.SAMPLING), dict(cfg.get("test") or catalog.TEST)
    train = dict(cfg.get("train") or {})
    tables = {"sampling": sampling, "test": test, "train": train, "": cfg}
    for key, value in changes.items():
        places = INPUT_KEYS.get(key)
        if places is None:
            raise ValueError(f"input has no key {key!r}: did you mean {' or '.join(nearest_names(key, INPUT_KEYS))}?")
        for table, name in places:
            tables[table][name] = value
    return cfg | {"sampling": sampling, "test": test, "train": train}
