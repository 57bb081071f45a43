"""What is wrong with a data set on disk, before anybody trusts a number measured on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .annotations import is_video_file
from .datasets import Dataset, dataset_facts, load_unchecked, split_and_fold, wrong_label
from .encode import run_jobs
from .official import class_key
from .reader import VideoError, open_video

__all__ = ["AuditReport", "audit"]

_SHOWN = 20  # findings of a kind in the text; JSON has them all
_TITLES = {
    "missing": "missing",
    "unreadable": "unreadable",
    "duplicates": "same content more than once",
    "shared": "also in another split",
    "mislabelled": "wrongly labelled",
}


@dataclass
class AuditReport:
    """Findings for one split. Paths are relative to `root`."""

    dataset: str
    split: str
    source: str
    """The list or annotation file."""
    root: str
    listed: int
    """Different videos in the list."""
    official: int | None
    """Videos of the split as published; None where that is not known."""
    missing: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason; frames that the list names and the video does not have are one."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Paths with the same content (of folders of frames: first, middle and last), or listed twice."""
    shared: list[tuple[str, str, str]] = field(default_factory=list)
    """Path, the other split, and what is the same: name, source video or content."""
    mislabelled: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason: a label that is no class, or the folder of another class."""

    @property
    def ok(self) -> bool:
        """Nothing was found, and the number of videos is the published one where that is known."""
        return not any(getattr(self, kind) for kind in _TITLES) and self.official in (None, self.listed)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, with `ok`."""
        return {**asdict(self), "ok": self.ok}

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        known = {None: "", self.listed: " (as published)"}.get(self.official, f" ({self.official} are published)")
        lines = [f"{self.dataset} {self.split}: {self.listed} videos in {self.source}{known}, media in {self.root}"]
        for kind, title in _TITLES.items():
            found = getattr(self, kind)
            lines += [f"{title}: {len(found)}"] if found else []
            lines += [f"  {item if isinstance(item, str) else ' | '.join(item)}" for item in found[:_SHOWN]]
            lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return "\n".join([*lines, "nothing wrong was found" if self.ok else "audit found problems"])


def audit(
    dataset: str,
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    annotations: str | os.PathLike[str] | None = None,
    kind: str | None = None,
    modality: str = "rgb",
    workers: int = 0,
    progress: bool = True,
) -> AuditReport:
    """Checks every video of a split that `load_dataset` finds: is it there, does it open, is it the only copy, does it
    leak from another split (if that is under `root` too), and does its label fit the classes and its folder.

    Files are opened and their first frame is decoded; contents are compared among files of equal size.
    """
    data = load_unchecked(dataset, root, split, annotations, kind, modality)
    base, _ = split_and_fold(dataset, split)
    official = dataset_facts(dataset).get("counts", {}).get(base)
    report = AuditReport(dataset, split, str(data.source), str(data.root), len({s.path for s in data}), official)
    present = [number for number in range(len(data)) if data.path(number).exists()]
    report.missing = sorted({sample.path for sample in data} - {data[number].path for number in present})
    report.unreadable = _unreadable(data, present, workers, progress)
    report.mislabelled = _mislabelled(data)
    others = _other_splits(dataset, Path(root), split, kind, modality) if annotations is None else {}
    _compare(report, data, others, workers, progress)
    return report


@dataclass(frozen=True)
class _Probe:
    source: str
    modality: str
    last: int
    """Frames that the video must have at least."""


def _probe(job: _Probe) -> None:
    with open_video(job.source, num_threads=1, modality=job.modality) as video:
        if len(video) < job.last:
            raise VideoError(job.source, f"the list names frames up to {job.last}, but it has {len(video)}.")


def _unreadable(data: Dataset, numbers: list[int], workers: int, progress: bool) -> list[tuple[str, str]]:
    jobs: dict[_Probe, str] = {}
    for number in numbers:
        sample = data[number]
        jobs[_Probe(str(data.path(number)), data.modality, sample.start + sample.num_frames)] = sample.path
    paths = list(jobs.values())
    results = run_jobs(_probe, list(jobs), workers=workers, progress=progress, title="open")
    return sorted((paths[n], _reason(error)) for n, error in results if error is not None)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, VideoError) else str(error)


def _mislabelled(data: Dataset) -> list[tuple[str, str]]:
    if not data.metrics:
        return []
    index: dict[str, int] = {}
    for number, name in enumerate(data.class_names):
        index[class_key(name)] = -1 if class_key(name) in index else number
    found = []
    for sample in data:
        folder = class_key(PurePosixPath(sample.path).parent.name)
        reason = wrong_label(data, sample)
        if not reason and isinstance(sample.label, int) and index.get(folder, -1) not in (-1, sample.label):
            reason = f"is in the folder of class {index[folder]}, but has label {sample.label}"
        if reason:
            found.append((sample.path, reason))
    return found


# Duplicates ----------------------------------------------------------------------------------------------------------


def _other_splits(name: str, root: Path, split: str, kind: str | None, modality: str) -> dict[str, Dataset]:
    base, fold = split_and_fold(name, split)
    files = dataset_facts(name).get("files", {})
    others = {}
    for other in files.get("splits", ["train", "val", "test"]):
        label = f"{other}{fold}" if fold > 1 else other
        if other != base:
            try:
                others[label] = load_unchecked(name, root, label, None, kind, modality)
            except FileNotFoundError:
                continue  # that split is not on this disk
    return others


def _identity(path: str, youtube: bool) -> str:
    """The name without folder and suffix, or the source video's id where names begin with it."""
    name = PurePosixPath(path).name
    name = name[: name.rindex(".")] if is_video_file(name) else name
    return name[:11] if youtube else name


def _compare(report: AuditReport, data: Dataset, others: Mapping[str, Dataset], workers: int, progress: bool) -> None:
    """Fills in `duplicates` and `shared`."""
    youtube = dataset_facts(data.name).get("files", {}).get("youtube_ids", False)
    own = {str(data.path(number)): sample.path for number, sample in enumerate(data)}
    for split, other in others.items():
        names = {_identity(sample.path, youtube) for sample in other}
        what = "source video" if youtube else "name"
        report.shared += [(path, split, what) for path in own.values() if _identity(path, youtube) in names]
    foreign = {str(o.path(n)): split for split, o in others.items() for n in range(len(o))}
    for group in _same_content([*own, *(path for path in foreign if path not in own)], workers, progress):
        inside = sorted(own[path] for path in group if path in own)
        if len(inside) > 1:
            report.duplicates.append(inside)
        for split in sorted({foreign[path] for path in group if path in foreign and path not in own}):
            report.shared += [(path, split, "content") for path in inside]
    listed: dict[tuple[str, int, int], int] = {}
    for sample in data:
        key = sample.path, sample.start, sample.extra.get("timestamp", 0)
        listed[key] = listed.get(key, 0) + 1
    report.duplicates += [[path, f"listed {count} times"] for (path, *_), count in listed.items() if count > 1]
    report.duplicates.sort()
    report.shared.sort()


def _same_content(paths: list[str], workers: int, progress: bool) -> list[list[str]]:
    """Groups of paths with equal content. Only those of equal size are read."""
    sizes: dict[Any, list[str]] = {}
    for path in paths:
        if os.path.exists(path):
            sizes.setdefault(file_size(path), []).append(path)
    candidates = [path for group in sizes.values() if len(group) > 1 for path in group]
    groups: dict[str, list[str]] = {}
    for number, digest in run_jobs(media_digest, candidates, workers=workers, progress=progress, title="compare"):
        if isinstance(digest, str):
            groups.setdefault(digest, []).append(candidates[number])
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _images(folder: str) -> list[str]:
    return sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))


def file_size(path: str) -> Any:
    """Bytes of a file; of a folder the number of files and the bytes of the first."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    images = _images(path)
    return len(images), os.path.getsize(images[0]) if images else 0


def media_digest(path: str) -> str:
    files = [path]
    if os.path.isdir(path):
        images = _images(path)
        files = [images[place] for place in (0, len(images) // 2, -1)] if images else []
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
