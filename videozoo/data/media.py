"""Where the videos of a data set lie under its folder, and which of them an annotation means."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .annotations import Sample, is_video_file

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "validate", "valid"),
    "test": ("test", "testing"),
}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_PROBED = 64  # samples looked for to tell which folder is meant


def split_words(split: str) -> tuple[str, ...]:
    """What a split is usually called, our own name first; a name that is not known as it is."""
    return next((words for words in _SPLIT_NAMES.values() if split in words), (split,))


def split_folders(root: Path, split: str, kind: str) -> list[Path]:
    """Folders that hold the media of one split only, as they are usually called."""
    names = []
    for word in split_words(split):
        names += [f"{kind}_{word}", f"{kind}/{word}", word]
    return [root / name for name in names]


def media_folders(
    root: Path, split: str, kinds: Sequence[str], extra: Sequence[str] = (), variant: str = ""
) -> list[tuple[str, Path]]:
    """Kinds and folders in which the media of a split may be, the likeliest first.

    `variant` is what follows the usual names: "_256p". The root itself comes last, and there folders of frames first:
    to look for videos means to list every folder, also those full of images.
    """
    places = []
    for kind in kinds:
        if variant:
            places += [(kind, root / f"{kind}_{split}{variant}"), (kind, root / f"{kind}{variant}")]
        places += [(kind, folder) for folder in split_folders(root, split, kind)]
        places += [(kind, root / name) for name in (kind, *extra)]
    return [*places, *((kind, root) for kind in sorted(kinds))]


def pick_folder(folders: Sequence[Path], samples: Sequence[Sample], source: Path | None) -> Path:
    """The folder in which most of some samples exist; FileNotFoundError if none of the samples is anywhere."""
    step = max(1, len(samples) // _PROBED)
    hits = [sum((folder / sample.path).exists() for sample in samples[::step]) for folder in folders]
    if not any(hits):
        hits = [any((folder / sample.path).exists() for sample in samples) for folder in folders]
    if not any(hits):
        where = ", ".join(map(str, folders))
        first = samples[0].path if samples else "it is empty"
        raise FileNotFoundError(f"none of the {len(samples)} videos in {source} ({first}, ...) is in {where}.")
    return folders[hits.index(max(hits))]


class MediaIndex:
    """The videos, or folders of frames, below a folder, found by an annotation's path with or without suffix.

    A path matches the file of the same folder and name, else the only file of that name anywhere below.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        found = _frame_folders(folder) if kind == "rawframes" else _video_files(folder)
        self.paths = [Path(path).relative_to(folder).as_posix() for path in found]
        self._by_path = {_stem(path): path for path in self.paths}
        self._by_name: dict[str, str | None] = {}
        for path in self.paths:
            name = _stem(path).rpartition("/")[2]
            self._by_name[name] = None if name in self._by_name else path

    def find(self, path: str) -> str | None:
        """The path below the folder, or None."""
        stem = _stem(path)
        return self._by_path.get(stem) or self._by_name.get(stem.rpartition("/")[2])


def _stem(path: str) -> str:
    return path[: -len(Path(path).suffix)] if is_video_file(path) else path


def _video_files(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if is_video_file(name) and not name.startswith("."):
                yield os.path.join(parent, name)


def _frame_folders(folder: Path | str) -> Iterator[str]:
    """Folders with images. One image tells: the rest of a folder of frames is not even listed."""
    if not os.path.isdir(folder):
        return
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                inner.append(entry.path)
            elif entry.name.lower().endswith(_IMAGE_SUFFIXES):
                yield os.fspath(folder)
                return
    for path in sorted(inner):
        yield from _frame_folders(path)
