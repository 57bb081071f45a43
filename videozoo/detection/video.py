"""A whole video: its moments, its annotated copy, and what a report shows of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import VideoReader, open_video
from ..prediction import model_facts
from .boxes import MIN_SCORE, top_actions
from .drawing import Person, draw_persons
from .persons import person_source, read_boxes
from .stream import Moment, Source, action_lines, action_names, check_detector, moments, write_annotated

PICTURE_WIDTH, POSTER_WIDTH = 480, 960  # pixels, at most


@dataclass(frozen=True)
class PersonActions:
    """What one person did over a video."""

    number: int
    labels: Sequence[str]
    frames: list[int]
    """In which frames the person was seen, in order."""
    probabilities: np.ndarray
    """Of every action in these frames, ``(frames, C)``."""

    def top(self, count: int = 3, least: float = 0.0) -> list[tuple[str, float]]:
        """The actions that were most probable at any moment, with that probability, best first, from ``least`` on."""
        return top_actions(self.probabilities.max(0).tolist(), self.labels, count, least)


@dataclass(frozen=True)
class Findings:
    """Who does what in a video."""

    video: dict[str, Any]
    """path, width, height, fps (0 if unknown) and frames."""
    model: dict[str, Any]
    """The model's ``pretrained_cfg`` with ``full_name`` and ``params``."""
    labels: list[str]
    """Of the actions, in the order of the probabilities."""
    moments: list[Moment]
    every: float
    """Seconds from one moment to the next."""
    seconds: float
    """Time that it took."""
    device: str
    pictures: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """Frame numbers and small pictures of moments with persons, drawn on, uint8 ``(h, w, 3)``."""
    poster: np.ndarray | None = None
    """A larger picture of the moment with most persons."""
    weights: str = ""
    """Where the weights came from, if the caller said so."""
    caveat: str = ""
    """Why the findings should not be trusted; empty if nothing speaks against them."""

    def persons(self) -> list[PersonActions]:
        """What each person did, who was seen most often first."""
        seen: dict[int, list[tuple[int, np.ndarray]]] = {}
        for moment in self.moments:
            for number, row in zip(moment.numbers, moment.probabilities, strict=True):
                seen.setdefault(number, []).append((moment.frame, row))
        people = [
            PersonActions(number, self.labels, [frame for frame, _ in rows], np.stack([row for _, row in rows]))
            for number, rows in seen.items()
        ]
        return sorted(people, key=lambda person: (-len(person.frames), person.number))

    def to_dict(self, topk: int = 5) -> dict[str, Any]:
        """For JSON: the moments with each person's ``topk`` actions, and each person's over the whole video."""
        fps = self.video["fps"]
        persons = [
            {
                "person": person.number,
                "first_frame": person.frames[0],
                "last_frame": person.frames[-1],
                "moments": len(person.frames),
                "actions": dict(person.top(topk)),
            }
            for person in self.persons()
        ]
        return {
            "model": self.model["full_name"],
            "weights": self.weights,
            "trained": not self.caveat,
            "video": self.video,
            "every": self.every,
            "persons": persons,
            "moments": [moment.to_dict(self.labels, topk, fps) for moment in self.moments],
            "device": self.device,
            "seconds": round(self.seconds, 4),
        }


def detect(
    model: nn.Module,
    path: str | os.PathLike[str],
    boxes: Source | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    every: float = 1.0,
    min_score: float = MIN_SCORE,
    topk: int = 3,
    least: float = 0.3,
    reader: str = "auto",
    max_pictures: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Findings:
    """Who does what in a video, moment by moment; on request it is drawn on a copy of the video.

    ``findings.persons()`` are the persons with their frames and actions, ``findings.moments`` what was seen at each
    moment, ``findings.to_dict()`` both for JSON. One clip is in memory at a time; of what was seen only boxes and
    probabilities stay, some kilobytes a moment.

    Args:
        path: video file, or folder of images.
        boxes: of the persons, ``(K, 5)`` with x1, y1, x2, y2 in pixels of the video and score: a table by frame number
            from 0, a file that :func:`~videozoo.detection.read_boxes` knows, or a function of a frame, uint8
            ``(H, W, 3)``. None: torchvision's detector of persons, which downloads its weights once.
        out: the annotated mp4; None writes none.
        every: seconds from one moment to the next.
        min_score: of a person that counts.
        topk, least: how many actions are drawn beside a person, and how probable they are at least.
        reader: that of ``open_video``.
        max_pictures: keep drawn pictures of so many moments, evenly chosen, for a report.
        device: the model is moved there and stays there; None leaves it where it is.
        progress: show a bar on stderr.

    Raises:
        VideoError: the video cannot be read; the message has path and reason.
        ValueError: wrong argument, boxes that are none, or a model that is no detector.
        OSError: there is no file of boxes, or the weights of torchvision's detector cannot be had.
    """
    check_detector(model)
    if device is not None:
        model.to(device)
    start, labels = time.monotonic(), action_names(model)
    with open_video(path, reader=reader) as video:
        source = _source(boxes, video, model, min_score)
        stream = moments(model, video, source, every=every, min_score=min_score, progress=progress)
        if out is None:
            found = list(stream)
        else:
            with open_video(path, reader=reader) as again:  # each of the two is read from front to back
                found = list(write_annotated(again, out, stream, labels, topk=topk, least=least))
        facts = {key: getattr(video, key) for key in ("path", "width", "height", "fps")} | {"frames": len(video)}
        pictures, poster = _pictures(video, found, labels, max_pictures, topk, least)
    return Findings(
        video=facts,
        model=model_facts(model),
        labels=labels,
        moments=found,
        every=every,
        seconds=time.monotonic() - start,
        device=str(next(model.parameters()).device),
        pictures=pictures,
        poster=poster,
    )


def _source(boxes: Any, video: VideoReader, model: nn.Module, min_score: float) -> Source:
    if boxes is None:
        return person_source(device=next(model.parameters()).device, min_score=min_score)
    return read_boxes(boxes, video) if isinstance(boxes, (str, os.PathLike)) else boxes


def _pictures(
    video: VideoReader, found: Sequence[Moment], labels: Sequence[str], count: int, topk: int, least: float
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray | None]:
    """Small pictures of at most ``count`` moments with persons, and a larger one of the moment with most of them."""
    peopled = [moment for moment in found if moment.numbers]
    if not count or not peopled:
        return [], None
    places = np.unique(np.linspace(0, len(peopled) - 1, min(count, len(peopled))).round().astype(int))
    words = {"labels": labels, "topk": topk, "least": least}
    pictures = [(peopled[i].frame, _picture(video, peopled[i], PICTURE_WIDTH, words)) for i in places]
    fullest = max(peopled, key=lambda moment: len(moment.numbers))
    return pictures, _picture(video, fullest, POSTER_WIDTH, words)


def _picture(video: VideoReader, moment: Moment, width: int, words: Mapping[str, Any]) -> np.ndarray:
    """A moment's frame, at most ``width`` wide, with its persons drawn on it."""
    from PIL import Image

    frame = Image.fromarray(video.get([moment.frame])[0])
    scale = min(1.0, width / frame.width)
    frame = frame.resize((round(frame.width * scale), max(1, round(frame.height * scale))), Image.Resampling.LANCZOS)
    people = [
        Person(tuple((box * scale).tolist()), number, action_lines(row, **words))
        for box, number, row in zip(moment.boxes[:, :4], moment.numbers, moment.probabilities, strict=True)
    ]
    return draw_persons(np.asarray(frame), people)
