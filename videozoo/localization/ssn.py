"""From the output of SSN to detections: scores of the classes, moved borders, NMS class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .nms import temporal_nms

NMS_THRESHOLD = 0.2
TOP_K = 2000  # scores of a video


def class_scores(activity: ArrayLike, completeness: ArrayLike) -> np.ndarray:
    """Scores `(K, C)`: probability among the actions alone times exp(completeness).

    Args:
        activity: `(K, 1 + C)` before the softmax; the background, first, takes no part in it.
        completeness: `(K, C)`.
    """
    activity, completeness = np.asarray(activity), np.asarray(completeness)
    if activity.ndim != 2 or completeness.shape != (len(activity), activity.shape[1] - 1):
        raise ValueError(
            f"activity (K, 1 + C) and completeness (K, C) do not fit: got {activity.shape} and {completeness.shape}."
        )
    raised = np.exp(activity[:, 1:] - activity[:, 1:].max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True) * np.exp(completeness)


def denormalized(regression: ArrayLike, stats: ArrayLike) -> np.ndarray:
    """Regression `(K, C, 2)` in lengths and logs of lengths; `stats` `(2, 2)`: mean and standard deviation."""
    mean, deviation = np.asarray(stats)
    return np.asarray(regression) * deviation + mean


def regress(rows: ArrayLike) -> np.ndarray:
    """Rows `(start, end, score, shift, log scale)` `(K, 5)` with moved borders, clipped to 0..1."""
    rows = np.array(rows)
    center, length = (rows[:, 0] + rows[:, 1]) / 2, rows[:, 1] - rows[:, 0]
    center, length = center + length * rows[:, 3], length * np.exp(rows[:, 4])
    rows[:, 0] = np.clip(center - length / 2, 0, 1)
    rows[:, 1] = np.clip(center + length / 2, 0, 1)
    return rows


def class_detections(
    proposals: ArrayLike,
    activity: ArrayLike,
    completeness: ArrayLike,
    regression: ArrayLike | None = None,
    *,
    top_k: int = TOP_K,
) -> list[np.ndarray]:
    """The `top_k` best scores of a video, by class, the best last: rows `(start, end, score, shift, log scale)`.

    Args:
        proposals: `(K, 2)`, fractions of the video.
        activity, completeness: see `class_scores`.
        regression: `(K, C, 2)`, see `denormalized`; None: zeros.
        top_k: of all K * C scores; 0 or less: all, in the order of the proposals.
    """
    scores = class_scores(activity, completeness)
    proposals = np.asarray(proposals)
    if proposals.shape != (len(scores), 2):
        raise ValueError(f"{len(scores)} scores need as many proposals (start, end), got shape {proposals.shape}.")
    offsets = np.zeros((*scores.shape, 2), scores.dtype) if regression is None else np.asarray(regression)
    rows, columns = np.indices(scores.shape).reshape(2, -1)
    if top_k > 0:
        best = np.argsort(scores.ravel(), kind="stable")[-top_k:]
        rows, columns = rows[best], columns[best]
    table = np.concatenate([proposals[rows], scores[rows, columns, None], offsets[rows, columns]], axis=1)
    return [table[columns == label] for label in range(scores.shape[1])]


def ssn_detections(
    proposals: ArrayLike,
    activity: ArrayLike,
    completeness: ArrayLike,
    regression: ArrayLike | None = None,
    *,
    top_k: int = TOP_K,
    threshold: float = NMS_THRESHOLD,
) -> list[np.ndarray]:
    """Detections of a video, by class: rows `(start, end, score, ...)`, best first, times as fractions.

    Arguments as of `class_detections`; `threshold`: see `temporal_nms`.
    """
    tables = class_detections(proposals, activity, completeness, regression, top_k=top_k)
    return [temporal_nms(table if regression is None else regress(table), threshold) for table in tables]
