"""From what the authors publish to list files, with smaller videos or extracted frames on request."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from . import regions
from .annotations import Sample, atomic_text, write_list
from .datasets import (
    annotation_places,
    dataset_facts,
    find_files,
    list_names,
    official_names,
    read_official,
    split_and_fold,
)
from .encode import Job, encode_video, extract_frames, run_jobs
from .media import MediaIndex, media_folders
from .reader import VideoError, open_video

__all__ = ["PrepareReport", "prepare"]

PathLike = str | os.PathLike[str]


@dataclass
class PrepareReport:
    """What `prepare` did for one split."""

    dataset: str
    split: str
    list_files: list[str]
    """Empty if no video is left to list."""
    listed: int = 0
    made: int = 0
    """Videos encoded or extracted now."""
    kept: int = 0
    """Those that were complete already."""
    missing: list[str] = field(default_factory=list)
    """Annotated, but not on disk: left out of the list."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason: cannot be read, left out of the list."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.dataset} {self.split}: {self.listed} videos listed in {' and '.join(self.list_files) or 'no file'}"
        ]
        if self.made or self.kept:
            lines.append(f"  {self.made} written, {self.kept} were there already")
        if self.missing:
            lines.append(f"  {len(self.missing)} annotated videos are not on disk, for example {self.missing[0]}")
        lines += [f"  cannot be read: {reason}" for _, reason in self.failed]
        return "\n".join(lines)


def prepare(
    dataset: str,
    root: PathLike,
    *,
    splits: Sequence[str] = (),
    annotations: PathLike | None = None,
    short_side: int = 0,
    dense: bool = False,
    frames: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> list[PrepareReport]:
    """Writes the list file of every split whose official annotations are in `root` (or `annotations`).

    Lists have MMAction2's names and format; videos that are not on disk are left out. Media are looked for as
    `load_dataset` does. With `short_side` (pixels; smaller videos are not enlarged) or `dense` (a key frame every 16
    frames) the videos are encoded into `videos_{split}_256p` and the like, with `frames` they are extracted into
    `rawframes_{split}`; the list then names those. A video that cannot be read is reported, the others go on, and a run
    that was interrupted continues where it was.

    Raises:
        ValueError: unknown data set or split, or one whose annotations are used as published.
        FileNotFoundError: no annotations, or none of the videos.
        TimeoutError: another run works in the same folder.
    """
    from filelock import FileLock, Timeout

    root, base = Path(root), dataset_facts(dataset)
    if base.get("category_of"):
        raise ValueError(f"{dataset} is read from the lists of {base['category_of']}: prepare that one.")
    style = base.get("files", {}).get("format")
    if "made_by" in base:
        raise ValueError(f"{dataset} needs no preparation: '{base['made_by']}' makes it as it is read.")
    if style is None:
        raise ValueError(f"there is no reader for the authors' files of {dataset}: write its list files yourself.")
    if style in ("ava", "tubes"):
        raise ValueError(f"{dataset} needs no preparation: its published files are read as they are.")
    if frames and dense:
        raise ValueError("frames and dense exclude each other: only videos have key frames.")
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist: give the folder of {dataset}.")
    try:
        with FileLock(root / ".videozoo-prepare.lock", timeout=0):
            if style == "proposals":
                return _prepare_proposals(dataset, root, splits, annotations)
            recipe = {"short_side": short_side, "dense": dense, "frames": frames}
            return _prepare_splits(dataset, root, splits, annotations, recipe, workers, progress)
    except Timeout:
        raise TimeoutError(f"{root}: another process prepares this folder; wait for it to finish.") from None


def _wanted(dataset: str, splits: Sequence[str]) -> list[str]:
    files = dataset_facts(dataset)["files"]
    names = files.get("splits", ["train", "val", "test"])
    return list(splits) or [f"{name}{n or ''}" for name in names for n in range(1, files.get("folds", 0) + 1) or [0]]


def _prepare_splits(
    dataset: str,
    root: Path,
    splits: Sequence[str],
    annotations: PathLike | None,
    recipe: Mapping[str, Any],
    workers: int,
    progress: bool,
) -> list[PrepareReport]:
    places, reports, searched = annotation_places(root, Path(annotations) if annotations else None), [], []
    for split in _wanted(dataset, splits):
        base, fold = split_and_fold(dataset, split)
        patterns = official_names(dataset, base, fold)
        files = find_files(places, patterns)
        searched += patterns
        if not files and split in splits:
            raise FileNotFoundError(f"{dataset} {split}: none of {', '.join(patterns)} is in {_joined(places)}.")
        if files:
            samples = read_official(dataset, files, base, fold, places)
            reports.append(_prepare_split(dataset, split, root, samples, recipe, workers, progress))
    if not reports:
        raise FileNotFoundError(
            f"no official annotations of {dataset} were found: looked for {', '.join(dict.fromkeys(searched))} in "
            f"{_joined(places)}. Download them from {dataset_facts(dataset)['homepage']}."
        )
    return reports


def _joined(places: Sequence[Path]) -> str:
    return " and ".join(map(str, places))


def _prepare_split(
    dataset: str,
    split: str,
    root: Path,
    samples: list[Sample],
    recipe: Mapping[str, Any],
    workers: int,
    progress: bool,
) -> PrepareReport:
    base, fold = split_and_fold(dataset, split)
    kinds = ["videos"] if any(recipe.values()) else ["videos", "rawframes"]
    kind, folder, samples, missing = _on_disk(dataset, root, base, samples, kinds)
    report = PrepareReport(dataset, split, [], missing=missing)
    variant = ""
    if any(recipe.values()):
        kind = "rawframes" if recipe["frames"] else "videos"
        variant = f"_{recipe['short_side']}p" * bool(recipe["short_side"]) + "_dense" * recipe["dense"]
        several = dataset_facts(dataset)["files"].get("folds")  # whose videos are in train here and in val there
        target = root / (f"{kind}{variant}" if several else f"{kind}_{base}{variant}")
        samples = _convert(samples, folder, target, recipe, report, workers, progress)
        folder = target
    if kind == "rawframes":
        samples = _counted(samples, folder, report, workers, progress)
    if not samples:
        return report
    names = list_names(dataset, base, fold, kind)
    clip_lists = dataset_facts(dataset)["files"].get("clip_lists", [])
    for name in names[: 1 + bool(clip_lists and kind == "rawframes")]:
        of_clips = any(fnmatch(name, pattern) for pattern in clip_lists)
        rows = _clips(samples) if of_clips else samples
        path = root / f"{Path(name).stem}{variant}{Path(name).suffix}"
        write_list(path, rows, "hvu" if dataset == "hvu" else kind, with_offset=of_clips)
        report.list_files.append(str(path))
    report.listed = len(samples)
    return report


def _on_disk(
    dataset: str, root: Path, split: str, samples: list[Sample], kinds: list[str]
) -> tuple[str, Path, list[Sample], list[str]]:
    """Kind and folder of the media, the samples that are there, and the paths of the others."""
    folders = media_folders(root, split, kinds, dataset_facts(dataset)["files"].get("folders", []))
    for kind, folder in folders:
        index = MediaIndex(folder, kind)
        pairs = [(sample, index.find(sample.path)) for sample in samples]
        if any(path for _, path in pairs):
            found = [replace(sample, path=path) for sample, path in pairs if path]
            return kind, folder, found, [sample.path for sample, path in pairs if not path]
    first = samples[0].path if samples else "there is none"
    looked = ", ".join(dict.fromkeys(str(folder) for _, folder in folders))
    raise FileNotFoundError(
        f"none of the {len(samples)} {' or '.join(kinds)} of {dataset}, split {split!r} ({first}, ...), was found: "
        f"looked in {looked}."
    )


def _convert(
    samples: list[Sample],
    source: Path,
    target: Path,
    recipe: Mapping[str, Any],
    report: PrepareReport,
    workers: int,
    progress: bool,
) -> list[Sample]:
    """Encodes or extracts the samples' videos; returns those that worked, with their new paths."""
    suffix = "" if recipe["frames"] else ".mp4"
    paths = [str(Path(sample.path).with_suffix("")) + suffix for sample in samples]
    jobs = [
        Job(str(source / sample.path), str(target / path), recipe["short_side"], recipe["dense"])
        for sample, path in zip(samples, paths, strict=True)
    ]
    function, title = (extract_frames, "extract") if recipe["frames"] else (encode_video, "encode")
    done: dict[int, Sample] = {}
    for number, result in run_jobs(function, jobs, workers=workers, progress=progress, title=title):
        if isinstance(result, Exception):
            report.failed.append((samples[number].path, str(result)))
        else:
            report.made, report.kept = report.made + result, report.kept + (not result)
            done[number] = replace(samples[number], path=paths[number])
    report.failed.sort()
    return [done[number] for number in sorted(done)]


def count_frames(path: str) -> int:
    """RGB frames in a folder, or, where it has none, pairs of flow images."""
    try:
        return len(open_video(path))
    except VideoError:
        return len(open_video(path, modality="flow"))


def _counted(samples: list[Sample], folder: Path, report: PrepareReport, workers: int, progress: bool) -> list[Sample]:
    """Samples with the number of frames of their folder; those without a frame are reported and left out."""
    jobs = [str(folder / sample.path) for sample in samples]
    counts = dict(run_jobs(count_frames, jobs, workers=workers, progress=progress, title="count frames"))
    report.failed += [(samples[n].path, str(c)) for n, c in sorted(counts.items()) if isinstance(c, Exception)]
    pairs = [(sample, counts[number]) for number, sample in enumerate(samples)]
    return [replace(sample, num_frames=count) for sample, count in pairs if isinstance(count, int)]


def _clips(samples: list[Sample]) -> list[Sample]:
    """ActivityNet's segments as clips: first frame and length from seconds and the speed of the extracted frames."""
    clips = []
    for sample in samples:
        fps = sample.num_frames / sample.extra["seconds"] if sample.extra["seconds"] else 0.0
        for start, end, label in sample.extra["segments"]:
            first, last = int(start * fps), min(int(end * fps), sample.num_frames)
            if last > first:
                clips.append(Sample(sample.path, label, last - first, first))
    return clips


def _prepare_proposals(
    dataset: str, root: Path, splits: Sequence[str], annotations: PathLike | None
) -> list[PrepareReport]:
    """THUMOS14: proposal lists in frames from the published ones in fractions of the length."""
    places = annotation_places(root, Path(annotations) if annotations else None)
    normalized, reports = dataset_facts(dataset)["files"]["normalized"], []
    for split in _wanted(dataset, splits):
        files = find_files(places, normalized[split])
        if not files:
            continue
        videos = regions.read_proposals(files[0])
        folders = [folder for _, folder in media_folders(root, split, ["rawframes"]) if folder.is_dir()]
        counts: dict[str, int] = {}
        for video in videos:
            path = next((folder / video.video for folder in folders if (folder / video.video).is_dir()), None)
            if path is not None:
                counts[video.video] = count_frames(str(path))
        videos_found = regions.denormalize_proposals(videos, counts)
        if not videos_found:
            raise FileNotFoundError(f"{root}: no frames of the {len(videos)} videos in {files[0]} were found.")
        path = root / official_names(dataset, split, 1)[0]
        atomic_text(path, regions.write_proposals(videos_found))
        missing = [video.video for video in videos if video.video not in counts]
        reports.append(PrepareReport(dataset, split, [str(path)], len(videos_found), missing=missing))
    if not reports:
        names = ", ".join(sum(normalized.values(), []))
        raise FileNotFoundError(f"no proposal list of {dataset} ({names}) was found in {_joined(places)}.")
    return reports
