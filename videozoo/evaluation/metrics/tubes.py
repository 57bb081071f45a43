"""Metrics of UCF101-24 and JHMDB: average precision of boxes in frames and of tubes in videos.

The rules are those that results on these data sets are published with (Kalogeiton et al., ICCV 2017, arXiv:1705.01861),
which differ from AVA's: coordinates are whole pixels and both ends belong to a box; a detection takes the box or tube
that it overlaps most among those that are still free; the area under the curve is that of straight lines between its
points. Of equal scores the first comes first.

A tube is an array ``(K, 5)``: frame number, x1, y1, x2, y2, frames without gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .ava import Boxes, make_boxes, paired_iou

MAX_FRAMES = 1 << 32  # of a video, more than any has
Tube = np.ndarray
Detection = tuple[int, float, Tube]  # class, score, tube


def curve_area(right: np.ndarray, positives: int) -> float:
    """Area under precision over recall of detections ``(N,)``, best first, by trapezoids; nan without positives."""
    if not positives:
        return float("nan")
    found = np.cumsum(right)
    precision = np.concatenate([[1.0], found / np.arange(1, len(right) + 1)])
    recall = np.concatenate([[0.0], found / positives])
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def tube_frame_ap(
    detections: Boxes, truth: Boxes, classes: Collection[int], threshold: float = 0.5
) -> dict[int, float]:
    """Average precision of boxes in frames by class, in pixels; nan for a class without true boxes."""
    result = {}
    for number in sorted(classes):
        found, wanted = (table.take(table.classes == number) for table in (detections, truth))
        found = found.take(np.argsort(-found.scores, kind="stable"))
        groups = _rows_by_frame(wanted.frames)
        right = np.zeros(len(found), bool)
        taken = np.zeros(len(wanted), bool)
        for row in np.flatnonzero(np.isin(found.frames, wanted.frames)):
            rows = groups[int(found.frames[row])]
            rows = rows[~taken[rows]]
            if len(rows):
                overlap = paired_iou(np.repeat(found.boxes[row : row + 1], len(rows), 0), wanted.boxes[rows], pixel=1)
                best = int(np.argmax(overlap))
                right[row] = taken[rows[best]] = overlap[best] >= threshold
        result[number] = curve_area(right, len(wanted))
    return result


def boxes_of_tubes(truth: Mapping[str, Mapping[int, Sequence[Tube]]], videos: Sequence[str] | None = None) -> Boxes:
    """The boxes of all tubes for :func:`tube_frame_ap`, frames numbered by :func:`frame_number`.

    ``videos`` fixes the order of the videos, by default that of ``truth``.
    """
    place = {video: i for i, video in enumerate(truth if videos is None else videos)}
    rows = [(place[video], c, tube) for video, groups in truth.items() for c, tubes in groups.items() for tube in tubes]
    frames = [frame_number(video, tube[:, 0]) for video, _, tube in rows]
    classes = [np.full(len(tube), c) for _, c, tube in rows]
    table = np.concatenate([np.zeros((0, 4)), *(tube[:, 1:] for *_, tube in rows)])
    return make_boxes(np.concatenate([[], *frames]), table, np.concatenate([[], *classes]))


def frame_number(video: int, frame: ArrayLike) -> np.ndarray:
    """One number for frame ``frame`` of the ``video``-th video."""
    return video * MAX_FRAMES + np.asarray(frame).astype(np.int64)


def _rows_by_frame(frames: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(frames, kind="stable")
    values, starts = np.unique(frames[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True)) if len(frames) else {}


def tube_iou(a: Tube, b: Tube) -> float:
    """Share of frames that two tubes have in common, times the mean IoU of their boxes there; 0 if they have none."""
    first, last = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
    if last < first:
        return 0.0
    joint = max(a[-1, 0], b[-1, 0]) - min(a[0, 0], b[0, 0]) + 1
    parts = [tube[(tube[:, 0] >= first) & (tube[:, 0] <= last), 1:] for tube in (a, b)]
    return float((last - first + 1) / joint * paired_iou(*parts, pixel=1).mean())


def video_ap(
    detections: Mapping[str, Sequence[Detection]],
    truth: Mapping[str, Mapping[int, Sequence[Tube]]],
    classes: Collection[int],
    threshold: float = 0.5,
) -> dict[int, float]:
    """Average precision of tubes in videos by class; nan for a class without true tubes.

    ``detections``: for each video (class, score, tube); ``truth``: for each video its tubes by class, as
    ``videozoo.data.regions.read_tubes`` gives them in ``extra["tubes"]``.

    Raises:
        ValueError: a tube is not ``(K, 5)`` with frames without gaps.
    """
    for video, groups in truth.items():
        _check_tubes(video, (tube for group in groups.values() for tube in group))
    for video, found in detections.items():
        _check_tubes(video, (tube for _, _, tube in found))
    result = {}
    for number in sorted(classes):
        rows = [(score, video, tube) for video, found in detections.items() for c, score, tube in found if c == number]
        free = {video: list(tubes.get(number, ())) for video, tubes in truth.items()}
        positives = sum(map(len, free.values()))
        right = np.zeros(len(rows), bool)
        for place, (_, video, tube) in enumerate(sorted(rows, key=lambda row: -row[0])):
            overlap = [tube_iou(tube, other) for other in free.get(video, ())]
            if overlap and max(overlap) >= threshold:
                right[place] = True
                del free[video][int(np.argmax(overlap))]
        result[number] = curve_area(right, positives)
    return result


def _check_tubes(video: str, tubes: Iterable[Tube]) -> None:
    for tube in tubes:
        if tube.ndim != 2 or tube.shape[1] != 5 or not len(tube) or (np.diff(tube[:, 0]) != 1).any():
            raise ValueError(f"{video}: a tube is an array (K, 5) of frames one after the other, got {tube.shape}.")


def mean_over_classes(per_class: Mapping[int, float]) -> float:
    """Mean of what classes have, nan left out; nan if nothing is left."""
    values = [value for value in per_class.values() if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")
