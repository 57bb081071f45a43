"""Data sets of one's own: a folder of classes for each split, or list files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .annotations import AnnotationError, Sample, guess_kind, read_list, read_text
from .datasets import Dataset, PathLike, check_labels
from .leaks import source_name
from .media import MediaIndex, media_folders, pick_folder, split_folders, split_words
from .official import class_key

__all__ = ["has_split", "hold_out", "load_folder"]

NAME_FILES = ("classes.txt", "labels.txt")
LIST_NAMES = ("{}", "{}_list", "{}list", "*_{}", "*_{}_list", "*_{}_list_*", "*_{}_split_1_*")  # .txt or .json
LIST_KINDS = ("videos", "rawframes", "audio")
MIRROR = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}


def load_folder(
    root: PathLike,
    split: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    annotations: PathLike | None = None,
    multi_label: bool = False,
    modality: str = "rgb",
) -> Dataset:
    """A split of a data set that `load_dataset` does not know: `root/SPLIT/CLASS/*.mp4`, or a list file.

    Classes are folders, which hold video files or folders of frames; they are numbered in the order of their names in
    the training split. The folder of a split may be called as usual: train, training; val, valid, validation; test,
    testing. Without such a folder, a list such as `root/val.txt` or `root/annotations/val.json` is read, in any format
    of `videozoo.data.annotations` for videos, frames or sound, with the classes' names in `classes.txt` or `labels.txt`
    beside it; without these they are called by their numbers. Classes whose names differ in left and right, or in
    clockwise and counter-clockwise, are taken to be each other's mirror image (`Dataset.mirrored`).

    Args:
        class_names: the classes and their order, as training had them. A folder of another class is an error, a class
            without folder or videos is none.
        annotations: the list file, or the folder to look for one; `{split}` in it stands for the split.
        multi_label: a video may have several classes, which lists name.
        modality: "flow" reads folders of flow images only.

    Raises:
        FileNotFoundError: there is no such split; the message says what to make.
        AnnotationError: classes or labels that do not fit.
    """
    root, split = Path(root), split_words(split)[0]
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: give the one that holds {split}/CLASS/*.mp4.")
    tree = None if annotations else _class_tree(root, split, modality)
    file = None if tree else _list_file(root, split, annotations)
    if tree:
        source, kind, paths = tree
        names = list(class_names) if class_names is not None else _tree_classes(root, split, tree, modality)
        samples, media = _tree_samples(source, paths, names), source
    elif file:
        source, kind, samples = file, *_read_samples(file, multi_label)
        names = _list_classes(root, split, annotations, file, samples, class_names)
        folders = [folder for _, folder in media_folders(root, split, [kind])]
        media = pick_folder([*folders, file.parent], samples, file)
    else:
        raise FileNotFoundError(_no_split(root, split, annotations, modality))
    if multi_label:
        samples = [replace(s, label=s.label if isinstance(s.label, tuple) else (s.label,)) for s in samples]
    name = root.resolve().name
    dataset = Dataset(name, split, samples, media, kind, names, len(names), title=name, source=source)
    dataset.multi_label, dataset.modality, dataset.mirrored = multi_label, modality, mirrored_classes(names)
    if multi_label:
        dataset.metrics = ("mean_average_precision",)
    check_labels(dataset)
    return dataset


def has_split(root: PathLike, split: str, *, annotations: PathLike | None = None, modality: str = "rgb") -> bool:
    """Whether `load_folder` would find this split."""
    root, split = Path(root), split_words(split)[0]
    found = (not annotations and _class_tree(root, split, modality)) or _list_file(root, split, annotations)
    return bool(found)


def mirrored_classes(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names that become each other where left and right, or the ways to turn, are exchanged."""
    keys = {re.sub("(counter|anti)[-_]?clockwise", "counterclockwise", class_key(name)): name for name in names}
    words = re.compile(rf"(?<![a-z])({'|'.join(MIRROR)})(?![a-z])")
    images = {key: words.sub(lambda match: MIRROR[match[1]], key) for key in keys}
    return tuple((keys[key], keys[image]) for key, image in images.items() if key < image and image in keys)


def hold_out(dataset: Dataset, share: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Training and validation split of a data set that has no validation videos: a random `share` of every class.

    Every class keeps a training video, and gives a validation video if it has two. Clips that were cut from one video,
    as far as names tell (see `source_name`), stay together. A video of several classes counts for the first of them.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must be between 0 and 1.")
    rng = np.random.default_rng(seed)
    classes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, sample in enumerate(dataset):
        label = (*dataset.classes(number), -1)[0]
        classes[label][source_name(sample.path) or sample.path].append(number)
    held: set[int] = set()
    for _, videos in sorted(classes.items()):
        order = [list(videos)[place] for place in rng.permutation(len(videos))]
        wanted = max(1, round(share * sum(map(len, videos.values()))))
        count = 0
        for video in order[1:]:
            if count < wanted:
                held |= set(videos[video])
                count += len(videos[video])
    if not held:
        raise ValueError(f"no class of {dataset.source} has two videos: there is nothing to hold out for validation.")
    sides = [[s for n, s in enumerate(dataset) if (n in held) == is_val] for is_val in (False, True)]
    return replace(dataset, samples=sides[0]), replace(dataset, split="val", samples=sides[1])


# Folders of classes --------------------------------------------------------------------------------------------------

Tree = tuple[Path, str, list[str]]  # folder, kind, media in it as CLASS/.../NAME


def _class_tree(root: Path, split: str, modality: str) -> Tree | None:
    for kind in ("rawframes",) if modality == "flow" else ("videos", "rawframes"):
        for folder in split_folders(root, split, kind):
            if folder.is_dir() and (paths := [path for path in MediaIndex(folder, kind).paths if "/" in path]):
                return folder, kind, sorted(path for path in paths if not _is_hidden(path.split("/")[0]))
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__"))  # .ipynb_checkpoints, __MACOSX


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _tree_classes(root: Path, split: str, tree: Tree, modality: str) -> list[str]:
    """Classes of the training split."""
    training = tree if split == "train" else _class_tree(root, "train", modality)
    if training is None:
        raise FileNotFoundError(
            f"{root} has no training videos, whose folders say in what order the classes are: give class_names."
        )
    return _class_folders(training[0])


def _tree_samples(folder: Path, paths: list[str], names: list[str]) -> list[Sample]:
    exact = {name: index for index, name in enumerate(names)}
    index = {class_key(name): index for name, index in exact.items()} | exact
    places = {name: index.get(name, index.get(class_key(name))) for name in _class_folders(folder)}
    unknown = [name for name, place in places.items() if place is None]
    if unknown:
        raise AnnotationError(
            f"{folder}: {unknown[0]!r}{f' and {len(unknown) - 1} more folders' if unknown[1:] else ''} is no class of "
            f"the training data, which are {_shown(names)}: move or rename it."
        )
    return [Sample(path, places[path.split("/")[0]]) for path in paths]


def _shown(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# Lists ---------------------------------------------------------------------------------------------------------------


def _list_file(root: Path, split: str, annotations: PathLike | None) -> Path | None:
    """The list of a split; FileNotFoundError if `annotations` does not exist."""
    places = [root, root / "annotations"]
    if annotations is not None:
        given = Path(str(annotations).replace("{split}", split))
        if given.is_file():
            return given
        if not given.is_dir():
            raise FileNotFoundError(f"{given} does not exist: give annotations a list file, or the folder of one.")
        places = [given]
    for place in places:
        for word in split_words(split):
            for pattern in LIST_NAMES:
                for suffix in (".txt", ".json"):
                    if found := sorted(place.glob(pattern.format(word) + suffix)):
                        return found[0]
    return None


def _read_samples(file: Path, multi_label: bool) -> tuple[str, list[Sample]]:
    kind = guess_kind(file)
    if kind not in LIST_KINDS:
        raise AnnotationError(f"{file} is a list of {kind}: lists of {', '.join(LIST_KINDS)} are read.")
    samples = read_list(file, kind, multi_label=multi_label)
    if not samples:
        raise AnnotationError(f"{file} is empty: expected a line 'path label' for each video.")
    return kind, samples


def _list_classes(
    root: Path,
    split: str,
    annotations: PathLike | None,
    file: Path,
    samples: list[Sample],
    class_names: Sequence[str] | None,
) -> list[str]:
    """Classes as given, as a file beside the list names them, or as numbers up to the training list's largest."""
    found = next((path for place in (file.parent, root) for name in NAME_FILES if (path := place / name).is_file()), "")
    written = [line.strip() for line in read_text(found).splitlines() if line.strip()] if found else []
    if class_names is not None:
        if written and list(map(class_key, written)) != list(map(class_key, class_names)):
            raise AnnotationError(f"{found} has other classes, or in another order, than {_shown(list(class_names))}.")
        return list(class_names)
    if written:
        return written
    if split != "train":
        training = _list_file(root, "train", annotations)
        if training is None or training == file:
            raise FileNotFoundError(
                f"how many classes {root} has is not known: write their names into {file.parent / NAME_FILES[0]}, one "
                "a line, or give class_names."
            )
        samples = read_list(training, multi_label=isinstance(samples[0].label, tuple))
    labels = [label for s in samples for label in (s.label if isinstance(s.label, tuple) else (s.label,))]
    return [str(number) for number in range(max(labels, default=-1) + 1)]


def _no_split(root: Path, split: str, annotations: PathLike | None, modality: str) -> str:
    words = split_words(split)
    if annotations:
        return f"{annotations} has no list of the split {split!r}: write {split}.txt, with a line 'path label' a video."
    others = f" (or {', '.join(words[1:])})" if words[1:] else ""
    if modality == "flow":
        return (
            f"{root} has no split {split!r} of optical flow: make a folder {root / split}{others} with, for each "
            "class, folders of flow images as videozoo.data.write_flow writes them, or a list "
            f"{root / split}.txt with a line 'folder images label' for each video."
        )
    return (
        f"{root} has no split {split!r}: make a folder {root / split}{others} with a folder of videos for each class, "
        f"or a list {root / split}.txt with a line 'path label' for each video."
    )
