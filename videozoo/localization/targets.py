"""What the localisers are trained to say, from a video's segments as fractions of its length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.segments import overlap_share, segment_iou


@dataclass(frozen=True)
class BMNTargets:
    """Targets of one video, float32."""

    iou: np.ndarray
    """(T, T), rows durations, columns starts: IoU of each segment with the best true one; 0 beyond the video's end."""
    start: np.ndarray
    """(T,): share of a neighbourhood of each position that lies near a start."""
    end: np.ndarray
    """(T,)."""


@dataclass(frozen=True)
class BoundaryTargets:
    """Targets of one video, float32 (T,): shares of each position inside a segment, near a start and near an end."""

    action: np.ndarray
    start: np.ndarray
    end: np.ndarray


def _checked(segments: ArrayLike) -> np.ndarray:
    """Segments (G, 2) inside 0..1, those of no length left out."""
    table = np.asarray(segments, float).reshape(-1, 2)
    if not np.isfinite(table).all():
        raise ValueError(f"segments must be finite fractions (start, end), got {table.tolist()}.")
    table = np.clip(table, 0, 1)
    return table[table[:, 1] > table[:, 0]]


def _shares(first: np.ndarray, last: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Largest share of each window (T,) that lies inside one of the segments (G,); 0 without segments."""
    shares = overlap_share(first, last, starts[:, None], ends[:, None])
    return shares.max(0, initial=0).astype(np.float32)


def bmn_targets(segments: ArrayLike, positions: int = 100) -> BMNTargets:
    """Targets of BMN.

    A position's neighbourhood reaches from half a position before it to one and a half after; "near" a border is one
    and a half positions on both sides.

    Args:
        segments: `(G, 2)`, fractions; parts outside 0..1 are cut off. None: everything is 0.
        positions: T.
    """
    table = _checked(segments)
    rows, columns = np.indices((positions, positions))
    inside = rows + columns < positions
    first, last = columns[inside] / positions, (columns + rows + 1)[inside] / positions
    iou = np.zeros((positions, positions), np.float32)
    iou[inside] = segment_iou(first, last, *table.T[..., None]).max(0, initial=0)
    gap = 1 / positions
    before, after = gap * (np.arange(positions) - 0.5), gap * (np.arange(positions) + 1.5)
    start, end = (_shares(before, after, border - 1.5 * gap, border + 1.5 * gap) for border in table.T)
    return BMNTargets(iou, start, end)


def tem_targets(segments: ArrayLike, positions: int = 100, *, border: float = 0.1) -> BoundaryTargets:
    """Targets of BSN's first network; arguments as of `bmn_targets`.

    "Near" a border is a window of `border` of the segment's length around it, of at least one position.
    """
    table = _checked(segments)
    gap = 1 / positions
    first, last = gap * np.arange(positions), gap * np.arange(1, positions + 1)
    reach = np.maximum(gap, border * (table[:, 1] - table[:, 0])) / 2
    start, end = (_shares(first, last, place - reach, place + reach) for place in table.T)
    return BoundaryTargets(_shares(first, last, *table.T), start, end)
