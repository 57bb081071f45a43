"""All metrics of a data set at once, under the names that published tables use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .classification import mean_class_accuracy, score_matrix, top_k_accuracy
from .multilabel import hvu_mean_average_precision, many_hot, mean_average_precision, mmit_mean_average_precision

METRICS = (
    "top_k_accuracy",
    "mean_class_accuracy",
    "mean_average_precision",
    "mmit_mean_average_precision",
    "hvu_mean_average_precision",
)
_MULTI_LABEL = {
    "mean_average_precision": mean_average_precision,
    "mmit_mean_average_precision": mmit_mean_average_precision,
}


def evaluate(
    scores: ArrayLike,
    labels: Sequence[Any] | np.ndarray,
    metrics: str | Sequence[str] = ("top_k_accuracy", "mean_class_accuracy"),
    *,
    topk: int | Sequence[int] = (1, 5),
    categories: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Metrics of scores `(N, C)` as a dict: `top1_acc`, `top5_acc`, `mean_class_accuracy`, `mean_average_precision`,
    for HVU `action_mAP` and so on.

    `labels` is what `Dataset.labels` gives: a class index for each video; for the multi-label metrics a many-hot array
    `(N, C)`, or a list with the indices of each video; for HVU a list of `{category: indices}`, together with
    `categories`, the number of tags of each.

    Raises:
        ValueError: unknown metric, scores that do not fit the labels, or both multi-label metrics together, which
            report under one name.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}.")
    if len(set(metrics) & _MULTI_LABEL.keys()) > 1:
        raise ValueError(f"{' and '.join(_MULTI_LABEL)} both report as 'mean_average_precision': ask for one of them.")
    scores = score_matrix(scores, labels)
    result: dict[str, float] = {}
    for name in metrics:
        if name == "top_k_accuracy":
            ks = [topk] if isinstance(topk, int) else list(topk)
            values = top_k_accuracy(scores, labels, ks)
            result |= {f"top{k}_acc": value for k, value in zip(ks, values, strict=True)}
        elif name == "mean_class_accuracy":
            result[name] = mean_class_accuracy(scores, labels)
        elif name == "hvu_mean_average_precision":
            if categories is None:
                raise ValueError("hvu_mean_average_precision needs categories={name: number of tags}.")
            result |= hvu_mean_average_precision(scores, labels, categories)
        else:
            table = labels if isinstance(labels, np.ndarray) else many_hot(labels, scores.shape[1])
            result["mean_average_precision"] = _MULTI_LABEL[name](scores, table)
    return result
