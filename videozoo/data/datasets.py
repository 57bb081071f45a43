"""Data sets on disk: which videos, where they lie, what their labels are and how they are measured.

The facts about a data set (file names of its authors and of the published training code, splits, folders) are data, in
`catalog/datasets.toml`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from .. import catalog
from ..names import nearest_names
from . import regions
from .annotations import AnnotationError, Label, Sample, guess_kind, read_list, read_text
from .media import MediaIndex, media_folders, pick_folder, split_folders
from .official import OFFICIAL_FORMATS, class_key, read_tag_categories
from .reader import BaseReader, VideoError, VideoReader, open_video

__all__ = ["Dataset", "dataset_facts", "load_dataset"]

RECOGNITION_METRICS = ("top_k_accuracy", "mean_class_accuracy")
HVU_CATEGORIES = ("action", "attribute", "concept", "event", "object", "scene")  # order of the 3142 scores
PathLike = str | os.PathLike[str]


@dataclass
class Dataset:
    """One split of a data set: samples in the order of their list, and what is needed to open and measure them."""

    name: str
    split: str
    samples: list[Sample]
    root: Path
    """Folder that the samples' paths are relative to."""
    kind: str = "videos"
    """`videos` or `rawframes`, for what can be opened; other kinds of list too."""
    class_names: list[str] = field(default_factory=list)
    """In index order; empty where none are published."""
    num_classes: int = 0
    metrics: tuple[str, ...] = RECOGNITION_METRICS
    """Names for `videozoo.evaluation.metrics.evaluate`."""
    categories: dict[str, int] = field(default_factory=dict)
    """HVU: number of tags of each category, in the order of the scores."""
    multi_label: bool = False
    modality: str = "rgb"
    source: Path | None = None
    """The file, or folder of classes, that the samples were read from."""
    title: str = ""
    """For people; empty: that of `datasets.toml`, else the name."""
    mirrored: tuple[tuple[str, str], ...] = ()
    """Pairs of classes that change places in a mirrored picture: pushing from left to right, and from right to left."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def path(self, index: int) -> Path:
        """Where the video (or folder of frames) of a sample is expected."""
        return self.root / self.samples[index].path

    def open(self, index: int, *, num_threads: int = 0) -> VideoReader:
        """A reader of the sample's frames: the whole video, or the clip of it that the list names.

        `VideoError` if it cannot be read, or if it has fewer frames than the list says.
        """
        sample = self.samples[index]
        reader = open_video(self.path(index), num_threads=num_threads, modality=self.modality)
        if not sample.start and sample.num_frames in (0, len(reader)):
            return reader
        return _Clip(reader, sample.start, sample.num_frames)

    def classes(self, index: int) -> tuple[int, ...]:
        """Classes of a sample as places among the scores; `(-1,)` where it is unlabelled."""
        label = self.samples[index].label
        if isinstance(label, Mapping):
            first = dict(zip(self.categories, np.cumsum([0, *self.categories.values()]).tolist(), strict=False))
            return tuple(first[category] + place for category, places in label.items() for place in places)
        return label if isinstance(label, tuple) else (label,)

    @property
    def labels(self) -> np.ndarray | list[Label]:
        """int64 `(N,)`; for multi-label data uint8 `(N, num_classes)` of 0 and 1.

        For HVU, and for detection and localisation, the list of the samples' labels as they are.
        """
        if self.categories or not self.metrics:
            return [sample.label for sample in self.samples]
        if not self.multi_label:
            return np.array([sample.label for sample in self.samples], np.int64)
        table = np.zeros((len(self), self.num_classes), np.uint8)
        for row, sample in zip(table, self.samples, strict=True):
            row[list(sample.label)] = 1
        return table

    def by_class(self) -> dict[int, list[int]]:
        """Sample numbers of each class that occurs; a sample with several labels is in several."""
        groups: dict[int, list[int]] = {}
        for number in range(len(self)):
            for label in self.classes(number):
                groups.setdefault(label, []).append(number)
        return groups


class _Clip(BaseReader):
    """Part of a video as a video of its own."""

    def __init__(self, video: VideoReader, start: int, count: int) -> None:
        self._video, self._start, self._count = video, start, count or len(video) - start
        self.path, self.fps, self.width, self.height = video.path, video.fps, video.width, video.height
        self.channels = getattr(video, "channels", 3)
        if start + self._count > len(video) or self._count < 1:
            video.close()
            wanted = f"frames {start} to {start + self._count - 1}"
            raise VideoError(self.path, f"the list names its {wanted}, but it has {len(video)}: audit the data set.")

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self._video.get(indices + self._start)

    def scale_to(self, width: int, height: int) -> bool:
        return self._video.scale_to(width, height)

    def close(self) -> None:
        super().close()
        self._video.close()


# Facts ---------------------------------------------------------------------------------------------------------------


def dataset_facts(name: str) -> dict[str, Any]:
    """The data set's row of `datasets.toml`; ValueError with the nearest names for an unknown one."""
    rows = catalog.datasets()
    if name not in rows:
        near = ", ".join(nearest_names(name, rows))
        raise ValueError(f"there is no data set {name!r}: did you mean one of {near}?")
    return rows[name]


def split_and_fold(name: str, split: str) -> tuple[str, int]:
    """`"val2"` as `("val", 2)` for data sets with several official splits, whose first is meant by `"val"`."""
    files = dataset_facts(name).get("files", {})
    splits, folds = files.get("splits", ["train", "val", "test"]), files.get("folds", 1)
    match = re.fullmatch(r"([a-z]+)(\d*)", split)
    if match and match[1] in splits and 1 <= int(match[2] or 1) <= folds:
        return match[1], int(match[2] or 1)
    numbered = f", each with a number 1 to {folds} behind it," if folds > 1 else ""
    raise ValueError(f"{name} has no split {split!r}: choose one of {', '.join(splits)}{numbered}.")


def list_names(name: str, split: str, fold: int, kind: str) -> list[str]:
    """Names that the list file of a split may have, the first one being what `prepare` writes."""
    files = dataset_facts(name).get("files", {})
    stem = files.get("stem", name)
    words = {"split": split, "fold": fold, "kind": kind, "stem": stem}
    patterns = files.get("lists", {}).get(kind, [])
    middle = "{stem}_{split}_split_{fold}_{kind}" if files.get("folds") else "{stem}_{split}_list_{kind}"
    return [p.format(**words) for p in (*patterns, f"{middle}.txt", f"{middle}.json")]


def official_names(name: str, role: str, fold: int) -> list[str]:
    return [p.format(fold=fold) for p in dataset_facts(name).get("files", {}).get("official", {}).get(role, [])]


def find_files(places: Iterable[Path], patterns: Iterable[str]) -> list[Path]:
    """All files that match the first fitting pattern in the first fitting folder."""
    for pattern in patterns:
        for place in places:
            if found := sorted(path for path in place.glob(pattern) if path.is_file()):
                return found
    return []


def annotation_places(root: Path, annotations: Path | None = None) -> list[Path]:
    """Folders in which annotation files are looked for."""
    return [annotations] if annotations else [root, root / "annotations"]


def class_names(name: str, places: Sequence[Path]) -> list[str]:
    """Class names of the catalog, or of the data set's own files where the catalog has none; else empty."""
    facts = dataset_facts(name)
    if "labels" in facts:
        return catalog.labels(facts["labels"])
    if facts.get("files", {}).get("format") == "tubes":
        found = find_files(places, official_names(name, "val", 1))
        return regions.read_tubes(found[0], "val")[1] if found else []
    found = [path for path in find_files(places, official_names(name, "classes", 1)) if path.suffix == ".txt"]
    return [line.strip() for line in read_text(found[0]).splitlines() if line.strip()] if found else []


def tag_names() -> dict[str, list[str]]:
    """HVU's tags by category."""
    return {category: catalog.labels(f"hvu_{category}") for category in HVU_CATEGORIES}


# Loading -------------------------------------------------------------------------------------------------------------


def load_dataset(
    name: str,
    root: PathLike,
    *,
    split: str = "val",
    annotations: PathLike | None = None,
    kind: str | None = None,
    modality: str = "rgb",
) -> Dataset:
    """A split of a data set under the folder `root`.

    Looks, in `root` and `root/annotations`, for a list file as `videozoo data prepare` or MMAction2 writes it, then for
    the authors' annotation files, then for a folder of classes such as `root/val/CLASS/*.mp4`. `annotations` names the
    file, or the folder to look in. `split` may have a number, "val2", where a data set has several official splits.
    `kind` "videos" or "rawframes" asks for one of them where both are there; videos come first otherwise.
    The media are looked for in `root` and its usual folders (`videos_val`, `rawframes_val`, `val`, `videos`, ...).

    Raises:
        ValueError: unknown data set or split, or labels that the data set does not have.
        FileNotFoundError: nothing fits; the message lists where it looked. Single missing videos are no error here:
            see `audit`.
    """
    dataset = load_unchecked(name, root, split, annotations, kind, modality)
    check_labels(dataset)
    return dataset


def load_unchecked(
    name: str, root: PathLike, split: str, annotations: PathLike | None, kind: str | None, modality: str
) -> Dataset:
    """`load_dataset` without a look at the labels."""
    root, given = Path(root), Path(annotations) if annotations is not None else None
    base, fold = split_and_fold(name, split)
    if kind not in (None, "videos", "rawframes"):
        raise ValueError(f"kind={kind!r} is unknown: use 'videos', 'rawframes' or None for what is there.")
    for path in (root, given):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give the folder of {name} and its annotations.")
    kinds = [kind] if kind else ["rawframes", "videos"] if modality == "flow" else ["videos", "rawframes"]
    parent = dataset_facts(name).get("category_of", name)
    places = annotation_places(root, given if given and given.is_dir() else None)
    found = _find_samples(name, parent, places, given, base, fold, kinds)
    if found is None:
        found = _from_tree(name, root, base, kinds, class_names(name, places))
    if found is None:
        raise FileNotFoundError(_not_found(name, parent, root, places, base, fold, kinds))
    dataset = _with_facts(name, Dataset(name, split, *found[:2], kind=found[2], source=found[3]), places)
    dataset.modality = modality
    return _located(dataset, root, base, kinds) if found[1] == Path() else dataset


def _find_samples(
    name: str, parent: str, places: list[Path], given: Path | None, split: str, fold: int, kinds: list[str]
) -> tuple[list[Sample], Path, str, Path] | None:
    """Samples, folder (empty: to be found), kind and source, from a list or the authors' files."""
    official = official_names(parent, split, fold)
    if given is not None and given.is_file():
        if any(fnmatch(given.name, Path(pattern).name) for pattern in official):
            return read_official(parent, [given], split, fold, places), Path(), "", given
        return *_read_list_file(name, given), given
    for kind in kinds:
        for key in dict.fromkeys((name, parent)):
            if files := find_files(places, list_names(key, split, fold, kind)):
                return *_read_list_file(name, files[0], kind), files[0]
    if files := find_files(places, official):
        return read_official(parent, files, split, fold, places), Path(), "", files[0]
    return None


def _read_list_file(name: str, path: Path, kind: str = "") -> tuple[list[Sample], Path, str]:
    facts = dataset_facts(name)
    clips = facts.get("files", {}).get("clip_lists", [])
    guessed = guess_kind(path)
    kind = {"hvu": "hvu"}.get(guessed, kind or guessed)
    samples = read_list(
        path,
        kind,
        multi_label=facts.get("multi_label", False),
        with_offset=path.suffix != ".json" and any(fnmatch(path.name, pattern) for pattern in clips),
    )
    if kind == "hvu":
        kind = "rawframes" if samples[0].num_frames else "videos"
    return samples, Path(), kind


def read_official(name: str, files: list[Path], split: str, fold: int, places: Sequence[Path]) -> list[Sample]:
    """Samples of a split from the authors' files."""
    style = dataset_facts(name)["files"]["format"]
    if style == "tubes":
        return regions.read_tubes(files[0], split, fold)[0]
    if style == "ava":
        return regions.read_ava(files[0])
    if style == "proposals":
        return [_proposal_sample(video) for video in regions.read_proposals(files[0])]
    names: Any = tag_names() if style == "hvu" else class_names(name, places)
    if style == "hvu" and (tables := find_files(places, official_names(name, "classes", 1))):
        if read_tag_categories(tables[0]) != names:
            raise AnnotationError(f"{tables[0]} has other tags than those of the published models: use version 1.0.")
    return OFFICIAL_FORMATS[style](files, split, names)


def _proposal_sample(video: regions.ProposalVideo) -> Sample:
    label = tuple(sorted({row[0] - 1 for row in video.ground_truth}))
    return Sample(video.video, label, video.num_frames, extra={"proposals": video})


def _from_tree(
    name: str, root: Path, split: str, kinds: list[str], names: list[str]
) -> tuple[list[Sample], Path, str, Path] | None:
    """Samples of a folder whose subfolders are classes; unknown classes are an error."""
    index = {class_key(c): n for n, c in enumerate(names)}
    multiple = dataset_facts(name).get("multi_label", False) or "category_of" in dataset_facts(name)
    for kind in kinds if len(index) > 1 and not multiple else []:
        for folder in split_folders(root, split, kind):
            classes = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
            unknown = sorted(c for c in classes if class_key(c) not in index)
            if len(unknown) == len(classes):
                continue
            if unknown:
                raise AnnotationError(
                    f"{folder}: {len(unknown)} folders are no classes of {name}, for example {unknown[0]!r}: "
                    "move or rename them."
                )
            paths = sorted(MediaIndex(folder, kind).paths)
            samples = [Sample(path, index[class_key(path.split("/")[0])]) for path in paths if "/" in path]
            if samples:
                return samples, folder, kind, folder
    return None


def _with_facts(name: str, dataset: Dataset, places: Sequence[Path]) -> Dataset:
    """The data set with its class names, metrics and, for one category of HVU, that category's labels."""
    facts = dataset_facts(name)
    dataset.class_names, dataset.num_classes = class_names(name, places), facts["num_classes"]
    dataset.metrics = tuple(facts.get("metrics", RECOGNITION_METRICS))
    dataset.multi_label = facts.get("multi_label", False)
    dataset.mirrored = tuple(map(tuple, facts.get("mirrored", ())))
    if "category" in facts:
        dataset.samples = [_category_label(s, facts["category"]) for s in dataset.samples]
        dataset.samples = [sample for sample in dataset.samples if sample.label is not None]
    elif name == "hvu":
        dataset.categories = {category: len(tags) for category, tags in tag_names().items()}
        dataset.class_names = [f"{category}/{tag}" for category, tags in tag_names().items() for tag in tags]
    return dataset


def _category_label(sample: Sample, category: str) -> Sample:
    label = sample.label.get(category) if isinstance(sample.label, Mapping) else sample.label
    return replace(sample, label=label)


def wrong_label(dataset: Dataset, sample: Sample) -> str:
    """What is wrong with a sample's label; empty if nothing is. -1 means unlabelled and is fine."""
    if isinstance(sample.label, Mapping):
        for category, indices in sample.label.items():
            size = dataset.categories.get(category)
            if size is None:
                return f"category {category!r} is none of {', '.join(dataset.categories)}"
            if any(not 0 <= index < size for index in indices):
                return f"{category} {tuple(indices)} is outside 0..{size - 1}"
        return ""
    several = isinstance(sample.label, tuple)
    labels = sample.label if several else (sample.label,)
    if not all(isinstance(label, int) for label in labels):
        return f"label {sample.label!r} is no class index"
    if any(not 0 <= label < dataset.num_classes for label in labels) and (several or labels != (-1,)):
        return f"label {sample.label} is outside 0..{dataset.num_classes - 1}"
    return ""


def check_labels(dataset: Dataset) -> None:
    """AnnotationError if a label is none of the data set's classes."""
    if catalog.datasets().get(dataset.name, {}).get("files", {}).get("format") in ("ava", "tubes", "proposals"):
        return
    wrong = [(sample, text) for sample in dataset.samples if (text := wrong_label(dataset, sample))]
    if wrong:
        sample, text = wrong[0]
        raise AnnotationError(
            f"{dataset.source}: {len(wrong)} of {len(dataset)} labels are none of {dataset.name}, the first at "
            f"{sample.path}: {text}. Is it the list of another data set, or does it count from 1?"
        )


def _located(dataset: Dataset, root: Path, split: str, kinds: list[str]) -> Dataset:
    """The data set with the folder in which its media are, and paths as they are there where the file has no suffix."""
    extra = dataset_facts(dataset.name).get("files", {}).get("folders", [])
    if dataset.kind:  # a list names its files exactly
        variant = re.search(r"(_\d+p)?(_dense)?$", dataset.source.stem)[0]
        folders = [folder for _, folder in media_folders(root, split, [dataset.kind], extra, variant)]
        dataset.root = pick_folder(folders, dataset.samples, dataset.source)
        return dataset
    for kind, folder in media_folders(root, split, kinds, extra):
        index = MediaIndex(folder, kind)
        found = [index.find(sample.path) for sample in dataset.samples]
        if any(found):
            pairs = zip(dataset.samples, found, strict=True)
            dataset.samples = [replace(sample, path=path or sample.path) for sample, path in pairs]
            dataset.root, dataset.kind = folder, kind
            return dataset
    raise FileNotFoundError(
        f"none of the {len(dataset)} videos that {dataset.source} names is under {root} (the first: "
        f"{dataset.samples[0].path if dataset.samples else 'none'}): put them into {root}/{kinds[0]}_{split}."
    )


def _not_found(name: str, parent: str, root: Path, places: list[Path], split: str, fold: int, kinds: list[str]) -> str:
    lists = [n for kind in kinds for key in dict.fromkeys((name, parent)) for n in list_names(key, split, fold, kind)]
    folders = [str(folder) for kind in kinds for folder in split_folders(root, split, kind)]
    lines = [
        f"no annotations of {name}, split {split!r}, were found. Looked in {' and '.join(map(str, places))}",
        f"for list files: {', '.join(dict.fromkeys(lists))};",
        f"for the authors' files: {', '.join(official_names(parent, split, fold)) or 'none known'};",
        f"and for folders of classes: {', '.join(dict.fromkeys(folders))}.",
        "Put one of them there, or name the file as annotations.",
    ]
    return "\n  ".join(lines)
