"""Data sets of actions in space and time, as detectors are trained and measured on them: AVA, JHMDB, UCF101-24."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .annotations import Sample, is_video_file
from .ava import ACTIONS, EVALUATED, MIN_SCORE, KeyFrame, film_name, load_key_frames, read_proposals
from .datasets import Dataset, class_names, dataset_facts, load_dataset
from .official import class_key

__all__ = ["KeyFrames", "action_ids", "list_key_frames", "load_detection"]

PathLike = str | os.PathLike[str]


@dataclass
class KeyFrames:
    """One split of a data set: key frames in the order of its list, and what is needed to measure them."""

    name: str
    split: str
    frames: list[KeyFrame]
    class_names: list[str]
    """Of the label columns."""
    classes: tuple[int, ...]
    """The data set's own ids of the label columns; AVA's count from 1."""
    evaluated: frozenset[int]
    """Those of them that the metric counts."""
    source: Path | None = None
    """The file that the key frames were read from."""
    tubes: Mapping[str, Mapping[int, Sequence[np.ndarray]]] = field(default_factory=dict)
    """Where persons are marked all through their action: for each video its tubes by class, frames from 1, pixels."""
    resolution: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width of these videos."""

    title = ""
    multi_label = True

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> KeyFrame:
        return self.frames[index]

    def __iter__(self) -> Iterator[KeyFrame]:
        return iter(self.frames)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def digest(self) -> str:
        """Of key frames, boxes, proposals and labels, not of their place."""
        result = hashlib.sha256(repr(self.classes).encode())
        for frame in self.frames:
            result.update(f"{frame.video} {frame.second}\n".encode("utf-8", "replace"))
            for table in (frame.boxes, frame.labels, frame.proposals):
                result.update(table.tobytes())
        return result.hexdigest()[:16]


def load_detection(
    name: str,
    root: PathLike,
    split: str = "val",
    *,
    is_training: bool = False,
    annotations: PathLike | None = None,
    proposals: PathLike | None = None,
    classes: Sequence[int] | None = None,
) -> KeyFrames:
    """Key frames of a split under the folder ``root``; those that count neither in training nor in a test are left out.

    Args:
        name: "ava21", "ava22", "jhmdb" or "ucf101_24".
        is_training: of videos that are marked all through only frames with persons; a test has them all.
        annotations: their file or folder, if it is in no usual place of ``root``.
        proposals: boxes of persons, see :func:`~videozoo.data.ava.read_proposals`; for JHMDB and UCF101-24 by frame
            from 1. By default AVA's published ones, and for the training of the others none.
        classes: ids of the data set's classes to take alone, in this order.

    Raises:
        ValueError: the data set has no boxes, or not these classes.
        FileNotFoundError: annotations, videos or proposals are not there.
    """
    if _form(name) == "ava":
        return _load_ava(name, root, split, annotations, proposals, classes)
    dataset = load_dataset(name, root, split=split, annotations=annotations)
    if proposals is None and not is_training:
        raise FileNotFoundError(
            f"a test on {name} needs boxes of persons: name a file of proposals, such as 'videozoo data proposals' "
            "writes, or videozoo.data.ava.write_proposals of a table by video and frame from 1."
        )
    table = read_proposals(proposals) if proposals is not None else {}
    return _tube_frames(dataset, table, is_training, _checked(name, classes, range(dataset.num_classes)))


def _form(name: str) -> str:
    """How the annotations of a data set are written: "ava" or "tubes"; ValueError for one without boxes."""
    form = dataset_facts(name).get("files", {}).get("format")
    if form not in ("ava", "tubes"):
        raise ValueError(f"{name} has no boxes of persons: a detector needs ava21, ava22, jhmdb or ucf101_24.")
    return form


def list_key_frames(
    name: str, root: PathLike, split: str = "val", *, annotations: PathLike | None = None
) -> tuple[dict[tuple[str, Path], list[int]], bool]:
    """Where a split needs boxes of persons: for each video, by name and path, key frames; and whether these are seconds
    of a film, as in AVA, or else frames from 1, all of them. Raises what ``load_detection`` does.
    """
    by_second = _form(name) == "ava"
    dataset = load_dataset(name, root, split=split, annotations=annotations)
    places: dict[tuple[str, Path], list[int]] = {}
    for sample in dataset:
        video = film_name(sample.path) if by_second else _video_name(sample)
        numbers = [sample.extra["timestamp"]] if by_second else range(1, sample.num_frames + 1)
        places.setdefault((video, dataset.root / sample.path), []).extend(numbers)
    return places, by_second


def _video_name(sample: Sample) -> str:
    return os.path.splitext(sample.path)[0] if is_video_file(sample.path) else sample.path


def _checked(name: str, classes: Sequence[int] | None, known: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(known if classes is None else classes)
    unknown = [number for number in chosen if number not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        what = f"{unknown[0]} is none" if unknown else "some repeat" if chosen else "none is given"
        raise ValueError(f"classes of {name} are different numbers from {known[0]} to {known[-1]}: {what}.")
    return chosen


def _load_ava(
    name: str,
    root: PathLike,
    split: str,
    annotations: PathLike | None,
    proposals: PathLike | None,
    classes: Sequence[int] | None,
) -> KeyFrames:
    chosen = _checked(name, classes, ACTIONS)
    options = {"annotations": annotations, "proposals": proposals, "classes": chosen, "is_training": True}
    frames, _ = load_key_frames(root, name, split, **options)
    labels = class_names(name, [])
    names = [labels[number - 1] for number in chosen]
    return KeyFrames(name, split, frames, names, chosen, frozenset(EVALUATED) & set(chosen), Path(root))


def action_ids(names: Sequence[str], dataset: str) -> list[int] | None:
    """AVA's ids of classes by their names, for a model of some of them; None unless all are AVA's."""
    if dataset_facts(dataset).get("files", {}).get("format") != "ava":
        return None
    ids = {class_key(label): number for number, label in zip(ACTIONS, class_names(dataset, []), strict=True)}
    found = [ids.get(class_key(name)) for name in names]
    return found if found and None not in found else None


# JHMDB and UCF101-24 -------------------------------------------------------------------------------------------------


def _tube_frames(
    dataset: Dataset, proposals: Mapping[tuple[str, int], np.ndarray], is_training: bool, classes: tuple[int, ...]
) -> KeyFrames:
    """The frames of videos with tubes; of proposals those with a score of at least ``MIN_SCORE`` count."""
    column = {number: i for i, number in enumerate(classes)}
    result = KeyFrames(
        dataset.name,
        dataset.split,
        [],
        [dataset.class_names[number] for number in classes],
        classes,
        frozenset(classes),
        dataset.source,
        {},
        {},
    )
    for sample in dataset:
        video = _video_name(sample)
        tubes = {number: group for number, group in sample.extra["tubes"].items() if number in column}
        result.tubes[video], result.resolution[video] = tubes, sample.extra["resolution"]
        persons = _persons_by_frame(sample, tubes, column)
        for number in sorted(persons) if is_training else range(1, sample.num_frames + 1):
            boxes, labels = persons.get(number, (np.zeros((0, 4)), np.zeros((0, len(column)), np.uint8)))
            found = proposals.get((video, number), np.zeros((0, 5)))
            found = found if found.shape[1] == 5 else np.pad(found, ((0, 0), (0, 1)), constant_values=1.0)
            found, path = found[found[:, 4] >= MIN_SCORE], dataset.root / sample.path
            people = np.arange(len(boxes))
            result.frames.append(KeyFrame(video, number, boxes, labels, people, found, path, number - 1))
    return result


def _persons_by_frame(
    sample: Sample, tubes: Mapping[int, Sequence[np.ndarray]], column: Mapping[int, int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Boxes as fractions ``(K, 4)`` and labels ``(K, C)`` of every frame (from 1) of a video in which somebody acts."""
    height, width = sample.extra["resolution"]
    rows: dict[int, list[tuple[np.ndarray, int]]] = {}
    for number, group in tubes.items():
        for tube in group:
            for frame, *box in tube:
                fractions = np.asarray(box) / np.array([width, height, width, height])
                rows.setdefault(int(frame), []).append((fractions.clip(0, 1), column[number]))
    result = {}
    for frame, people in rows.items():
        labels = np.zeros((len(people), len(column)), np.uint8)
        labels[np.arange(len(people)), [place for _, place in people]] = 1
        result[frame] = np.stack([box for box, _ in people]), labels
    return result
