"""Annotations that say where and when: AVA, UCF101-24 and JHMDB, THUMOS14, ActivityNet's segments.

Boxes are x1, y1, x2, y2. What a format counts from 1 (AVA's actions, frames of tubes, THUMOS14's labels, where 0 is the
background) stays as published and is said so at the reader.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..unpickle import load_plain_pickle
from .annotations import AnnotationError, Sample, read_json, read_text

__all__ = [
    "ProposalVideo",
    "denormalize_proposals",
    "read_activitynet_segments",
    "read_ava",
    "read_ava_exclusions",
    "read_ava_labels",
    "read_ava_proposals",
    "read_proposals",
    "read_tubes",
    "write_proposals",
]

AVA_START, AVA_FPS = 900, 30  # the cut movies begin at second 900
PathLike = str | os.PathLike[str]


# AVA -----------------------------------------------------------------------------------------------------------------


def _csv_rows(path: PathLike, least: int) -> list[list[str]]:
    rows = []
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path))), 1):
        if row and len(row) < least:
            raise AnnotationError(f"{path}, line {number}: expected {least} columns, got {row}.")
        if row:
            rows.append(row)
    return rows


def read_ava(path: PathLike) -> list[Sample]:
    """Key frames of `video,second,x1,y1,x2,y2,action,person` lines, in order of first appearance.

    Boxes are fractions of the frame, actions 1..80. Lines with the same box are one person with several actions.
    `extra`: `timestamp` (seconds), `boxes` float64 `(K, 4)`, `actions` (K tuples), `persons` int64 `(K,)`. `start` is
    the key frame in the 30 fps frames that begin at second 900.
    """
    frames: dict[tuple[str, int], dict[tuple[float, ...], tuple[list[int], int]]] = {}
    for number, row in enumerate(_csv_rows(path, 7), 1):
        try:
            key, box = (row[0], int(float(row[1]))), tuple(map(float, row[2:6]))
            action, person = int(row[6]), int(row[7]) if len(row) > 7 else -1
        except ValueError as error:
            raise AnnotationError(f"{path}, row {number}: {error}.") from None
        frames.setdefault(key, {}).setdefault(box, ([], person))[0].append(action)
    samples = []
    for (video, second), people in frames.items():
        extra = {
            "timestamp": second,
            "boxes": np.array(list(people)),
            "actions": tuple(tuple(actions) for actions, _ in people.values()),
            "persons": np.array([person for _, person in people.values()]),
        }
        label = tuple(sorted({action for actions in extra["actions"] for action in actions}))
        samples.append(Sample(video, label, start=(second - AVA_START) * AVA_FPS, extra=extra))
    return samples


def read_ava_exclusions(path: PathLike) -> set[tuple[str, int]]:
    """`(video, second)` of the key frames that count neither in training nor in evaluation."""
    return {(row[0], int(float(row[1]))) for row in _csv_rows(path, 2)}


def read_ava_labels(path: PathLike) -> dict[int, str]:
    """Action ids and names of a `.pbtxt` label map: its `id` or `label_id` fields, with the name before each."""
    labels, name = {}, None
    for field, text, number in re.findall(r'\b(name|id|label_id):\s*(?:"([^"]*)"|(\d+))', read_text(path)):
        if field == "name":
            name = text
        elif name is not None:
            labels[int(number)], name = name, None
    if not labels:
        raise AnnotationError(f"{path} holds no label: expected 'name: \"...\"' and 'id: 1' fields.")
    return labels


def read_ava_proposals(path: PathLike) -> dict[tuple[str, int], np.ndarray]:
    """Person boxes with scores, `(K, 5)` for every `(video, second)`, of the published pickle (or the same as JSON)."""
    table = read_json(path) if Path(path).suffix == ".json" else load_plain_pickle(path)
    if not isinstance(table, Mapping):
        raise AnnotationError(f"{path}: expected a table of 'video,second' keys, got {type(table).__name__}.")
    result = {}
    for key, boxes in table.items():
        video, _, second = str(key).rpartition(",")
        boxes = np.asarray(boxes, np.float64) if len(boxes) else np.zeros((0, 5))
        if not video or not second.isdecimal() or boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
            raise AnnotationError(f"{path}: expected 'video,second' and boxes (K, 5), got {key!r} and {boxes.shape}.")
        result[video, int(second)] = boxes
    return result


# UCF101-24 and JHMDB -------------------------------------------------------------------------------------------------


def read_tubes(path: PathLike, split: str, fold: int = 1) -> tuple[list[Sample], list[str]]:
    """Videos of a split, and the class names, of the pickle that UCF101-24 and JHMDB are published with.

    `extra`: `tubes` {class from 0: [float (K, 5): frame FROM 1, x1, y1, x2, y2 in pixels]} and `resolution` (H, W).
    The label is the class of the video's tubes, -1 if it has none; a tuple if it has several.
    """
    table = load_plain_pickle(path)
    wanted = ("labels", "gttubes", "nframes", "train_videos", "test_videos", "resolution")
    if not isinstance(table, Mapping) or not set(wanted) <= set(table):
        raise AnnotationError(f"{path}: expected a table with {', '.join(wanted)}.")
    lists = table["train_videos" if split == "train" else "test_videos"]
    if not 1 <= fold <= len(lists):
        raise AnnotationError(f"{path} has {len(lists)} splits, asked for split {fold}.")
    samples = []
    for video in lists[fold - 1]:
        tubes = table["gttubes"].get(video, {})
        classes = tuple(sorted(int(c) for c in tubes))
        label = -1 if not classes else classes[0] if len(classes) == 1 else classes
        extra = {"tubes": tubes, "resolution": tuple(table["resolution"][video])}
        samples.append(Sample(video, label, int(table["nframes"][video]), extra=extra))
    return samples, list(table["labels"])


# Temporal localisation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProposalVideo:
    """A video of an SSN proposal list. Labels count from 1, 0 is background; frames are those of the list."""

    video: str
    num_frames: int
    ground_truth: tuple[tuple[int, float, float], ...]
    """Label, start, end."""
    proposals: tuple[tuple[int, float, float, float, float], ...]
    """Label, best IoU, overlap (share of the proposal inside the ground truth), start, end."""


def read_proposals(path: PathLike) -> list[ProposalVideo]:
    """THUMOS14's proposal list (blocks of lines, see `write_proposals`), with frames or, as published, fractions."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    videos, place = [], 0
    try:
        while place < len(lines):
            if lines[place][0] != "#":
                raise ValueError("a block must begin with '# index'")
            name, (frames,), (factor,) = " ".join(lines[place + 1]), lines[place + 2], lines[place + 3]
            tables: list[tuple[tuple[float, ...], ...]] = []
            place += 4
            for columns in (3, 5):
                count = int(lines[place][0])
                rows = [tuple(map(float, row)) for row in lines[place + 1 : place + 1 + count]]
                if len(rows) != count or any(len(row) != columns for row in rows):
                    raise ValueError(f"{count} rows of {columns} numbers expected")
                if not np.isfinite(rows).all():
                    raise ValueError("finite numbers expected")
                tables.append(tuple((int(row[0]), *row[1:]) for row in rows))
                place += 1 + count
            videos.append(ProposalVideo(name, int(float(frames) * float(factor)), *tables))
            if videos[-1].num_frames < 1:
                raise ValueError(f"{name} has {frames} frames")
    except (IndexError, ValueError) as error:
        raise AnnotationError(f"{path}: broken block of video {len(videos)} ({error}).") from None
    if twice := [name for name, times in Counter(video.video for video in videos).items() if times > 1]:
        raise AnnotationError(f"{path} has {twice[0]} twice: leave one of both.")
    return videos


def denormalize_proposals(videos: Sequence[ProposalVideo], frames: Mapping[str, int]) -> list[ProposalVideo]:
    """Fractions of the length as frame numbers, for the videos whose frames are counted; others are left out."""
    result = []
    for video in videos:
        if count := frames.get(video.video):
            truth = tuple((row[0], *(int(t * count) for t in row[1:])) for row in video.ground_truth)
            rows = tuple((*row[:3], *(int(t * count) for t in row[3:])) for row in video.proposals)
            result.append(ProposalVideo(video.video, count, truth, rows))
    return result


def write_proposals(videos: Sequence[ProposalVideo]) -> str:
    """The text of a proposal list in frames: `# index`, name, frames, 1, then counted rows of truth and proposals."""
    lines: list[Any] = []
    for number, video in enumerate(videos):
        lines += [f"# {number}", video.video, video.num_frames, 1, len(video.ground_truth)]
        lines += [f"{label} {start:.0f} {end:.0f}" for label, start, end in video.ground_truth]
        lines += [len(video.proposals)]
        lines += [f"{c} {iou:.4f} {inside:.4f} {start:.0f} {end:.0f}" for c, iou, inside, start, end in video.proposals]
    return "".join(f"{line}\n" for line in lines)


def _segment(pair: Sequence[Any]) -> tuple[float, float]:
    start, end = map(float, pair)
    if not np.isfinite((start, end)).all():
        raise ValueError(f"a segment from {start} to {end}")
    return start, end


def read_activitynet_segments(path: PathLike) -> list[Sample]:
    """Videos of `anet_anno_{train,val,test,full}.json`; the label is -1, since proposals know no class.

    `extra`: `seconds` and `segments` (start, end, class name) in seconds as published, also those that lie outside the
    video or have no length, and `normalized` float64 `(K, 2)`: fractions of the length that the features cover, clipped
    to 0..1.
    """
    samples, table = [], read_json(path, unique=True)
    if not isinstance(table, Mapping):
        raise AnnotationError(f"{path}: expected a table of videos (anet_anno_*.json), got {type(table).__name__}.")
    for video, facts in table.items():
        try:
            seconds = float(facts["duration_second"])
            covered = float(facts["feature_frame"]) / facts["duration_frame"] * seconds
            rows = tuple((*_segment(a["segment"]), a["label"]) for a in facts["annotations"])
            if not 0 < covered < float("inf"):
                raise ValueError(f"features cover {covered:g} seconds")
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise AnnotationError(f"{path}, video {video}: wrong or missing field ({error}).") from None
        normalized = np.clip(np.array([row[:2] for row in rows]).reshape(-1, 2) / covered, 0, 1)
        extra = {"seconds": seconds, "segments": rows, "normalized": normalized}
        samples.append(Sample(video, -1, int(facts["duration_frame"]), extra=extra))
    return samples
