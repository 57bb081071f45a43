"""Metrics of temporal localisation: recall of proposals (AR@AN, AUC) and precision of detections (mAP at IoUs).

Segments are `(start, end)` in any one unit. A detection counts for the segment of its video that it overlaps most and
that no better detection has taken; the thresholds of the published numbers are below.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...data.segments import pairwise_iou, segment_iou

ANET_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""ActivityNet, proposals and detections: 0.5, 0.55, ... 0.95."""
THUMOS14_THRESHOLDS = tuple(np.arange(0.1, 1.0, 0.1).tolist())
"""THUMOS14, detections: 0.1, 0.2, ... 0.9."""
_COLUMNS = 100  # points of the AR-AN curve: percentages of the largest average number of proposals


@dataclass(frozen=True)
class ProposalRecall:
    """Recall of proposals against their number."""

    recall: np.ndarray
    """(thresholds, 100): column j at j + 1 percent of `max_avg_proposals`."""
    average_recall: np.ndarray
    """(100,): mean over thresholds."""
    proposals_per_video: np.ndarray
    """(100,): average number of proposals a video at each column."""
    auc: float
    """Area under average recall, in percent of the largest possible one."""

    def at(self, *numbers: int) -> dict[str, float]:
        """`{"AR@1": ..., "AR@100": ...}` from columns 1, ..., 100: numbers only where the maximum is 100 a video."""
        return {f"AR@{number}": float(self.recall[:, number - 1].mean()) for number in numbers}


def average_recall(
    ground_truth: Mapping[Hashable, ArrayLike],
    proposals: Mapping[Hashable, ArrayLike],
    *,
    max_avg_proposals: float | None = 100,
    thresholds: Sequence[float] = ANET_THRESHOLDS,
    total_proposals: int | None = None,
) -> ProposalRecall:
    """Average recall at average numbers of proposals (AR@AN) of class-free proposals.

    Args:
        ground_truth: segments `(G, 2)` of each video.
        proposals: rows `(start, end, score)` `(K, 3)` of each video; `(0, 3)` where there are none. Of equal scores
            the later row comes first. Videos without ground truth count in the total alone.
        max_avg_proposals: average number of proposals a video that is kept; None: all.
        thresholds: IoUs from which on a segment counts as found.
        total_proposals: number of proposals that averages refer to; None: that of `proposals`.

    Raises:
        ValueError: no ground truth or no proposals at all, or a video without an entry in `proposals`.
    """
    total = sum(map(len, proposals.values())) if total_proposals is None else total_proposals
    if not ground_truth or not total:
        raise ValueError(f"recall needs segments and proposals, got {len(ground_truth)} videos and {total} proposals.")
    if missing := [video for video in ground_truth if video not in proposals]:
        raise ValueError(f"video {missing[0]!r} has no proposals: give an empty array (0, 3) where none were found.")
    maximum = max_avg_proposals or total / len(ground_truth)
    share = maximum * len(ground_truth) / total
    tables = {video: np.asarray(proposals[video], np.float64).reshape(-1, 3) for video in ground_truth}
    kept = sum(min(len(rows), int(len(rows) * share)) for rows in tables.values())
    columns = np.arange(1, _COLUMNS + 1) / 100.0 * (maximum * len(ground_truth) / kept if kept else 0.0)
    levels = np.asarray(thresholds)[:, None, None]
    found, segments = np.zeros((len(levels), _COLUMNS)), 0
    for video, rows in tables.items():
        truth = np.asarray(ground_truth[video], np.float64).reshape(-1, 2)
        segments += len(truth)
        rows = rows[np.argsort(rows[:, 2], kind="stable")[::-1]][: int(len(rows) * share)]
        if len(rows) and len(truth):
            hits = pairwise_iou(truth, rows[:, :2]) >= levels  # (thresholds, G, K)
            first = np.where(hits.any(2), hits.argmax(2), len(rows))
            found += (first[..., None] < np.minimum((len(rows) * columns).astype(int), len(rows))).sum(1)
    recall = found / segments
    average = recall.mean(0)
    per_video = columns * (kept / len(ground_truth))
    area = float(np.trapezoid(average, per_video))
    return ProposalRecall(recall, average, per_video, 100 * area / float(per_video[-1]))


def interpolated_average_precision(precision: ArrayLike, recall: ArrayLike) -> float:
    """Area under the curve of precision made non-increasing, over recall; 0 without a detection.

    Both are `(K,)`, in the order of falling scores.
    """
    return float(_areas(np.asarray(precision)[None], np.asarray(recall)[None])[0])


def _areas(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """`interpolated_average_precision` of each row of `(thresholds, K)`."""
    edge = np.zeros((len(precision), 1), precision.dtype)
    precision = np.concatenate([edge, precision, edge], axis=1)
    recall = np.concatenate([edge, recall, edge + 1], axis=1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    steps = recall[:, 1:] - recall[:, :-1]
    return np.where(steps != 0, steps * precision[:, 1:], 0).sum(1)


def detection_average_precision(
    ground_truth: Mapping[Hashable, ArrayLike],
    detections: Sequence[tuple[Hashable, float, float, float]],
    thresholds: Sequence[float] = THUMOS14_THRESHOLDS,
    *,
    dtype: type = np.float32,
    ties: str = "last",
) -> np.ndarray:
    """Average precision of one class at each IoU threshold, `(thresholds,)`.

    Args:
        ground_truth: segments `(G, 2)` of each video.
        detections: `(video, start, end, score)` of each; those in videos without ground truth are wrong.
        thresholds: IoUs from which on a detection is right.
        dtype: of counts and result: float32 as in the published THUMOS14 evaluation, float64 as in ActivityNet's.
        ties: which of equal scores comes first, the "first" or the "last" of the list.

    Returns:
        nan where there is a detection but no segment, 0 where there is no detection.
    """
    if ties not in ("first", "last"):
        raise ValueError(f"ties={ties!r} is unknown: use 'first' or 'last'.")
    if not detections:
        return np.zeros(len(thresholds), dtype)
    names = {video: number for number, video in enumerate(dict.fromkeys(row[0] for row in detections))}
    owner = np.array([names[row[0]] for row in detections])
    table = np.array([row[1:] for row in detections], np.float64)
    order = np.argsort(-table[:, 2], kind="stable")
    if ties == "last":
        order = np.argsort(table[:, 2], kind="stable")[::-1]
    truth = [np.asarray(ground_truth.get(video, ()), np.float64).reshape(-1, 2) for video in names]
    right = _matches(truth, table[order, :2], owner[order], np.asarray(thresholds)).astype(dtype)
    total = sum(map(len, ground_truth.values()))
    hits, misses = right.cumsum(1, dtype=dtype), (1 - right).cumsum(1, dtype=dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _areas(hits / (hits + misses), hits / dtype(total)).astype(dtype)


def _matches(truth: list[np.ndarray], segments: np.ndarray, owner: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which detections, best first, find a segment that is still free: bool `(thresholds, K)`.

    Works on the n-th detection of all videos at a time, videos with equally many segments together.
    """
    right = np.zeros((len(thresholds), len(segments)), bool)
    by_video = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(truth))
    begin = np.cumsum(counts) - counts
    sizes = np.array([len(rows) for rows in truth])
    for size in np.unique(sizes[sizes > 0]):
        group = np.flatnonzero((sizes == size) & (counts > 0))
        group = group[np.argsort(-counts[group], kind="stable")]  # videos with more detections first
        starts, ends = np.stack([truth[video] for video in group]).transpose(2, 0, 1)[..., ::-1]  # ties: the last one
        free = np.ones((len(thresholds), len(group), size), bool)
        for rank in range(counts[group[0]] if len(group) else 0):
            active = group[: np.searchsorted(-counts[group], -rank)]  # those with more than `rank`
            rows, n = by_video[begin[active] + rank], len(active)
            iou = segment_iou(starts[:n], ends[:n], segments[rows, :1], segments[rows, 1:]).astype(np.float32)
            usable = free[:, :n] & ~(iou < thresholds[:, None, None])  # nan, of two points at one place, counts
            best = np.where(usable, np.where(np.isnan(iou), np.inf, iou), -1).argmax(2)  # (thresholds, n)
            hit = usable.any(2)
            level, video = np.nonzero(hit)
            free[level, video, best[level, video]] = False
            right[:, rows] = hit
    return right


def detection_map(
    ground_truth: Mapping[Hashable, Sequence[tuple[float, float, Any]]],
    detections: Mapping[Hashable, Sequence[tuple[float, float, float, Any]]],
    thresholds: Sequence[float] = ANET_THRESHOLDS,
) -> dict[str, Any]:
    """Mean average precision of ActivityNet's detections, as its organisers measure it.

    Args:
        ground_truth: `(start, end, label)` of each segment of each video.
        detections: `(start, end, score, label)` of each detection of each video; of equal scores the earlier comes
            first. Detections in videos without ground truth are wrong.
        thresholds: IoUs from which on a detection is right.

    Returns:
        `labels` in order of first appearance in the ground truth, `ap` `(thresholds, labels)`, `mAP` `(thresholds,)`
        and `average_mAP`, all from 0 to 1.

    Raises:
        ValueError: a label that no segment has, or no segments at all.
    """
    truth: dict[Any, dict[Hashable, list[tuple[float, float]]]] = {}
    for video, rows in ground_truth.items():
        for start, end, label in rows:
            truth.setdefault(label, {}).setdefault(video, []).append((start, end))
    if not truth:
        raise ValueError("the precision on no segments is not defined: the ground truth is empty.")
    found: dict[Any, list[tuple[Hashable, float, float, float]]] = {label: [] for label in truth}
    for video, detected in detections.items():
        for start, end, score, label in detected:
            if label not in found:
                raise ValueError(f"video {video!r}: no segment of the ground truth has the label {label!r}.")
            found[label].append((video, start, end, score))
    exact = {"dtype": np.float64, "ties": "first"}
    columns = [detection_average_precision(truth[label], found[label], thresholds, **exact) for label in truth]
    ap = np.stack(columns, axis=1)
    return {"labels": list(truth), "ap": ap, "mAP": ap.mean(1), "average_mAP": float(ap.mean())}


def thumos14_precision(
    ground_truth: Mapping[Any, Mapping[int, ArrayLike]],
    detections: Mapping[Any, Sequence[np.ndarray]],
    thresholds: Sequence[float] = THUMOS14_THRESHOLDS,
) -> np.ndarray:
    """Average precision of each class at each IoU threshold, `(classes, thresholds)` float32.

    nan where there are detections of a class without ground truth.

    Args:
        ground_truth: for each video segments `(G, 2)` of its classes, from 0.
        detections: for each video rows `(start, end, score, ...)` of each class, from 0.
        thresholds: IoUs from which on a detection is right.
    """
    classes = len(next(iter(detections.values()), ()))
    table = []
    for label in range(classes):
        truth = {video: of[label] for video, of in ground_truth.items() if label in of}
        found = [(video, *row[:3]) for video, by_class in detections.items() for row in by_class[label].tolist()]
        table.append(detection_average_precision(truth, found, thresholds))
    return np.stack(table) if table else np.zeros((0, len(thresholds)), np.float32)


def thumos14_map(
    ground_truth: Mapping[Any, Mapping[int, ArrayLike]],
    detections: Mapping[Any, Sequence[np.ndarray]],
    thresholds: Sequence[float] = THUMOS14_THRESHOLDS,
) -> dict[str, float]:
    """`{"mAP@0.10": ..., "mAP@0.90": ...}`: means over all classes of the detections' average precision.

    nan if there are detections of a class without ground truth: it is not left out of the mean, as published. Arguments
    as of `thumos14_precision`.
    """
    table = thumos14_precision(ground_truth, detections, thresholds)
    means = table.mean(0) if len(table) else np.full(len(thresholds), np.nan)
    return {f"mAP@{threshold:.2f}": float(mean) for threshold, mean in zip(thresholds, means, strict=True)}
