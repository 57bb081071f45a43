"""The checkpoint of a run: all that its next step depends on, and what a run must be like to go on from it."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import CheckpointError, atomic_path
from ..data.datasets import Dataset
from .config import TrainConfig

__all__ = ["fingerprint", "read_checkpoint", "remove_unfinished", "write_checkpoint"]

CHECKPOINT = "checkpoint.pt"
FREE_TO_CHANGE = ("workers", "compile", "logger", "checkpoint_every", "patience")  # a resumed run may differ in these


def fingerprint(
    config: TrainConfig, cfg: Mapping[str, Any], clips_per_pass: int, train: Dataset, val: Dataset | None
) -> dict[str, Any]:
    """What decides the numbers of a run: settings, the model's ``pretrained_cfg``, clips of all processes, videos."""
    settings = {key: value for key, value in config.to_dict().items() if key not in FREE_TO_CHANGE}
    parts = {"train": train, "val": val}
    videos = {name: getattr(part, "digest", "") or _digest(part) for name, part in parts.items()}
    facts = {key: cfg.get(key) for key in ("architecture", "model_args", "pretrain")}
    return json.loads(json.dumps({**settings, **facts, "clips_per_pass": clips_per_pass, **videos}))


def _digest(dataset: Dataset | None) -> str:
    """Of the videos and labels of a data set, not of its place."""
    digest = hashlib.sha256()
    for sample in dataset or ():
        digest.update(f"{sample.path} {sample.start} {sample.num_frames} {sample.label}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


def write_checkpoint(folder: Path, run: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write ``content`` (tensors and plain values) with the run's fingerprint, completely or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = folder / CHECKPOINT
    try:
        with atomic_path(path) as temporary:
            torch.save({"fingerprint": json.dumps(run, sort_keys=True), **content}, temporary)
    except (OSError, RuntimeError) as error:  # torch tells a full disk by the latter
        reason = getattr(error, "strerror", "") or str(error).splitlines()[0]
        raise OSError(f"{path} cannot be written ({reason}): free space, or choose another folder.") from error


def read_checkpoint(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was written, in main memory; None where there is none.

    Raises:
        CheckpointError: the file is damaged.
        ValueError: it is of a run with another fingerprint; the message says in what.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(saved["fingerprint"])
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged: delete it, or begin anew with restart.") from error
    changed = [f"{key} {before.get(key)!r} -> {run.get(key)!r}" for key in run if before.get(key) != run.get(key)]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): go on with the same ones, "
            "begin anew with restart, or choose another folder."
        )
    return saved


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left in a run's folder."""
    for place in (folder, folder / "last"):
        for name in (CHECKPOINT, "model.safetensors"):
            for path in place.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)
