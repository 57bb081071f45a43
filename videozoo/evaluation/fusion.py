"""Late fusion in an evaluation: the scores of two runs added, as two-stream rows of published tables are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

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
    by_name = {str(PurePosixPath(name).with_suffix("")): row for name, row in saved.items()}
    rows = [by_name.get(str(PurePosixPath(name).with_suffix(""))) for name in result.videos]
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
        remark=" ".join(filter(None, (result.remark, f"Scores fused 1:{weight:g} with those of {partner}."))),
        videos=videos,
        labels=[result.labels[i] for i in kept],
        scores=scores,
        failures=[*result.failures, *(Failure(name, f"{other} has no scores of it") for name in absent)],
        comparison=None,
    )


def published_fusion(model: dict[str, Any], partner: str) -> dict[str, Any]:
    """The published row of ``model`` fused 1:1 with the entry ``partner``; empty if there is none."""
    return next((dict(row) for row in model.get("metrics", ()) if row.get("fused_with") == partner), {})
