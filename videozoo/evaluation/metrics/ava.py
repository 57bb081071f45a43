"""Metric of action detection: average precision of boxes in frames, AVA's at an IoU of 0.5.

The rules are those of AVA's own evaluation. A detection is right if the true box of its class that it overlaps most,
by at least the threshold, was not found by a better one already; a second true box that would do as well does not
count. Precision is made monotone before its integral over recall. Of equal scores in a frame the one that comes first
is matched first; along the curve it is the other way round, what comes last counts first, the frame that appears last
before all others.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ...data.annotations import atomic_text

PathLike = str | os.PathLike[str]
Keys = Sequence[tuple[str, int]]

_LINES = 1 << 16  # of a file, looked at together


@dataclass(frozen=True)
class Boxes:
    """Boxes of many frames as columns of one length N."""

    frames: np.ndarray
    """Which frame, any integers ``(N,)``."""
    boxes: np.ndarray
    """x1, y1, x2, y2 in any unit, float64 ``(N, 4)``."""
    classes: np.ndarray
    """Class ids ``(N,)``."""
    scores: np.ndarray
    """``(N,)``; of true boxes all 1."""

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: np.ndarray) -> Boxes:
        """The rows of a mask or of an array of row numbers."""
        return Boxes(self.frames[rows], self.boxes[rows], self.classes[rows], self.scores[rows])


def make_boxes(frames: ArrayLike, boxes: ArrayLike, classes: ArrayLike, scores: ArrayLike | None = None) -> Boxes:
    """:class:`Boxes` from anything that numpy takes; without ``scores`` they are 1.

    Raises ValueError for columns of different lengths and for numbers that are not finite.
    """
    frames, classes = np.asarray(frames, np.int64).reshape(-1), np.asarray(classes, np.int64).reshape(-1)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    scores = np.ones(len(frames)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if not len(frames) == len(boxes) == len(classes) == len(scores):
        lengths = f"{len(frames)} frames, {len(boxes)} boxes, {len(classes)} classes and {len(scores)} scores"
        raise ValueError(f"frames, boxes, classes and scores must be columns of one length, got {lengths}.")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("boxes or scores hold numbers that are not finite: leave such detections out.")
    return Boxes(frames, boxes, classes, scores)


# Average precision ---------------------------------------------------------------------------------------------------


def frame_average_precision(
    detections: Boxes, truth: Boxes, classes: Collection[int], threshold: float = 0.5
) -> dict[int, float]:
    """Average precision of each of ``classes``: nan for one without true boxes, 0 for one without detections.

    Boxes of other classes are left out, and so are detections without area. Frames without true boxes count: all that
    is detected there is wrong.
    """
    detections = detections.take(np.isin(detections.classes, list(classes)))
    rank = _frame_rank(detections.frames)
    x1, y1, x2, y2 = detections.boxes.T
    has_area = (x1 < x2) & (y1 < y2)
    detections, rank = detections.take(has_area), rank[has_area]
    right = match(detections, truth, threshold)
    order = np.argsort(rank, kind="stable")[::-1]  # equal scores: later frames first, within a frame later rows
    order = order[np.argsort(detections.classes[order], kind="stable")]
    starts = np.searchsorted(detections.classes[order], sorted(classes))
    ends = np.searchsorted(detections.classes[order], sorted(classes), side="right")
    result = {}
    for number, start, end in zip(sorted(classes), starts, ends, strict=True):
        rows = order[start:end]
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        positives = int(np.count_nonzero(truth.classes == number))
        result[number] = average_precision(right[rows], positives)
    return result


def _frame_rank(frames: np.ndarray) -> np.ndarray:
    """For every row the place of its frame in the order in which frames first appear."""
    _, first, place = np.unique(frames, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[place.reshape(-1)]


def match(detections: Boxes, truth: Boxes, threshold: float) -> np.ndarray:
    """Which detections are right, bool ``(N,)``: those that find a true box of their frame and class first."""
    frames, places = np.unique(np.concatenate([detections.frames, truth.frames]), return_inverse=True)
    places = places.reshape(-1)
    key = detections.classes * len(frames) + places[: len(detections)]
    true_key = truth.classes * len(frames) + places[len(detections) :]
    true_order = np.argsort(true_key, kind="stable")
    low = np.searchsorted(true_key[true_order], key)
    count = np.searchsorted(true_key[true_order], key, side="right") - low
    rows = np.flatnonzero(count)  # detections with a true box of their class in their frame
    best, found = _best_overlap(detections.boxes, truth.boxes[true_order], rows, low[rows], count[rows])
    rows, found = rows[best >= threshold], found[best >= threshold]
    order = np.lexsort((rows, -detections.scores[rows], found))  # of one true box: best score, then first row
    rows, found = rows[order], found[order]
    first = np.ones(len(rows), bool)
    first[1:] = found[1:] != found[:-1]
    right = np.zeros(len(detections), bool)
    right[rows[first]] = True
    return right


def _best_overlap(
    boxes: np.ndarray, truth: np.ndarray, rows: np.ndarray, low: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``rows`` the largest IoU with true boxes low..low + count, and the first true box that has it."""
    if not len(rows):
        return np.zeros(0), np.zeros(0, np.int64)
    starts = np.cumsum(count) - count
    group = np.repeat(np.arange(len(rows)), count)
    others = low[group] + np.arange(len(group)) - starts[group]
    overlap = paired_iou(boxes[rows[group]], truth[others])
    best = np.maximum.reduceat(overlap, starts)
    found = np.minimum.reduceat(np.where(overlap == best[group], others, len(truth)), starts)
    return best, found


def paired_iou(a: np.ndarray, b: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Intersection over union of boxes ``(N, 4)`` row by row, ``(N,)``; 0 where both have no area.

    ``pixel=1`` counts whole pixels: a box from 3 to 5 is three wide.
    """
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    inside = np.prod(np.maximum(high - low + pixel, 0), axis=1)
    areas = np.prod(a[:, 2:] - a[:, :2] + pixel, axis=1) + np.prod(b[:, 2:] - b[:, :2] + pixel, axis=1)
    union = areas - inside
    return np.divide(inside, union, out=np.zeros(len(a)), where=union > 0)


def average_precision(right: np.ndarray, positives: int) -> float:
    """Area under the monotone precision over recall of detections ``(N,)``, best first; nan without positives."""
    if not positives:
        return float("nan")
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / positives)


# AVA -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AVAResult:
    """What :func:`ava_map` found."""

    mean: float
    """Mean over the classes that have true boxes; nan if none has."""
    per_class: dict[int, float]
    """Average precision by class id, nan without true boxes."""
    positives: dict[int, int]
    """True boxes by class id."""


def ava_map(
    detections: tuple[Keys, Boxes],
    truth: tuple[Keys, Boxes],
    classes: Collection[int],
    excluded: Collection[tuple[str, int]] = (),
    threshold: float = 0.5,
) -> AVAResult:
    """AVA's mean average precision over ``classes``, the ids of the evaluated actions (60 of 1..80).

    ``detections`` and ``truth`` are what :func:`read_detections` and :func:`read_truth` give: the key frames (video,
    second) and boxes whose ``frames`` point into them. Key frames in ``excluded`` do not count.

    Raises:
        ValueError: no classes are given.
    """
    if not classes:
        raise ValueError("no class is evaluated: give the ids of the label map (read_ava_labels).")
    numbers: dict[tuple[str, int], int] = {}
    tables = []
    for keys, boxes in (detections, truth):
        place = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
        keep = np.array([key not in excluded for key in keys], bool)
        boxes = Boxes(place[boxes.frames], boxes.boxes, boxes.classes, boxes.scores).take(keep[boxes.frames])
        tables.append(boxes)
    per_class = frame_average_precision(*tables, classes, threshold)
    positives = {number: int(np.count_nonzero(tables[1].classes == number)) for number in sorted(classes)}
    values = [value for value in per_class.values() if not np.isnan(value)]
    return AVAResult(float(np.mean(values)) if values else float("nan"), per_class, positives)


def read_detections(path: PathLike) -> tuple[list[tuple[str, int]], Boxes]:
    """Key frames and boxes of ``video,second,x1,y1,x2,y2,action,score`` lines; boxes as fractions of the frame."""
    return _read_table(path, 8)


def read_truth(path: PathLike) -> tuple[list[tuple[str, int]], Boxes]:
    """Key frames and boxes of AVA's annotations, ``video,second,x1,y1,x2,y2,action[,person]`` lines."""
    return _read_table(path, 7)


def _read_table(path: PathLike, least: int) -> tuple[list[tuple[str, int]], Boxes]:
    numbers: dict[tuple[str, str], int] = {}
    frames, blocks = [np.zeros(0, np.int64)], [np.zeros((0, 6))]
    with Path(path).open(encoding="utf-8-sig") as file:
        while lines := list(islice(file, _LINES)):
            rows = [line.rstrip().split(",") for line in lines if line.strip()]
            wrong = next((row for row in rows if not least <= len(row) <= 8), None)
            if wrong is not None:
                raise ValueError(f"{path}: expected lines of {least} columns, got {','.join(wrong)!r}.")
            frames.append(np.array([numbers.setdefault((row[0], row[1]), len(numbers)) for row in rows], np.int64))
            try:
                cells = np.array([row[2:least] for row in rows], np.float64).reshape(-1, least - 2)
            except ValueError as error:
                raise ValueError(f"{path}: {error}; expected x1, y1, x2, y2 and action as numbers.") from error
            blocks.append(np.pad(cells, ((0, 0), (0, 8 - least)), constant_values=1.0))
    try:
        keys = [(video, int(second)) for video, second in numbers]
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected key frames at whole seconds.") from error
    cells = np.concatenate(blocks)
    return keys, make_boxes(np.concatenate(frames), cells[:, :4], cells[:, 4], cells[:, 5])


def write_detections(
    path: PathLike, keys: Keys, boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray], classes: Sequence[int]
) -> None:
    """Detections as AVA wants them handed in, ``video,second,x1,y1,x2,y2,action,score`` with three decimals.

    ``boxes`` ``(K, 4)``, fractions of the frame, and ``scores`` ``(K, C)`` are one array a key frame; ``classes`` are
    the ids of the C columns. Rounding makes scores equal that were not, which moves AVA's mAP by some 0.03 %.
    """
    lines = []
    for (video, second), rows, table in zip(keys, boxes, scores, strict=True):
        for column, number in enumerate(classes):
            for (x1, y1, x2, y2), score in zip(rows, table[:, column], strict=True):
                lines.append(f"{video},{second},{x1:.3f},{y1:.3f},{x2:.3f},{y2:.3f},{number},{score:.3f}\n")
    atomic_text(path, "".join(lines))
