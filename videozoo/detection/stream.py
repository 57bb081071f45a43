"""Who does what in a video, moment by moment: the stream behind ``videozoo detect``.

A moment is looked at every second by default: persons are found in its frame (or given), the detector sees the clip
around it, and overlaps from one moment to the next give the persons numbers. Boxes that are given for the frames
between lead from one to the other. Only one clip is in memory at a time.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import VideoReader, resolve_data_config
from ..data.ava import KeyFrameTransform, clip_indices
from ..prediction import class_names, eval_mode, full_name
from .boxes import MIN_SCORE, top_actions
from .drawing import Person, VideoWriter, draw_persons
from .persons import nearest_frame
from .tracks import BoxTracker

Source = Mapping[int, np.ndarray] | Callable[[np.ndarray], np.ndarray]
Seen = tuple[int, dict[int, np.ndarray]]  # a frame, and the box (4,) of each person in it by number
CHUNK = 16  # frames decoded together when a video is drawn on
PATIENCE = 5  # moments for which a person may be missing and still be known


@dataclass(frozen=True)
class Moment:
    """What was found in one frame."""

    frame: int
    """Number of the frame, from 0."""
    boxes: np.ndarray
    """Of the persons, pixels of the video and score, float64 ``(K, 5)``."""
    numbers: list[int]
    """Which person each box is, over the whole video."""
    probabilities: np.ndarray
    """Of every action for each person, float64 ``(K, C)``."""
    way: tuple[Seen, ...] = ()
    """Boxes that were given for frames between this moment and the next."""

    @property
    def seen(self) -> Seen:
        """The persons' boxes by their numbers."""
        return self.frame, dict(zip(self.numbers, self.boxes[:, :4], strict=True))

    def to_dict(self, labels: Sequence[str], topk: int = 5, fps: float = 0.0) -> dict[str, Any]:
        """For JSON: frame, seconds (None where the speed is unknown), and the persons with their ``topk`` actions."""
        rows = zip(self.numbers, self.boxes.tolist(), self.probabilities, strict=True)
        people = [
            {"person": n, "box": box[:4], "score": box[4], "actions": dict(top_actions(p.tolist(), labels, topk))}
            for n, box, p in rows
        ]
        return {"frame": self.frame, "seconds": self.frame / fps if fps > 0 else None, "persons": people}


def check_detector(model: nn.Module) -> None:
    """ValueError unless ``model`` is a detector of actions."""
    if getattr(model, "task", "") != "detection":
        name = full_name(model.pretrained_cfg) if hasattr(model, "pretrained_cfg") else type(model).__name__
        raise ValueError(f"{name} is no detector: take one of videozoo.list_models(task='detection')")


def moments(
    model: nn.Module,
    video: VideoReader,
    source: Source,
    *,
    every: float = 1.0,
    min_score: float = MIN_SCORE,
    tracker: BoxTracker | None = None,
    progress: bool = False,
) -> Iterator[Moment]:
    """The moments of a video, one each ``every`` seconds (of 25 frames where the speed is unknown).

    ``source`` gives the persons' boxes ``(K, 5)`` in pixels with scores: a table by frame number, or a function of a
    frame, uint8 ``(H, W, 3)``. Of a table the nearest frame within half a step counts; its frames between two moments
    help to follow the persons. The model works in eval mode, where it is.

    Raises:
        ValueError: ``model`` is no detector, or ``every`` is not above 0.
    """
    check_detector(model)
    if not every > 0:
        raise ValueError(f"every={every} must be above 0 seconds")
    from tqdm import tqdm

    config = resolve_data_config(model=model)
    transform = KeyFrameTransform(config)
    step = max(1, round(every * (video.fps or 25.0)))
    given = sorted(source) if isinstance(source, Mapping) else []
    density = max(1, len(given) * step // max(1, len(video)))  # boxes that are given for a moment
    tracker = tracker or BoxTracker(patience=PATIENCE * density)
    shape = {"frames": config["num_frames"], "stride": config["stride"]}
    for frame in tqdm(range(0, len(video), step), unit="moment", leave=False, disable=not progress):
        clip = video.get(np.append(clip_indices(frame, len(video), **shape), min(frame, len(video) - 1)))
        place = nearest_frame(given, frame, step // 2)
        if isinstance(source, Mapping):
            found = source[place] if place is not None else np.zeros((0, 5))
        else:
            found = source(clip[-1])
        found = found[found[:, 4] >= min_score]
        numbers = tracker.update(torch.from_numpy(found[:, :4]))
        end = nearest_frame(given, frame + step, step // 2) if frame + step < len(video) else len(video)
        start = bisect_right(given, frame if place is None else place)
        way = []
        for number in given[start : bisect_left(given, frame + step if end is None else end)]:
            boxes = source[number][source[number][:, 4] >= min_score, :4]
            way.append((number, dict(zip(tracker.update(torch.from_numpy(boxes)), boxes, strict=True))))
        yield Moment(frame, found, numbers, _probabilities(model, transform, clip[:-1], found), tuple(way))


def _probabilities(model: nn.Module, transform: KeyFrameTransform, clip: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Of the persons in a clip, uint8 ``(T, H, W, 3)``, with boxes in its pixels: float64 ``(K, C)``."""
    if not len(boxes):
        return np.zeros((0, model.num_classes))
    weight = next(model.parameters())
    height, width = clip.shape[1:3]
    view, pixels = transform.from_frames(torch.from_numpy(clip), boxes[:, :4] / np.array([width, height] * 2))
    with eval_mode(model), torch.inference_mode():
        logits = model(view[None].to(weight.device, weight.dtype), [pixels.to(weight.device)])
    return logits.sigmoid().cpu().double().numpy()


def write_annotated(
    video: VideoReader,
    path: str | os.PathLike[str],
    found: Iterable[Moment],
    labels: Sequence[str],
    *,
    topk: int = 3,
    least: float = 0.3,
) -> Iterator[Moment]:
    """Draw moments on the video and write it as mp4; yields each moment when its frames are written.

    Between two frames with boxes a person's box moves straight from one to the other; who is in only one of them is
    drawn in the half of the time next to it. Beside a box stand the ``topk`` actions of the nearest moment with a
    probability of at least ``least``. The file is there when all moments were taken.
    """
    with VideoWriter(path, video.width, video.height, video.fps) as writer:
        before: Moment | None = None
        for moment in found:
            if before is not None:
                _draw_span(video, writer, before, moment, moment.frame, labels, topk, least)
                yield before
            before = moment
        if before is not None:
            _draw_span(video, writer, before, before, len(video), labels, topk, least)
            yield before


def _draw_span(
    video: VideoReader,
    writer: VideoWriter,
    a: Moment,
    b: Moment,
    end: int,
    labels: Sequence[str],
    topk: int,
    least: float,
) -> None:
    words = [
        {n: action_lines(p, labels, topk, least) for n, p in zip(m.numbers, m.probabilities, strict=True)}
        for m in (a, b)
    ]
    anchors = [a.seen, *(seen for seen in a.way if a.frame < seen[0] < end)]
    anchors.append((end, (anchors[-1] if b is a else b.seen)[1]))
    spans = [(p, q, number) for p, q in pairwise(anchors) for number in range(p[0], q[0])]
    for start in range(0, len(spans), CHUNK):
        chunk = spans[start : start + CHUNK]
        for (p, q, number), picture in zip(chunk, video.get([n for *_, n in chunk]), strict=True):
            later = 2 * (number - a.frame) >= end - a.frame
            near, far = words[later], words[not later]
            people = [
                Person(box, who, near.get(who, far.get(who, ())))
                for who, box in boxes_between(p[1], q[1], (number - p[0]) / (q[0] - p[0]))
            ]
            writer.write(draw_persons(picture, people))


def boxes_between(
    first: Mapping[int, np.ndarray], last: Mapping[int, np.ndarray], share: float
) -> list[tuple[int, tuple[float, ...]]]:
    """Persons and boxes at ``share`` (0..1) of the time from one frame to another; see :func:`write_annotated`."""
    nearest = last if share >= 0.5 else first
    result = []
    for who, box in nearest.items():
        if who in first and who in last:
            box = (1 - share) * first[who] + share * last[who]
        result.append((who, tuple(map(float, box))))
    return result


def action_lines(probabilities: np.ndarray, labels: Sequence[str], topk: int, least: float) -> tuple[str, ...]:
    return tuple(f"{label} {value:.2f}" for label, value in top_actions(probabilities.tolist(), labels, topk, least))


def action_names(model: nn.Module) -> list[str]:
    """The names of a detector's actions, "class 0", ... where they are not known."""
    return class_names(model.pretrained_cfg, model.num_classes)
