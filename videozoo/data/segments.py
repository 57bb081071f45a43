"""Arithmetic on segments of time: `(start, end)` in any unit, as arrays `(..., 2)` or apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["overlap_share", "pairwise_iou", "segment_iou"]


def _table(segments: ArrayLike, name: str) -> np.ndarray:
    table = np.asarray(segments)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"{name} must be (start, end) rows, shape (K, 2), got {table.shape}.")
    return table


def pairwise_iou(targets: ArrayLike, candidates: ArrayLike, dtype: type = np.float32) -> np.ndarray:
    """IoU of every target `(G, 2)` with every candidate `(K, 2)`: `(G, K)`.

    float32 as in the published evaluation, where a value on a threshold can fall to either side. Segments of no length
    give nan with themselves (0 / 0).
    """
    targets, candidates = _table(targets, "targets"), _table(candidates, "candidates")
    return segment_iou(*targets.T[..., None], *candidates.T).astype(dtype)


def segment_iou(start: ArrayLike, end: ArrayLike, other_start: ArrayLike, other_end: ArrayLike) -> np.ndarray:
    """IoU of segments given by starts and ends, which broadcast; nan for two segments of no length at one place."""
    start, end, other_start, other_end = map(np.asarray, (start, end, other_start, other_end))
    common = np.maximum(np.minimum(end, other_end) - np.maximum(start, other_start), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return common / ((end - start) + (other_end - other_start) - common)


def overlap_share(start: ArrayLike, end: ArrayLike, other_start: ArrayLike, other_end: ArrayLike) -> np.ndarray:
    """The share of the first segments that lies inside the others; nan for a segment of no length."""
    start, end, other_start, other_end = map(np.asarray, (start, end, other_start, other_end))
    common = np.maximum(np.minimum(end, other_end) - np.maximum(start, other_start), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return common / (end - start)
