"""Metrics of single-label recognition, and how the scores of views and of streams are put together.

Scores are `(N, C)`, one row a video; labels are class indices from 0. Everything is plain numpy, in blocks of rows, so
that a million videos of 400 classes take seconds and no second copy of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 1 << 22  # scores looked at together: 16 MB of float32


def score_matrix(scores: ArrayLike | Sequence[ArrayLike], labels: Sequence) -> np.ndarray:
    """Scores, an array or a list of rows, as `(N, C)`; ValueError if they are none or do not fit the labels."""
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be a table (videos, classes), got shape {scores.shape}: one row for each video.")
    if len(scores) != len(labels):
        raise ValueError(f"there are scores of {len(scores)} videos and labels of {len(labels)}: give one row a label.")
    return scores


def _class_indices(labels: ArrayLike, name: str = "labels") -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be one class index for each video, got {labels.dtype} of shape {labels.shape}; "
            "videos with several labels are measured by mean_average_precision."
        )
    return labels


def row_blocks(scores: np.ndarray) -> list[slice]:
    """Slices of rows that hold about `_BLOCK` scores each."""
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    return [slice(start, start + step) for start in range(0, len(scores), step)]


def softmax(scores: ArrayLike, axis: int = -1) -> np.ndarray:
    """Probabilities along an axis, computed without overflow; the floating type is kept."""
    scores = np.asarray(scores)
    exponentials = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def average_clips(scores: ArrayLike, average: str | None = "prob") -> np.ndarray:
    """Scores of a video from those of its views: `(..., views, C)` to `(..., C)`.

    "prob" takes the softmax of each view and then the mean, "score" the mean of the logits; None changes nothing.
    Published numbers differ in this, and the choice changes results.
    """
    scores = np.asarray(scores)
    if average is None:
        return scores
    if scores.ndim < 2 or not scores.shape[-2]:
        raise ValueError(f"scores must be (..., views, classes) with at least one view, got shape {scores.shape}.")
    if average == "prob":
        return softmax(scores).mean(axis=-2)
    if average == "score":
        return scores.mean(axis=-2)
    raise ValueError(f"average={average!r} is unknown: use 'prob', 'score' or None.")


def fuse_scores(scores: Sequence[ArrayLike], weights: Sequence[float] | None = None) -> np.ndarray:
    """Weighted sum of score tables of the same shape, for example of an RGB and a flow model.

    The videos must come in the same order; the weights, by default 1 each, are taken as they are, not normalised.
    """
    weights = [1.0] * len(scores) if weights is None else weights
    tables = [np.asarray(table) for table in scores]
    if not np.isfinite(weights).all():
        raise ValueError(f"weights of a fusion must be finite numbers, got {list(weights)}.")
    if not tables or len(tables) != len(weights):
        raise ValueError(f"{len(tables)} score tables and {len(weights)} weights were given: there must be one each.")
    shapes = {table.shape for table in tables}
    if len(shapes) != 1:
        raise ValueError(f"score tables of different shapes cannot be fused: {sorted(shapes)}.")
    return sum(table * weight for table, weight in zip(tables, weights, strict=True))


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, topk: int | Sequence[int] = (1, 5)) -> list[float]:
    """Share of videos whose label is among the k highest scores, for every k.

    Of equal scores the class with the HIGHER index counts as higher (`mean_class_accuracy` takes the lower), and nan
    counts as higher than all. A label that is no class is never found. k = 0, or beyond the number of classes, is all.

    Raises:
        ValueError: no videos, several labels a video, a negative k, or tables that do not fit together.
    """
    ks = [topk] if isinstance(topk, int) else list(topk)
    labels = _class_indices(labels) if len(labels) else np.empty(0, np.int64)
    scores = score_matrix(scores, labels)
    if not scores.size:
        raise ValueError("the accuracy of no videos is not defined: scores and labels are empty.")
    if any(k < 0 for k in ks):
        raise ValueError(f"topk must not be negative, got {ks}.")
    classes = scores.shape[1]
    known = (labels >= 0) & (labels < classes)
    ranks = np.concatenate([_ranks(scores[rows], np.where(known, labels, 0)[rows]) for rows in row_blocks(scores)])
    ranks[~known] = classes
    return [float(np.mean(ranks < (min(k, classes) or classes))) for k in ks]


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes score higher than the labelled one."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    later = np.arange(scores.shape[1]) > labels[:, None]
    higher = ~(scores <= own) | ((scores == own) & later)  # the negation makes nan high
    lost = np.isnan(own[:, 0])
    if lost.any():
        higher[lost] = np.isnan(scores[lost]) & later[lost]
    return higher.sum(axis=1)


def confusion_matrix(
    predicted: ArrayLike, actual: ArrayLike, normalize: str | None = None, num_classes: int | None = None
) -> np.ndarray:
    """Counts of (actual, predicted) pairs: rows are actual classes, columns predicted ones.

    Without `num_classes` the rows are the classes that occur in either list, sorted. `normalize` divides by the row
    ("true"), the column ("pred") or the total ("all"); what would be 0 / 0 is 0. Indices are Python ints or int64.
    """
    if normalize not in (None, "true", "pred", "all"):
        raise ValueError(f"normalize={normalize!r} is unknown: use 'true', 'pred', 'all' or None.")
    pair = []
    for name, indices in (("predicted", predicted), ("actual", actual)):
        indices = _class_indices(indices, name)
        if indices.dtype != np.int64:
            raise ValueError(f"{name} classes must be int64, got {indices.dtype}: convert with .astype('int64').")
        pair.append(indices)
    if len(pair[0]) != len(pair[1]):
        raise ValueError(f"{len(pair[0])} predictions do not fit {len(pair[1])} labels: give one for each video.")
    if num_classes is None:
        classes, places = np.unique(np.concatenate(pair), return_inverse=True)
        pair, num_classes = np.split(places, 2), len(classes)
    elif any(len(p) and (p.min() < 0 or p.max() >= num_classes) for p in pair):
        raise ValueError(f"a class index lies outside 0..{num_classes - 1}: see num_classes.")
    matrix = np.bincount(pair[1] * num_classes + pair[0], minlength=num_classes**2).reshape(num_classes, num_classes)
    if normalize is None:
        return matrix
    total = matrix.sum(axis={"true": 1, "pred": 0, "all": None}[normalize], keepdims=True)
    return np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)


def mean_class_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over classes of the share of a class's videos that are recognised.

    The mean runs over the classes that occur among the labels OR the predictions: one that is only predicted counts 0.
    Of equal scores the class with the lower index is predicted. Labels are Python ints or int64.
    """
    scores = score_matrix(scores, labels)
    if not scores.size:
        raise ValueError("the accuracy of no videos is not defined: scores and labels are empty.")
    return float(np.diag(confusion_matrix(scores.argmax(axis=1), labels, normalize="true")).mean())
