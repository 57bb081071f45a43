"""Late fusion in an evaluation: the scores of two runs added, as two-stream rows of published tables are."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.annotations import is_video_file
from ..data.datasets import Dataset
from .metrics import fuse_scores
from .recognition import dataset_metrics, video_names
from .result import EvaluationResult, Failure
from .storage import read_scores


def fuse(
    result: EvaluationResult, dataset: Dataset, other: str | os.PathLike[str], weight: float = 1.0
) -> EvaluationResult:
    """The result of adding ``weight`` times the scores saved in folder ``other`` to those of ``result``.

    Videos are matched by name without suffix, so that a run on videos and one on their flow folders fit together; one
    that the other run lacks becomes a failure. Beside it stand the published numbers of this pair, if there are any.

    Raises:
        ValueError: ``other`` holds no saved scores, or those of another number of classes.
    """
    saved, manifest = read_scores(other)
    by_name = {_stem(name): row for name, row in saved.items()}
    if len(by_name) < len(saved):
        raise ValueError(f"{other} has several videos that differ in their suffix alone: they cannot be told apart.")
    rows = [by_name.get(_stem(name)) for name in result.videos]
    kept = [i for i, row in enumerate(rows) if row is not None]
    absent = [result.videos[i] for i, row in enumerate(rows) if row is None]
    partner = str(manifest.get("model", other))
    classes = {len(rows[i]) for i in kept} - {result.scores.shape[1]}
    if classes:
        raise ValueError(
            f"{other} has scores of {max(classes)} classes, the model here has {result.scores.shape[1]}: "
            "fuse runs of models with the same classes."
        )
    scores = result.scores[:0]
    if kept:
        scores = fuse_scores([result.scores[kept], np.stack([rows[i] for i in kept])], [1.0, weight])
    numbers = {name: number for number, name in enumerate(video_names(dataset))}
    videos = [result.videos[i] for i in kept]
    return replace(
        result,
        model={**result.model, "full_name": f"{result.model['full_name']} + {partner}"},
        metrics=dataset_metrics(dataset, scores, [numbers[name] for name in videos]),
        published=published_fusion(result.model, partner) if weight == 1.0 else {},
        remark=" ".join(filter(None, (result.remark, _remark(partner, weight, manifest)))),
        videos=videos,
        labels=[result.labels[i] for i in kept],
        scores=scores,
        failures=[*result.failures, *(Failure(name, f"{other} has no scores of it") for name in absent)],
        comparison=None,
    )


def _stem(name: str) -> str:
    """The name without a video's suffix; the frames of a part, ``[5:15]``, stay."""
    path, part = re.fullmatch(r"(.*?)((?:\[\d+:\d+\])?(?:#\d+)?)", name, re.DOTALL).groups()
    return (os.path.splitext(path)[0] if is_video_file(path) else path) + part


def _remark(partner: str, weight: float, manifest: dict[str, Any]) -> str:
    fingerprint = manifest.get("fingerprint", {})
    views = json.loads(fingerprint.get("protocol", "{}")).get("views", "full")
    remark = f"Scores fused 1:{weight:g} with those of {partner}"
    return f"{remark}, which are of one view: not comparable with published ones." if views != "full" else f"{remark}."


def published_fusion(model: dict[str, Any], partner: str) -> dict[str, Any]:
    """The published row of ``model`` fused 1:1 with the entry ``partner``; empty if there is none."""
    return next((dict(row) for row in model.get("metrics", ()) if row.get("fused_with") == partner), {})
