"""Removing what was found twice: soft and hard non-maximum suppression of segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..data.segments import segment_iou


def soft_nms(proposals: ArrayLike, *, alpha: float, low: float, high: float, top_k: int) -> np.ndarray:
    """Soft non-maximum suppression: the best is taken, the others that overlap it lose score, and again.

    Args:
        proposals: rows `(start, end, ..., score)` `(K, C >= 3)`, times as fractions of the video.
        alpha: a score is multiplied by `exp(-IoU^2 / alpha)`
        low: ... where the IoU is above `low + (high - low) * length` of the segment that was taken,
        high: so that long segments may overlap more.
        top_k: after this many and one more it ends.

    Returns:
        Rows `(start, end, score)` `(min(K, top_k + 1), 3)` in the order in which they were taken: best first, of equal
        scores the later row. The dtype is kept.
    """
    table = np.asarray(proposals)
    if table.ndim != 2 or table.shape[1] < 3:
        raise ValueError(f"proposals must be rows (start, end, ..., score), shape (K, 3 or more), got {table.shape}.")
    table = table[np.argsort(table[:, -1], kind="stable")[::-1]]
    start, end, score = table[:, 0], table[:, 1], table[:, -1].copy()
    left = np.ones(len(table), bool)
    taken = []
    while len(taken) < min(len(table), top_k + 1):
        best = int(np.argmax(np.where(left, score, -np.inf)))
        left[best] = False
        taken.append(best)
        iou = segment_iou(start[best], end[best], start, end)
        decays = left & (iou > low + (high - low) * (end[best] - start[best]))
        score[decays] *= np.exp(-np.square(iou[decays]) / alpha)
    return np.stack([start[taken], end[taken], score[taken]], axis=1)


def temporal_nms(detections: ArrayLike, threshold: float) -> np.ndarray:
    """Non-maximum suppression: rows that overlap a better one with an IoU above `threshold` are dropped.

    Args:
        detections: rows `(start, end, score, ...)` `(K, C >= 3)`; of equal scores the later row is the better.
        threshold: from 0 to 1.

    Returns:
        The rows that are left, best first.
    """
    table = np.asarray(detections)
    if not len(table):
        return table
    if table.ndim != 2 or table.shape[1] < 3:
        raise ValueError(f"detections must be rows (start, end, score, ...), shape (K, 3 or more), got {table.shape}.")
    table = table[np.argsort(table[:, 2], kind="stable")[::-1]]
    start, end = table[:, 0], table[:, 1]
    left = np.ones(len(table), bool)
    kept = []
    for row in range(len(table)):
        if left[row]:
            kept.append(row)
            left[row:] &= segment_iou(start[row], end[row], start[row:], end[row:]) <= threshold
    return table[kept]
