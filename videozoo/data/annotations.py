"""List files: what the published training code reads, one video a line or one JSON object a video.

    videos      path label [label ...]
    rawframes   folder [offset] frames label [label ...]
    audio       path frames label [label ...]
    images      path label [label ...]
    clips       folder label number_of_clips index [index ...]     (a long video cut into part_0.mp4, part_1.mp4, ...)
    hvu         JSON only: {"label": {category: [index, ...]}}

Labels count from 0. The published readers stop at blank lines and cannot have blanks in a path, both by accident: here
blank lines are skipped, and a path may hold blanks as long as its last word is no number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "AnnotationError", "Label", "Sample", "atomic_text", "guess_kind", "read_list", "write_list"]

KINDS = ("videos", "rawframes", "audio", "images", "clips", "hvu")
UNLABELLED = -1  # what lists of test sets say
Label = int | tuple[int, ...] | Mapping[str, tuple[int, ...]]

_PATH_KEYS = ("filename", "frame_dir", "audio_path", "video_dir")
_VIDEO_SUFFIXES = {".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp"}


class AnnotationError(ValueError):
    """A list or annotation file that does not follow its format. The message names file and line."""


@dataclass(frozen=True)
class Sample:
    """One video of a list, or one clip of a long video."""

    path: str
    """As the list has it, relative to the folder of the media."""
    label: Label
    """Class index; a tuple of them for multi-label data; `{category: indices}` for HVU; -1 where unlabelled."""
    num_frames: int = 0
    """Frames of the clip as the list states them; 0: unknown, all that the video has."""
    start: int = 0
    """First frame of the clip in its video, from 0."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the format states."""


def is_video_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name ends like a video's."""
    return os.path.splitext(path)[1].lower() in _VIDEO_SUFFIXES


def read_list(
    path: str | os.PathLike[str],
    kind: str = "",
    *,
    multi_label: bool = False,
    with_offset: bool = False,
    suffix: str = "",
    prefix: str = "",
) -> list[Sample]:
    """Samples of a list file in its order; JSON by the file's suffix, anything else is text.

    `kind` is one of `KINDS`, or "" to tell it from the file (see `guess_kind`). `with_offset`: lines of raw frames name
    the first frame of the clip before the number of frames. With `multi_label` every label is a tuple; without it,
    several labels are an error. `prefix` is put before every path, `suffix` (".wav", ".npy") behind those without it.

    Raises:
        AnnotationError: a line or object does not follow the format.
    """
    kind = kind or guess_kind(path)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown: use one of {', '.join(KINDS)}.")
    if Path(path).suffix == ".json":
        samples = [_from_object(item, kind, multi_label, f"{path}, item {n}") for n, item in enumerate(read_json(path))]
    elif kind == "hvu":
        raise AnnotationError(f"{path}: lists of HVU are JSON files.")
    else:
        rows = ((number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1))
        rows = [(f"{path}, line {number}", line) for number, line in rows if line]
        if kind == "clips":
            samples = [_clips_from_line(line, where) for where, line in rows]
        else:
            leading = {"rawframes": 1 + with_offset, "audio": 1}.get(kind, 0)
            samples = [_from_line(line, leading, multi_label, where) for where, line in rows]
    return [_moved(sample, prefix, suffix) for sample in samples]


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file, UTF-8 with or without byte order mark; AnnotationError for other bytes."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def read_json(path: str | os.PathLike[str], *, unique: bool = False) -> Any:
    """A JSON file; AnnotationError if it is none, or if `unique` and a table in it has the same key twice."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in found if keys.count(key) > 1)
            raise AnnotationError(f"{path} has {twice!r} twice: leave one of both.")
        return found

    try:
        return json.loads(read_text(path), object_pairs_hook=table if unique else None)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path} is no JSON file ({error}).") from error


def guess_kind(path: str | os.PathLike[str]) -> str:
    """The kind of a list from its first entry: keys of a JSON object, or the numbers and suffix on a line of text."""
    if Path(path).suffix == ".json":
        items = read_json(path)
        if not isinstance(items, list) or not items or not isinstance(items[0], dict):
            raise AnnotationError(f"{path} is no list of videos: expected [{{'filename': ..., 'label': [...]}}, ...].")
        if isinstance(items[0].get("label"), dict):
            return "hvu"
        keys = {"frame_dir": "rawframes", "audio_path": "audio", "video_dir": "clips"}
        return next((kind for key, kind in keys.items() if key in items[0]), "videos")
    line = next((line for line in read_text(path).splitlines() if line.strip()), "")
    words, numbers = _split(line)
    suffix = os.path.splitext(words)[1].lower()
    if suffix in (".wav", ".npy"):
        return "audio"
    return "rawframes" if len(numbers) > 1 and suffix not in _VIDEO_SUFFIXES else "videos"


def _split(line: str) -> tuple[str, list[int]]:
    """The path and the whole numbers that end a line."""
    words = line.split()
    end = len(words)
    while end > 1 and words[end - 1].lstrip("-").isdecimal():
        end -= 1
    numbers = [int(word) for word in words[end:]]
    path = line.strip()
    for _ in numbers:
        path = path.rsplit(None, 1)[0]
    return path, numbers


def _from_line(line: str, leading: int, multi_label: bool, where: str) -> Sample:
    """`leading` numbers stand before the labels: none, the frames, or offset and frames."""
    path, numbers = _split(line)
    labels = numbers[leading:]
    wanted = " ".join(["path", *("offset", "frames")[2 - leading :], "label"])
    if not labels:
        raise AnnotationError(f"{where}: label missing in {line!r}, expected '{wanted}'.")
    if len(labels) > 1 and not multi_label:
        raise AnnotationError(
            f"{where}: expected '{wanted}', but {line!r} ends with {len(numbers)} numbers. Several labels are read "
            "with multi_label=True, offsets with with_offset=True; a path that ends in a number of its own needs JSON."
        )
    return Sample(
        path=path,
        label=tuple(labels) if multi_label else labels[0],
        num_frames=numbers[leading - 1] if leading else 0,
        start=numbers[0] if leading == 2 else 0,
    )


def _clips_from_line(line: str, where: str) -> Sample:
    path, numbers = _split(line)
    if len(numbers) < 2:
        raise AnnotationError(f"{where}: expected 'folder label number_of_clips [index ...]', got {line!r}.")
    label, num_clips, *positive = numbers
    return Sample(path, label, extra={"num_clips": num_clips, "positive_clips": tuple(positive)})


def _from_object(item: Any, kind: str, multi_label: bool, where: str) -> Sample:
    if not isinstance(item, dict) or "label" not in item or not any(key in item for key in _PATH_KEYS):
        raise AnnotationError(f"{where}: expected an object with 'label' and one of {', '.join(_PATH_KEYS)}.")
    label = item["label"]
    if isinstance(label, dict):
        label = {category: tuple(indices) for category, indices in label.items()}
    elif kind == "hvu":
        raise AnnotationError(f"{where}: a label of HVU is {{category: [indices]}}, got {label!r}.")
    else:
        labels = label if isinstance(label, list) else [label]
        if len(labels) != 1 and not multi_label:
            raise AnnotationError(f"{where}: {len(labels)} labels; read data with several ones with multi_label=True.")
        label = tuple(labels) if multi_label else labels[0]
    extra = {}
    if "num_clips" in item:
        extra = {"num_clips": item["num_clips"], "positive_clips": tuple(item.get("positive_clip_inds", ()))}
    path = next(item[key] for key in _PATH_KEYS if key in item)
    return Sample(path, label, item.get("total_frames", 0), item.get("offset", 0), extra)


def _moved(sample: Sample, prefix: str, suffix: str) -> Sample:
    path = f"{prefix}/{sample.path}" if prefix else sample.path
    path = path if path.endswith(suffix) else path + suffix
    return Sample(path, sample.label, sample.num_frames, sample.start, sample.extra)


def write_list(
    path: str | os.PathLike[str], samples: Iterable[Sample], kind: str, *, with_offset: bool = False
) -> Path:
    """Writes a list file that `read_list` and the published code read, completely or not at all.

    A ".json" path makes a JSON list, which can say everything; a text list cannot have a path that ends in a number as
    a word of its own, line breaks, or labels by category: AnnotationError.
    """
    samples = list(samples)
    if Path(path).suffix == ".json":
        return atomic_text(path, json.dumps([_to_object(sample, kind) for sample in samples], indent=1) + "\n")
    return atomic_text(path, "".join(_to_line(sample, kind, with_offset) + "\n" for sample in samples))


def _labels_of(sample: Sample) -> Sequence[int]:
    return sample.label if isinstance(sample.label, tuple) else (sample.label,)


def _to_line(sample: Sample, kind: str, with_offset: bool) -> str:
    numbers = [sample.start] if with_offset else []
    numbers += [sample.num_frames] if kind in ("rawframes", "audio") else []
    if kind in ("clips", "hvu") or isinstance(sample.label, Mapping):
        raise AnnotationError(f"{sample.path}: lists of {kind} are written as JSON.")
    line = " ".join([sample.path, *map(str, (*numbers, *_labels_of(sample)))])
    if _split(line)[0] != sample.path or "\n" in line or "\r" in line:
        raise AnnotationError(f"a text list cannot name {sample.path!r} clearly: rename it, or write a JSON list.")
    return line


def _to_object(sample: Sample, kind: str) -> dict[str, Any]:
    key = {"rawframes": "frame_dir", "audio": "audio_path", "clips": "video_dir"}.get(kind, "filename")
    if kind == "hvu" and sample.num_frames:
        key = "frame_dir"
    item: dict[str, Any] = {key: sample.path}
    if sample.num_frames:
        item["total_frames"] = sample.num_frames
    if sample.start:
        item["offset"] = sample.start
    if "num_clips" in sample.extra:
        item |= {"num_clips": sample.extra["num_clips"], "positive_clip_inds": list(sample.extra["positive_clips"])}
        return {**item, "label": sample.label}
    return {**item, "label": sample.label if isinstance(sample.label, Mapping) else list(_labels_of(sample))}


def atomic_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a UTF-8 text file beside `path` and moves it there; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
