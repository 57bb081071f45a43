"""ActivityNet as localisers see it: files of features beside ``anet_anno_{train,val}.json``; one's own data alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .annotations import Sample
from .datasets import annotation_places, find_files
from .localization import SUFFIXES, load_features
from .regions import read_activitynet_segments

__all__ = ["FeatureSet", "load_feature_set"]

PathLike = str | os.PathLike[str]
FOLDERS = (  # of features under the data set's, the published ones first
    "activitynet_feature_cuhk/csv_mean_100",
    "csv_mean_100",
    "mmaction_feat",
    "features",
    "",
)


@dataclass
class FeatureSet:
    """Videos of a split: annotated segments, and features that are read when they are asked for."""

    name: str
    split: str
    samples: list[Sample]
    """See `read_activitynet_segments`."""
    folders: tuple[Path, ...]
    """Where features are: one folder, or one of rgb and one of flow."""
    source: Path
    """The file of annotations."""
    title: str = ""

    @property
    def root(self) -> Path:
        """The (first) folder of features."""
        return self.folders[0]

    @property
    def digest(self) -> str:
        """Of the videos and their segments, not of their place."""
        rows = [f"{sample.path} {sample.num_frames} {sample.extra['segments']}\n" for sample in self.samples]
        return hashlib.sha256("".join(rows).encode("utf-8", "replace")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def features(self, index: int, width: int | None = None, positions: int = 100) -> np.ndarray:
        """Features `(width, positions)` of a video, float32; errors as of `load_features`."""
        return load_features(self.folders, self.samples[index].path, width, positions)


def load_feature_set(
    root: PathLike,
    split: str = "val",
    *,
    annotations: PathLike | None = None,
    features: Sequence[PathLike] = (),
    name: str = "anet",
) -> FeatureSet:
    """A split of ActivityNet, or of data in its form, for localisers on features.

    Looks in `root` and `root/annotations` for `anet_anno_SPLIT.json`, and for `VIDEO.csv`, `.npy` or `.safetensors` in
    the published folder (`activitynet_feature_cuhk/csv_mean_100`), `mmaction_feat`, `features` and `root` itself.

    Args:
        annotations: the file, where it is in no usual place.
        features: the folder of features, or one of rgb and one of flow, whose widths add up.

    Raises:
        FileNotFoundError: no annotations, or no folder with features of any of their videos.
        AnnotationError: annotations that are not in this form, or without a video.
    """
    root = Path(root)
    if annotations is None:
        places = annotation_places(root)
        found = find_files(places, [f"anet_anno_{split}.json"])
        if not found:
            looked = " and ".join(map(str, places))
            raise FileNotFoundError(f"no anet_anno_{split}.json in {looked}: put it there, or name it as annotations.")
        annotations = found[0]
    source = Path(annotations)
    samples = read_activitynet_segments(source)
    if not samples:
        raise FileNotFoundError(f"{source} names no video: is it the right file?")
    folders = tuple(Path(folder) for folder in features) or (_feature_folder(root, samples, source),)
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder of features.")
    return FeatureSet(name, split, samples, folders, source)


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix in SUFFIXES}


def _feature_folder(root: Path, samples: Sequence[Sample], source: Path) -> Path:
    names = {sample.path for sample in samples}
    places = [root / folder for folder in FOLDERS]
    for place in places:
        if place.is_dir() and not names.isdisjoint(_stems(place)):
            return place
    raise FileNotFoundError(
        f"no features of any of the {len(samples)} videos of {source} ({samples[0].path}.csv, ...) are in "
        f"{', '.join(map(str, places))}: put them there, or name their folder as features."
    )
