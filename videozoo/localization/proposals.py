"""From the outputs of BMN and BSN to scored segments.

BMN: `bmn_proposals` -> `finish_proposals`. BSN: `candidates` of the boundary scores -> `describe_candidates` -> the
second network -> `bsn_proposals` -> `finish_proposals`. Then `label_segments` with the scores of a classifier of
videos. Times are fractions of the video until `finish_proposals` makes seconds of them. Everything is numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..data.segments import overlap_share, segment_iou
from .nms import soft_nms

BMN_NMS = {"alpha": 0.4, "low": 0.5, "high": 0.9}
BSN_NMS = {"alpha": 0.75, "low": 0.65, "high": 0.9}
TRAIN_CANDIDATES, TEST_CANDIDATES = 500, 1000  # of a video, for the second network of BSN
FEATURE_STRIDE = 16  # frames a feature vector of the published features covers


def peaks(scores: ArrayLike, threshold: float = 0.5) -> np.ndarray:
    """Where a score is a strict local maximum or above `threshold` times the largest: bool `(T,)`, the ends False."""
    scores = np.asarray(scores)
    result = np.zeros(len(scores), bool)
    middle = scores[1:-1]
    result[1:-1] = ((middle > scores[2:]) & (middle > scores[:-2])) | (middle > threshold * scores.max(initial=0))
    return result


def bmn_proposals(confidence: ArrayLike, start: ArrayLike, end: ArrayLike) -> np.ndarray:
    """Candidates of one video from BMN's output, rows `(start, end, score)` `(K, 3)`; may be none.

    A candidate begins at a peak of `start` (or the first position) and ends at one of `end` (or the last). Its score
    is the product of both probabilities and both confidences.

    Args:
        confidence: `(2, T, T)`, rows durations, columns starts.
        start: `(T,)`.
        end: `(T,)`.
    """
    confidence, start, end = (np.asarray(a) for a in (confidence, start, end))
    count = len(start)
    if confidence.shape != (2, count, count) or end.shape != (count,):
        raise ValueError(
            "confidence (2, T, T), start (T,) and end (T,) of one video do not fit together: got "
            f"{confidence.shape}, {start.shape} and {end.shape}."
        )
    starts, ends = peaks(start), peaks(end)
    starts[0] = ends[-1] = True
    # in the order of durations, then starts: of equal scores the later one wins
    duration, first = np.divmod(np.arange(count * count), count)
    last = duration + first + 1
    inside = last < count
    duration, first, last = duration[inside], first[inside], last[inside]
    chosen = starts[first] & ends[last]
    duration, first, last = duration[chosen], first[chosen], last[chosen]
    regressed, classified = confidence[:, duration, first]
    score = start[first] * end[last] * classified * regressed
    return np.stack([first / count, last / count, score], axis=1)


def candidates(start: ArrayLike, end: ArrayLike, threshold: float = 0.5) -> np.ndarray:
    """BSN's candidates of one video: every pair of a likely start and a later likely end.

    The first and last positions are always likely. Rows `(start, end, start score, end score, score)` `(K, 5)`, best
    first; times are the middles of positions. Of equal scores the later pair (by end, then start) comes first.

    Args:
        start: probabilities `(T,)`.
        end: probabilities `(T,)`.
        threshold: see `peaks`.
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    if start.ndim != 1 or start.shape != end.shape or not len(start):
        raise ValueError(f"start and end must be scores (T,) of one video, got {start.shape} and {end.shape}.")
    starts, ends = peaks(start, threshold), peaks(end, threshold)
    starts[[0, -1]] = ends[[0, -1]] = True
    last, first = np.nonzero(np.tril(np.logical_and.outer(ends, starts), -1))
    gap = 1 / len(start)
    columns = [first * gap + gap / 2, last * gap + gap / 2, start[first], end[last], start[first] * end[last]]
    rows = np.stack(columns, axis=1)
    return rows[np.argsort(rows[:, 4], kind="stable")[::-1]]


def match_candidates(rows: ArrayLike, segments: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU with any of the true `segments` `(G, 2)`, and largest share inside one, of each candidate: `(K,)`.

    0 where there are no segments.
    """
    start, end = np.asarray(rows)[:, :2].T
    segments = np.asarray(segments, float).reshape(-1, 2)
    if not len(segments):
        return np.zeros(len(start)), np.zeros(len(start))
    other = segments.T[..., None]
    return segment_iou(start, end, *other).max(0), overlap_share(start, end, *other).max(0)


def describe_candidates(
    rows: ArrayLike,
    action: ArrayLike,
    *,
    margin: float = 0.2,
    action_points: int = 16,
    border_points: int = 8,
    mean_of: int = 3,
) -> np.ndarray:
    """Boundary-sensitive features of candidates, `(K, 32)`: what BSN's second network sees of each.

    Action probability at 16 points of the candidate, at 8 around its start and at 8 around its end; a point is the
    mean of neighbouring interpolated values. Beyond the video the probability is 0. The published networks were
    trained on action alone, also around the borders.

    Args:
        rows: `(start, end, ...)` of each candidate.
        action: probabilities `(T,)`.
        margin: how far around a border points lie, as a share of the candidate's length.
    """
    first, last = np.asarray(rows, float)[:, :2].T
    reach = margin * (last - first)
    action = np.asarray(action)
    parts = [
        _sampled(action, first, last, action_points, mean_of),
        _sampled(action, first - reach, first + reach, border_points, mean_of),
        _sampled(action, last - reach, last + reach, border_points, mean_of),
    ]
    return np.concatenate(parts, axis=1)


def _sampled(scores: np.ndarray, first: np.ndarray, last: np.ndarray, points: int, mean_of: int) -> np.ndarray:
    """`scores` `(T,)` at `points` points of `first` to `last` `(K,)`: `(K, points)`."""
    count = len(scores)
    gap = 1 / count
    width = (last - first) / (points - 1)
    where = (first - width / 2)[:, None] + (width / mean_of)[:, None] * np.arange(points * mean_of + 1)
    extra = count // 4 + 10  # zeros on both sides
    places = gap / 2 + gap * np.arange(-extra, count + extra)
    values = np.interp(where, places, np.pad(scores.astype(float), extra))
    windows = np.lib.stride_tricks.sliding_window_view(values, mean_of + 1, axis=1)[:, ::mean_of]
    return windows.mean(-1)


def bsn_proposals(rows: ArrayLike, confidence: ArrayLike) -> np.ndarray:
    """Candidates with the confidence `(K,)` of BSN's second network: rows `(start, end, score)` `(K, 3)`."""
    rows, confidence = np.asarray(rows), np.asarray(confidence)
    if confidence.shape != (len(rows),):
        raise ValueError(f"{len(rows)} candidates need as many confidences, got shape {confidence.shape}.")
    return np.stack([rows[:, 0], rows[:, 1], rows[:, 2] * rows[:, 3] * confidence], axis=1)


def feature_seconds(seconds: float, frames: int, stride: int = FEATURE_STRIDE) -> float:
    """How much of a video its features cover: features stand for `stride` frames, a rest at the end is left out."""
    if frames <= 0:
        raise ValueError(f"frames={frames} must be at least 1.")
    return frames // stride * stride / frames * seconds


def finish_proposals(
    rows: ArrayLike, seconds: float, *, alpha: float, low: float, high: float, top_k: int = 100
) -> np.ndarray:
    """Soft-NMS and times in seconds: rows `(start, end, score)` `(K <= top_k, 3)`, best first, float64.

    Args:
        rows: `(start, end, ..., score)`, times as fractions. One row alone is not touched by the NMS.
        seconds: what the fractions refer to, see `feature_seconds`. Times are clipped to 0..`seconds` at the end only.
        alpha, low, high: see `soft_nms`; published: `BMN_NMS`, `BSN_NMS`.
        top_k: proposals to keep.
    """
    rows = np.asarray(rows)
    if not len(rows):
        return np.zeros((0, 3))
    if len(rows) > 1:
        rows = soft_nms(rows, alpha=alpha, low=low, high=high, top_k=top_k)
    rows = rows[np.argsort(rows[:, -1], kind="stable")[::-1]][:top_k].astype(float)
    start, end = np.maximum(rows[:, 0], 0) * seconds, np.minimum(rows[:, 1], 1) * seconds
    return np.stack([start, end, rows[:, -1]], axis=1)


def label_segments(
    rows: ArrayLike, scores: ArrayLike, labels: Sequence[Any], *, top_k: int = 2
) -> list[tuple[float, float, float, Any]]:
    """Detections `(start, end, score, label)` from class-free proposals and the class scores of the whole video.

    Each proposal is a detection of each of the video's `top_k` best classes, its score the product of both. The
    published mAPs of BMN and BSN were made like this, with the scores of a classifier of untrimmed videos.

    Args:
        rows: `(start, end, score)` `(K, 3)`.
        scores: probabilities of the classes, `(len(labels),)`.
        labels: class names.
        top_k: classes of each proposal.
    """
    scores = np.asarray(scores, float)
    if scores.shape != (len(labels),):
        raise ValueError(f"{len(labels)} labels need as many class scores, got shape {scores.shape}.")
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [
        (float(start), float(end), float(score * scores[label]), labels[label])
        for label in best
        for start, end, score in np.asarray(rows)
    ]
