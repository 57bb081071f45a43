"""Training clips: drawn by keys, decoded in worker processes, in batches that any number of processes share alike.

A clip is a function of the run's seed and its key (epoch, number of the video, repeat) alone. Neither workers nor
processes nor a resumed run change what is seen.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from ..data import ClipTransform
from ..data.audio import AudioTransform, load_sound
from ..data.datasets import Dataset
from ..data.leaks import find_leaks
from ..data.official import class_key
from ..evaluation.recognition import UNREADABLE, check_modality, ignore_interrupts, reason_of

__all__ = ["Batch", "Clip", "ClipBatches", "TrainingClips", "collate", "find_leaks", "training_loader"]

MAX_TRIES = 50  # videos of the class, and then of all classes, that are tried in place of one that cannot be read
Key = tuple[int, int, int]  # epoch, number of the video, repeat
Transform = ClipTransform | AudioTransform


@dataclass(frozen=True)
class Clip:
    """One training clip."""

    frames: torch.Tensor
    """uint8 (T, H, W, C); of sound float32 (1, T, F)."""
    target: torch.Tensor
    """Class, int64 (); for multi-label data float32 (classes,) of 0 and 1."""
    number: int
    """The video that it shows, which is another one than the key's if that cannot be read."""
    unread: Mapping[str, str]
    """Path and reason of the videos that could not be read on the way."""


@dataclass(frozen=True)
class Batch:
    """Clips for one forward pass; `transform.normalize(batch.frames, device)` makes them the network's input."""

    frames: torch.Tensor
    """uint8 (N, T, H, W, C); of sound float32 (N, 1, T, F)."""
    targets: torch.Tensor
    """int64 (N,), or float32 (N, classes) for multi-label data."""
    numbers: list[int]
    unread: dict[str, str]
    """Path and reason of videos that could not be read; others of their classes took their places."""

    def __len__(self) -> int:
        return len(self.numbers)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, as a DataLoader asks for it."""
        return replace(self, frames=self.frames.pin_memory(), targets=self.targets.pin_memory())


def collate(clips: Sequence[Clip]) -> Batch:
    """Clips of equal shape as a batch."""
    unread = {path: reason for clip in clips for path, reason in clip.unread.items()}
    frames, targets = (torch.stack([getattr(clip, part) for clip in clips]) for part in ("frames", "target"))
    return Batch(frames, targets, [clip.number for clip in clips], unread)


class TrainingClips(torch.utils.data.Dataset):
    """Augmented clips of a data set's videos, by key.

    `clips[epoch, number, repeat]` is always the same clip. A video that cannot be read does not stop a run: another one
    of its classes takes its place, one of other classes if there is none, and the clip has the reason. A mirrored clip
    gets the label of its mirrored class (`flip_labels` of the transform's config, else `dataset.mirrored`).

    Raises:
        ValueError: no videos, videos without label, a model and data set of different modality, or pairs of mirrored
            classes that the data set does not have; on reading, a data set of which no video can be read.
    """

    def __init__(self, dataset: Dataset, transform: Transform, *, seed: int = 0) -> None:
        if not transform.is_training:
            raise ValueError("training needs a training transform: use create_transform(model, is_training=True).")
        if not len(dataset):
            raise ValueError(f"{dataset.name}, split {dataset.split!r}, has no videos: check {dataset.source}.")
        check_modality(transform, dataset)
        unlabelled = [sample.path for number, sample in enumerate(dataset) if -1 in dataset.classes(number)]
        if unlabelled:
            raise ValueError(
                f"{dataset.source}: {len(unlabelled)} videos have no label, the first is {unlabelled[0]}: "
                "train on a split with labels."
            )
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.swaps = _swaps(dataset, transform)
        self._members = {label: np.array(numbers) for label, numbers in dataset.by_class().items()}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Clip:
        rng = np.random.default_rng([self.seed, *key])
        unread: dict[str, str] = {}
        for number in self._candidates(key[1], rng):
            try:
                frames, mirrored = self._read(number, rng)
            except UNREADABLE as error:
                unread[os.fspath(self.dataset.path(number))] = reason_of(error)
            else:
                return Clip(frames, self._target(number, mirrored), number, unread)
        path, reason = next(iter(unread.items()))
        raise ValueError(
            f"none of {len(unread)} videos of {self.dataset.source} can be read: check the data set. {path}: {reason}"
        )

    def _candidates(self, number: int, rng: np.random.Generator) -> Iterator[int]:
        """The video itself, then some of its first class in random order, then some of all."""
        yield number
        tried = {number}
        for group in (*(self._members[label] for label in self.dataset.classes(number)[:1]), np.arange(len(self))):
            for other in rng.permutation(group)[:MAX_TRIES].tolist():
                if other not in tried:
                    tried.add(other)
                    yield other

    def _read(self, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, bool]:
        if self.transform.config["modality"] == "audio":  # the published training had silence for videos without sound
            return self.transform.training_clip(load_sound(self.dataset.path(number), missing_ok=True), rng)
        threads = 1 if get_worker_info() else 0
        with self.dataset.open(number, num_threads=threads) as reader:
            return self.transform.training_clip(reader, rng)

    def _target(self, number: int, mirrored: bool) -> torch.Tensor:
        classes = self.dataset.classes(number)
        if mirrored:
            classes = tuple(self.swaps.get(label, label) for label in classes)
        if not self.dataset.multi_label:
            return torch.tensor(classes[0])
        row = torch.zeros(self.dataset.num_classes)
        row[list(classes)] = 1
        return row


def _swaps(dataset: Dataset, transform: Transform) -> dict[int, int]:
    """The class of the mirror image, by class, for those that change."""
    pairs = transform.config.get("flip_labels")
    swaps: dict[int, int] = {}
    for pair in dataset.mirrored if pairs is None else pairs:
        places = [_class_index(dataset, name) for name in pair]
        if len(places) != 2 or places[0] == places[1] or swaps.keys() & set(places):
            raise ValueError(f"flip_labels has {list(pair)}: give pairs of two classes, each class in one pair only.")
        swaps |= {places[0]: places[1], places[1]: places[0]}
    return swaps


def _class_index(dataset: Dataset, name: str | int) -> int:
    if isinstance(name, int) and 0 <= name < dataset.num_classes:
        return name
    keys = [class_key(own) for own in dataset.class_names]
    if isinstance(name, int) or class_key(name) not in keys:
        raise ValueError(
            f"flip_labels names {name!r}, which is no class of {dataset.name}: give names or indices of its "
            f"{dataset.num_classes} classes, or flip_labels=() to mirror without regard to labels."
        )
    return keys.index(class_key(name))


class ClipBatches(torch.utils.data.Sampler[list[Key]]):
    """The keys of one process's batches in an epoch.

    All processes together see what one process with their summed batch size would see: of each global batch process
    `rank` takes every `world`-th clip. `epoch` and `start` may be set before each iteration.

    Args:
        videos: a data set, or the classes of its videos.
        batch_size: clips of this process in a batch; their number over all processes must be a multiple of `repeats`.
        repeats: clips of each video in a global batch, differently augmented. The epoch has fewer videos then, and
            about as many clips as there are videos.
        class_balanced: draw videos with replacement so that all classes are equally frequent; a video with several
            classes is drawn as often as the mean of them says.
        start: batches to leave out, which a resumed epoch has seen.

    The last batch is left out if it is incomplete, unless it is the only one: then videos occur more than once in it.
    """

    def __init__(
        self,
        videos: Dataset | Sequence[int | tuple[int, ...]],
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        class_balanced: bool = False,
        start: int = 0,
    ) -> None:
        self.count, self.global_size = len(videos), batch_size * world
        if not self.count or batch_size < 1 or repeats < 1:
            raise ValueError(f"cannot make batches of {batch_size} clips of {self.count} videos, {repeats} clips each.")
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} is none of {world} processes, which count from 0.")
        if self.global_size % repeats:
            raise ValueError(
                f"a batch of {self.global_size} clips cannot hold {repeats} of each video: make it a multiple."
            )
        self.seed, self.epoch, self.start = seed, epoch, start
        self.rank, self.world, self.repeats = rank, world, repeats
        self._weights = _balanced_weights(videos) if class_balanced else None
        self._drawn = -(-self.count // repeats)  # videos an epoch

    def __len__(self) -> int:
        """Batches from `start` on."""
        return max(0, max(1, self._drawn * self.repeats // self.global_size) - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        keys = self._keys()
        for first in range(self.start * self.global_size, len(keys), self.global_size):
            yield keys[first + self.rank : first + self.global_size : self.world]

    def _keys(self) -> list[Key]:
        """The keys of all processes in order, whole batches."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch], spawn_key=(1,)))
        if self._weights is None:
            numbers = rng.permutation(self.count)[: self._drawn]
        else:
            numbers = rng.choice(self.count, self._drawn, p=self._weights)
        numbers = np.repeat(numbers, self.repeats)
        whole = max(1, len(numbers) // self.global_size) * self.global_size
        seen: Counter[int] = Counter()
        keys = []
        for number in np.resize(numbers, whole).tolist():  # repeats them from the first on if they are too few
            keys.append((self.epoch, number, seen[number]))
            seen[number] += 1
        return keys


def _balanced_weights(videos: Dataset | Sequence[int | tuple[int, ...]]) -> np.ndarray:
    if isinstance(videos, Dataset):
        labels = [videos.classes(number) for number in range(len(videos))]
    else:
        labels = [label if isinstance(label, tuple) else (int(label),) for label in videos]
    frequency = Counter(label for row in labels for label in row)
    weights = np.array([np.mean([1 / frequency[label] for label in row]) if row else 0.0 for row in labels])
    return weights / weights.sum()


def training_loader(
    clips: torch.utils.data.Dataset,
    batches: ClipBatches,
    workers: int = 0,
    device: str | torch.device = "cpu",
    collate: Callable[[Sequence[Any]], Any] = collate,
) -> DataLoader:
    """Batches in the order of `batches`, decoded by `workers` processes, page-locked for a CUDA `device`.

    `collate` makes a batch of clips that are not those of `TrainingClips`.
    The loader may be iterated once an epoch, after `batches.epoch` was set; its workers live on. It draws nothing from
    torch's generator. Workers leave Ctrl-C to the training process.
    """
    settings: dict[str, Any] = {"persistent_workers": True, "worker_init_fn": ignore_interrupts} if workers else {}
    return DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),
        **settings,
    )
