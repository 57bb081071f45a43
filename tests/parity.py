"""Parity cases: what a published implementation computes for weights and an input that anyone can regenerate.

``data/parity/ID.json.gz`` lists the keys of the published state dict with their shapes, the inputs and the outputs;
``ID.npz`` holds the outputs. Every weight follows from its key and shape alone.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "data" / "parity"


def read_case(case_id: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The case's description and its expected outputs."""
    case = json.loads(gzip.decompress((FOLDER / f"{case_id}.json.gz").read_bytes()))
    with np.load(FOLDER / f"{case_id}.npz") as arrays:
        return case, dict(arrays)


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of one entry of a case's state dict."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        return random.uniform(0.8, 1.2, shape).astype(np.float32)
    if key.endswith("running_mean"):
        return (0.05 * random.standard_normal(shape)).astype(np.float32)
    if len(shape) < 2:
        is_scale = key.endswith("weight")
        values = random.uniform(0.4, 0.9, shape) if is_scale else 0.05 * random.standard_normal(shape)
        return values.astype(np.float32)
    if shape[0] == 1:
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    gain = 2.0 if len(shape) > 3 else 1.0
    return (np.sqrt(gain / int(np.prod(shape[1:]))) * random.standard_normal(shape)).astype(np.float32)


def state_dict(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The whole published state dict of a case."""
    state = {}
    for key, shape, _ in case["keys"]:
        value = weight(key, tuple(shape))
        for pattern, factor in case.get("scale", []):
            if re.search(pattern, key):
                value = (value * np.float32(factor)).astype(value.dtype)
        state[key] = torch.from_numpy(np.asarray(value))
    return state


def clip(case: dict[str, Any], index: int = 0) -> torch.Tensor:
    """A case's input, already normalised."""
    spec = case["inputs"][index]
    values = np.random.RandomState(spec["seed"]).uniform(-2.0, 2.0, spec["shape"])
    return torch.from_numpy(values.astype(np.float32))


def write_checkpoint(case: dict[str, Any], path: Path) -> Path:
    """A checkpoint file as the source publishes it."""
    state = state_dict(case)
    container = case.get("container", "").split(" ")[0]  # "blobs (Caffe2 names)"
    content = {container: state, "meta": {"epoch": 1}} if container else state
    torch.save(content, path)
    return path


def relative_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    return float(np.abs(actual.numpy() - expected).max() / np.abs(expected).max())
