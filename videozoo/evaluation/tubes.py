"""What a detector is worth on videos that are marked all through: JHMDB and UCF101-24, by frames and by tubes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..data.ava import KeyFrame
from ..data.detection import KeyFrames
from ..detection.tracks import BoxTracker
from .metrics.ava import Boxes, make_boxes
from .metrics.tubes import Detection, boxes_of_tubes, frame_number, mean_over_classes, tube_frame_ap, video_ap

VIDEO_THRESHOLDS = (0.2, 0.5, 0.75)  # IoU of tubes; frames are measured at 0.5
STRICT_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # whose mean is the metric that is written 0.5:0.95
Scored = Sequence[tuple[KeyFrame, np.ndarray]]


def tube_metrics(data: KeyFrames, scored: Scored) -> tuple[dict[str, float], dict[int, float], dict[int, int]]:
    """Metrics by name, and by class the average precision in frames and the number of true boxes.

    ``frame_mAP`` counts boxes at an IoU of 0.5, ``video_mAP_0.2``, ``_0.5`` and ``_0.75`` tubes at these IoUs in space
    and time; ``video_mAP_0.5:0.95`` is the mean over ten IoUs, as published tables have it.

    ``scored`` are key frames with probabilities ``(proposals, C)``. Frames that are missing, because they could not be
    read, have no true boxes either; videos of which none is there do not count.
    """
    by_video: dict[str, list[tuple[KeyFrame, np.ndarray]]] = {}
    for frame, scores in scored:
        by_video.setdefault(frame.video, []).append((frame, scores))
    truth = {video: data.tubes[video] for video in by_video}
    wanted = boxes_of_tubes(truth)
    seen = [frame_number(i, [frame.second for frame, _ in rows]) for i, rows in enumerate(by_video.values())]
    wanted = wanted.take(np.isin(wanted.frames, np.concatenate(seen)))
    per_class = tube_frame_ap(_frame_boxes(data, by_video), wanted, data.classes)
    tubes = {video: link_tubes(rows, data) for video, rows in by_video.items()}
    metrics = {"frame_mAP": mean_over_classes(per_class)}
    for threshold in VIDEO_THRESHOLDS:
        metrics[f"video_mAP_{threshold}"] = mean_over_classes(video_ap(tubes, truth, data.classes, threshold))
    strict = [mean_over_classes(video_ap(tubes, truth, data.classes, threshold)) for threshold in STRICT_THRESHOLDS]
    metrics["video_mAP_0.5:0.95"] = float(np.mean(strict))
    return metrics, per_class, {number: int((wanted.classes == number).sum()) for number in data.classes}


def _frame_boxes(data: KeyFrames, by_video: Mapping[str, Scored]) -> Boxes:
    """All boxes with all their scores, in pixels."""
    parts = []
    for place, (video, rows) in enumerate(by_video.items()):
        for frame, scores in rows:
            who, column = np.indices(scores.shape).reshape(2, -1)
            number = np.full(len(who), frame_number(place, frame.second))
            boxes = _pixels(frame, data.resolution[video])[who]
            parts.append((number, boxes, np.asarray(data.classes)[column], scores.reshape(-1)))
    return make_boxes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _pixels(frame: KeyFrame, resolution: tuple[int, int]) -> np.ndarray:
    height, width = resolution
    return frame.proposals[:, :4] * np.array([width, height, width, height])


def link_tubes(rows: Scored, data: KeyFrames) -> list[Detection]:
    """Tubes of a video's scored frames: boxes are joined by their overlap from frame to frame, whatever the action.

    Every tube stands once for each class, with the mean of its probabilities. Frames in which a person was missed get
    a box between those before and after. A tube is as long as its person is seen: it is not cut to where an action is
    probable, and boxes are not linked anew for every action, as published results of action tubelets
    (arXiv:1705.01861, arXiv:2001.04608) have it. Of videos that are longer than their action, as some of UCF101-24 are
    and none of JHMDB, the video mAP is lower for it.
    """
    tracker, members = BoxTracker(), {}
    for frame, scores in sorted(rows, key=lambda row: row[0].second):
        boxes = _pixels(frame, data.resolution[frame.video])
        for who, box, row in zip(tracker.update(torch.from_numpy(boxes)), boxes, scores, strict=True):
            members.setdefault(who, []).append((frame.second, box, row))
    found = []
    for group in members.values():
        frames, boxes, scores = (np.array(column) for column in zip(*group, strict=True))
        every = np.arange(frames[0], frames[-1] + 1)
        sides = [np.interp(every, frames, boxes[:, side]) for side in range(4)]
        tube = np.column_stack([every, *sides])
        found += [(number, float(mean), tube) for number, mean in zip(data.classes, scores.mean(0), strict=True)]
    return found
