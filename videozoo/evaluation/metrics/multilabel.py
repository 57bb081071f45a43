"""Metrics of multi-label recognition: average precision over videos, over classes and for each category of HVU.

Scores and labels are `(N, C)`; a label is positive where it equals 1. Average precision is the step sum, not
interpolated, and equal scores form one threshold, so the order of ties does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from .classification import row_blocks, score_matrix

_COLUMNS = 16  # classes copied together: columns of a large table are slow to read one by one
_PAIRS = 1 << 24  # scores looked at together


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and thresholds `(K + 1,), (K + 1,), (K,)` of one class, thresholds increasing.

    Starts at the first threshold that finds every positive and ends at precision 1, recall 0. Without a positive the
    recall is nan. A score that is nan counts as higher than all numbers, and each nan is a threshold of its own.
    """
    scores, positive = np.asarray(scores), np.asarray(labels) == 1
    if scores.ndim != 1 or scores.shape != positive.shape or not len(scores):
        raise ValueError(f"scores and labels must be lists of one length, got {scores.shape} and {positive.shape}.")
    order = np.argsort(scores, kind="stable")[::-1]
    scores, positive = scores[order], positive[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)  # of each group of equal scores
    found = np.cumsum(positive)[last]
    precision = found / (last + 1)
    recall = found / found[-1] if found[-1] else np.full(len(found), np.nan)
    keep = slice(np.searchsorted(found, found[-1]), None, -1)
    return np.append(precision[keep], 1.0), np.append(recall[keep], 0.0), scores[last][keep]


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision of one class over videos `(N,)`; nan without a positive."""
    precision, recall, _ = precision_recall_curve(scores, labels)
    return float(-np.sum(np.diff(recall) * precision[:-1]))


def _average_precision_of_columns(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Average precision of each class `(C,)`, nan without a positive."""

    def of_block(start: int) -> list[float]:
        block = np.ascontiguousarray(scores[:, start : start + _COLUMNS].T)
        marks = np.ascontiguousarray(positive[:, start : start + _COLUMNS].T)
        return [_average_precision_of_class(values, mark) for values, mark in zip(block, marks, strict=True)]

    with ThreadPoolExecutor() as pool:  # sorting releases the interpreter's lock
        return np.concatenate(list(pool.map(of_block, range(0, scores.shape[1], _COLUMNS))))


def _average_precision_of_class(values: np.ndarray, mark: np.ndarray) -> float:
    """The mean over positives of (positives / all videos) that score no lower."""
    if not mark.any():
        return float("nan")
    if np.isnan(values).any():
        return average_precision(values, mark)
    own = np.sort(values[mark])
    rivals = np.sort(values[values >= own[0]])
    found = len(own) - np.searchsorted(own, own)
    return float(np.mean(found / (len(rivals) - np.searchsorted(rivals, own))))


def _average_precision_of_rows(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Average precision of each video over the classes `(N,)`, by comparing each positive score with all of its row."""
    rows, columns = np.nonzero(positive)
    sums = np.zeros(len(scores))
    step = max(1, _PAIRS // scores.shape[1])
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        no_lower = scores[row] >= scores[row, column][:, None]
        precision = (no_lower & positive[row]).sum(axis=1) / np.maximum(no_lower.sum(axis=1), 1)
        sums += np.bincount(row, precision, minlength=len(scores))
    with np.errstate(invalid="ignore"):
        result = sums / positive.sum(axis=1)
    for rows_of_block in row_blocks(scores):
        for row in np.flatnonzero(np.isnan(scores[rows_of_block]).any(axis=1)) + rows_of_block.start:
            result[row] = average_precision(scores[row], positive[row])
    return result


def _tables(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores = score_matrix(scores, labels)
    positive = np.asarray(labels) == 1
    if positive.shape != scores.shape:
        raise ValueError(
            f"labels of shape {positive.shape} do not fit scores of shape {scores.shape}: "
            "give 0 or 1 for each video and class (many_hot makes them from lists of indices)."
        )
    return scores, positive


def many_hot(labels: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """Lists of class indices as a table of 0 and 1, uint8 `(N, C)`; ValueError for an index that is no class."""
    table = np.zeros((len(labels), num_classes), np.uint8)
    rows = np.repeat(np.arange(len(labels)), [len(indices) for indices in labels])
    columns = np.fromiter((index for indices in labels for index in indices), np.int64, len(rows))
    wrong = (columns < 0) | (columns >= num_classes)
    if wrong.any():
        row, index = rows[wrong][0], columns[wrong][0]
        raise ValueError(f"video {row} has label {index}, but the classes are 0..{num_classes - 1}.")
    table[rows, columns] = 1
    return table


def mean_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over classes of the average precision over videos; classes without a positive are left out.

    nan if no class has one; ValueError if there are no videos.
    """
    scores, positive = _tables(scores, labels)
    if not scores.size:
        raise ValueError("the average precision of no videos is not defined: scores and labels are empty.")
    values = _average_precision_of_columns(scores, positive)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def mmit_mean_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over VIDEOS of the average precision over classes, the metric of Multi-Moments in Time.

    A single video without label makes it nan, and so does an empty table.
    """
    scores, positive = _tables(scores, labels)
    return float(_average_precision_of_rows(scores, positive).mean()) if scores.size else float("nan")


def hvu_mean_average_precision(
    scores: ArrayLike, labels: Sequence[Mapping[str, Sequence[int]]], categories: Mapping[str, int]
) -> dict[str, float]:
    """`mean_average_precision` of each tag category of HVU, as `{"action_mAP": ...}`.

    `labels` are `{category: tag indices within it}`, `categories` the number of tags of each, in the order in which
    their scores stand side by side. A video counts for a category only if its annotation has it. A category that no
    video has is a ValueError, one in which no video has a tag is nan.
    """
    scores = score_matrix(scores, labels)
    if scores.shape[1] != sum(categories.values()):
        total = sum(categories.values())
        raise ValueError(f"{scores.shape[1]} scores a video do not fit the {total} tags of {dict(categories)}.")
    result, start = {}, 0
    for category, size in categories.items():
        rows = [row for row, label in enumerate(labels) if category in label]
        if not rows:
            raise ValueError(f"no video is annotated with category {category!r}: leave it out of the categories.")
        table = many_hot([labels[row][category] for row in rows], size)
        result[f"{category}_mAP"] = mean_average_precision(scores[rows, start : start + size], table)
        start += size
    return result
