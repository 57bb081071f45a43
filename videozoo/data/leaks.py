"""Videos that training and validation share, which would make the measured accuracy too good."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from .annotations import is_video_file
from .audit import file_size, media_digest
from .datasets import Dataset
from .detection import KeyFrames

__all__ = ["find_film_leaks", "find_leaks", "source_name"]

_YOUTUBE = re.compile(r"([\w-]{11})_\d{6}_\d{6}$")  # id, start, end: Kinetics, HVU
_GROUP = re.compile(r"(v_\w+_g\d+)_c\d+$")  # class, group, clip: UCF101 cuts the clips of a group from one video
_END = 1 << 16  # bytes at the start and at the end of a file that are compared before all of them


def source_name(path: str) -> str:
    """The longer video that a file was cut from, by its name; empty where the name does not tell."""
    name = PurePosixPath(path).name
    stem = name[: name.rindex(".")] if is_video_file(name) else name
    match = _YOUTUBE.match(stem) or _GROUP.match(stem)
    return match[1] if match else ""


def find_leaks(train: Dataset, val: Dataset) -> list[tuple[str, str, str]]:
    """Validation videos that are in the training split too: `(training path, validation path, reason)`.

    The reason is "same file" (links are followed), "same content", or "same source video", where names tell that both
    were cut from one video. Of folders of frames the first, middle and last one are compared. Only files of equal size
    are read, all of them only if their ends are equal. Each validation video comes with one training video, in its
    list's order; missing files match by name only.
    """
    sources: dict[str, str] = {}
    for sample in train:
        if name := source_name(sample.path):
            sources.setdefault(name, str(train.root / sample.path))
    own, other = _files(train), _files(val)
    same = _same_content(
        [path for key, path in own.items() if key not in other],
        [path for key, path in other.items() if key not in own],
    )
    identity = {path: key for key, path in other.items()}
    leaks = []
    for path in dict.fromkeys(str(val.path(number)) for number in range(len(val))):
        source = sources.get(source_name(path))
        key = identity.get(path) or _identity(path)
        if key in own:
            leaks.append((own[key], path, "same file"))
        elif path in same:
            leaks.append((same[path], path, "same content"))
        elif source:
            leaks.append((source, path, "same source video"))
    return leaks


def find_film_leaks(train: KeyFrames, val: KeyFrames) -> list[tuple[str, str, str]]:
    """Films of validation key frames that are trained on too, as :func:`find_leaks` gives them.

    The reason is "same film", by name, wherever the files are; or "same content".
    """
    own, other = ({frame.video: str(frame.path) for frame in data} for data in (train, val))
    leaks = [(own[name], path, "same film") for name, path in other.items() if name in own]
    rest = [path for name, path in other.items() if name not in own]
    same = _same_content(own.values(), rest)
    return leaks + [(same[path], path, "same content") for path in rest if path in same]


def _files(dataset: Dataset) -> dict[Any, str]:
    """A path of each existing file or folder of a data set, by what identifies it on the disk."""
    paths = dict.fromkeys(str(dataset.path(number)) for number in range(len(dataset)))
    return {key: path for path in paths if (key := _identity(path))}


def _identity(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None  # missing videos are the audit's business
    return facts.st_dev, facts.st_ino


def _same_content(own: Iterable[str], other: Iterable[str]) -> dict[str, str]:
    """For paths of `other`, a path of `own` with the same content, in steps that read more and more."""
    groups = [(list(own), list(other))]
    for measure in (file_size, _digest_of_ends, media_digest):
        groups = [part for group in groups for part in _split(*group, measure)]
    return {path: mine[0] for mine, theirs in groups for path in theirs}


def _split(own: list[str], other: list[str], measure: Any) -> Iterable[tuple[list[str], list[str]]]:
    """The paths by what is measured, where both sides have some."""
    sides = defaultdict(lambda: ([], []))
    for side, paths in enumerate((own, other)):
        for path in paths:
            try:
                sides[measure(path)][side].append(path)
            except OSError:
                continue  # unreadable: reported where it is decoded
    return [pair for pair in sides.values() if all(pair)]


def _digest_of_ends(path: str) -> str:
    """Hash of the first and the last bytes of a file; nothing for folders, of which the full one is as cheap."""
    if os.path.isdir(path):
        return ""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        digest.update(stream.read(_END))
        stream.seek(max(0, os.path.getsize(path) - _END))
        digest.update(stream.read(_END))
    return digest.hexdigest()
