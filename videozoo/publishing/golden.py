"""Golden files: what a model computes for an input that anyone can make anew, so that a copy of it can be checked.

``golden.safetensors`` holds the outputs, and in its header as JSON the recipe of the inputs and what the weights are:
``{"inputs": [...], "weights": sha256, "source": address, "source_sha256": ..., "conversion_version": 1, ...}``. An
input is drawn by numpy's ``RandomState``, whose numbers are the same everywhere, or it is written out: ``{"shape":
[1, 3, 8, 256, 256], "seed": 0}``, ``{"values": [...], "dtype": "int64"}``; a list of inputs, such as the boxes of each
clip, is ``{"list": [...]}``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, catalog
from ..checkpoint import load_state_dict, read_metadata, save_state_dict

GOLDEN = "golden.safetensors"
TOLERANCE = 1e-4  # largest difference over the largest value
LARGEST = 2**27  # numbers in an input; the largest of the catalog has 13 million
SSN_FRAMES = 9  # of the video that SSN is given
SSN_TICKS = [[0, 2, 6, 9], [1, 3, 4, 5], [0, 0, 9, 9]]
SSN_SCALES = [[1.0, 0.5], [0.75, 1.0], [0.0, 0.0]]


class GoldenError(ValueError):
    """A golden file is not one, or is not of this model. The message names it."""


@dataclass(frozen=True)
class Golden:
    """Content of a golden file."""

    facts: dict[str, Any]
    """``inputs`` and what is known of the weights."""
    outputs: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Check:
    """How far a model's outputs are from the golden ones."""

    deviation: float
    """Largest difference over the largest value, of the worst output; NaN where one of them is no number."""
    output: str
    """The worst output."""

    @property
    def passed(self) -> bool:
        return self.deviation <= TOLERANCE


# Inputs --------------------------------------------------------------------------------------------------------------


def input_recipe(model: Any, shape: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Recipe of a model's inputs: one view at the size of its test, and for detectors persons, for SSN proposals.

    ``shape``: of the view, with the batch axis, in place of that of the test.
    """
    from ..model_cards import input_shape

    known = {key: value for key, value in model.pretrained_cfg.items() if key in catalog.FIELDS}
    names = {"name": "", "tag": "", "family": "", "dataset": ""}
    shape = list(shape or input_shape(catalog.Entry(**{**names, **known})))
    view = {"shape": shape, "seed": 0}
    if getattr(model, "task", "") == "detection":
        height, width = shape[3:]
        shares = [(0.1, 0.05, 0.45, 0.95), (0.5, 0.2, 0.98, 0.9), (-0.05, 0.4, 0.3, 1.1)]
        boxes = [[share * (width, height)[i % 2] for i, share in enumerate(row)] for row in shares]
        return [view, {"list": [{"values": boxes, "dtype": "float32"}]}]
    if hasattr(model, "forward_proposals"):
        view["shape"] = [*shape[:2], SSN_FRAMES, *shape[3:]]
        return [view, {"values": SSN_TICKS, "dtype": "int64"}, {"values": SSN_SCALES, "dtype": "float32"}]
    return [view]


def make_input(recipe: Mapping[str, Any]) -> Any:
    """The tensor, or list of tensors, of one recipe; GoldenError if it is none."""
    try:
        if "list" in recipe:
            return [make_input(part) for part in recipe["list"]]
        if "values" in recipe:
            dtype = {"float32": torch.float32, "int64": torch.int64}[recipe["dtype"]]
            return torch.tensor(recipe["values"], dtype=dtype)
        shape = [int(side) for side in recipe["shape"]]
        if not shape or min(shape) < 1 or math.prod(shape) > LARGEST:
            raise GoldenError(f"an input of shape {shape} is none that a model of videozoo takes")
        values = np.random.RandomState(recipe["seed"]).uniform(-2.0, 2.0, shape)
    except (KeyError, TypeError) as error:
        raise GoldenError(f"the recipe of an input cannot be read: {dict(recipe)}") from error
    return torch.from_numpy(values.astype(np.float32))


# Outputs -------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def golden_outputs(model: Any, inputs: list[Any]) -> dict[str, torch.Tensor]:
    """What a model gives in evaluation, on the CPU: ``logits`` or its named tensors.

    The mean over time of a localiser's features is added: its probabilities alone hardly depend on the weights.
    """
    was_training = model.training
    model.eval()
    try:
        result = model(*inputs)
        outputs = result._asdict() if hasattr(result, "_asdict") else {"logits": result}
        if getattr(model, "input_dims", 5) == 3:
            outputs["features"] = model.forward_features(inputs[0]).mean(-1)
    finally:
        model.train(was_training)
    return {name: value.float() for name, value in outputs.items()}


def make_golden(model: Any, weights_sha256: str, **facts: Any) -> Golden:
    """The golden file of a model on the CPU whose weights file has the hash ``weights_sha256``."""
    recipe = input_recipe(model)
    about = {"inputs": recipe, "weights": weights_sha256, "videozoo": __version__, "torch": str(torch.__version__)}
    return Golden({**about, **facts}, golden_outputs(model, [make_input(part) for part in recipe]))


def write_golden(golden: Golden, path: str | os.PathLike) -> Path:
    """Write a golden file, completely or not at all."""
    return save_state_dict(golden.outputs, path, metadata={"golden": json.dumps(golden.facts, sort_keys=True)})


def golden_facts(path: str | os.PathLike) -> dict[str, Any]:
    """The facts in a golden file's header; GoldenError if there are none."""
    try:
        facts = json.loads(read_metadata(path)["golden"])
        if isinstance(facts, dict) and isinstance(facts["inputs"], list):
            return facts
    except (KeyError, ValueError) as error:  # a CheckpointError is one, too
        raise GoldenError(f"{path} is not a golden file ({error}); push the model again to write it.") from error
    raise GoldenError(f"{path} is not a golden file: its header has no inputs; push the model again to write it.")


def read_golden(path: str | os.PathLike) -> Golden:
    """Content of a golden file; GoldenError if it is none."""
    return Golden(golden_facts(path), load_state_dict(path))


def verify_golden(model: Any, golden: Golden) -> Check:
    """Compute a golden file's outputs anew with a model on the CPU; GoldenError if it has others."""
    found = golden_outputs(model, [make_input(part) for part in golden.facts["inputs"]])
    shapes = [{name: tuple(value.shape) for name, value in outputs.items()} for outputs in (found, golden.outputs)]
    if shapes[0] != shapes[1]:
        raise GoldenError(f"the model gives outputs {shapes[0]}, its golden file has {shapes[1]}")
    deviations = {name: deviation(value, golden.outputs[name]) for name, value in found.items()}
    worst = max(deviations, key=lambda name: (math.isnan(deviations[name]), deviations[name]))
    return Check(deviations[worst], worst)


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    difference = (found - expected).abs().max().item()
    return difference / (expected.abs().max().item() or 1.0)
