"""Training of detectors: clips around key frames with the boxes that they teach, and their loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import get_worker_info

from ..data import resolve_data_config
from ..data.ava import KeyFrame, KeyFrameTransform, open_clip
from ..data.detection import KeyFrames
from ..detection.boxes import detection_loss, jitter_boxes, training_boxes
from ..detection.stream import check_detector
from ..evaluation.detection import evaluate_detector
from ..evaluation.recognition import UNREADABLE, check_classes, reason_of
from ..evaluation.result import EvaluationResult
from .clips import MAX_TRIES, Batch, Key
from .config import TrainConfig

__all__ = ["PersonBatch", "PersonClip", "PersonClips", "collate_persons", "make_person_task"]

AUGMENTATION = ("hflip", "resize", "size", "box_jitter")  # keys of TrainConfig.data that clips with boxes know
WHOLE_CLIPS = ("mixup", "cutmix", "label_smoothing", "precise_bn", "class_balanced")  # settings that they do not


@dataclass(frozen=True)
class PersonClip:
    """One training clip with the persons that it teaches."""

    frames: torch.Tensor
    """uint8 (T, H, W, C)."""
    boxes: torch.Tensor
    """Annotated persons, and proposals that cover one of them: float32 (K, 4), x1, y1, x2, y2 in pixels."""
    targets: torch.Tensor
    """What they do, float32 (K, classes) of 0 and 1."""
    number: int
    """The key frame, which is another one than the key's if that cannot be read."""
    unread: Mapping[str, str]
    """Film and reason of the key frames that could not be read on the way."""


@dataclass(frozen=True)
class PersonBatch(Batch):
    """Clips for one forward pass; ``targets`` are (sum of all K, classes), in the boxes' order."""

    boxes: list[torch.Tensor]
    """One (K, 4) a clip."""


def collate_persons(clips: Sequence[PersonClip]) -> PersonBatch:
    """Clips as a batch."""
    unread = {path: reason for clip in clips for path, reason in clip.unread.items()}
    frames, targets = torch.stack([clip.frames for clip in clips]), torch.cat([clip.targets for clip in clips])
    return PersonBatch(frames, targets, [clip.number for clip in clips], unread, [clip.boxes for clip in clips])


class PersonClips(torch.utils.data.Dataset):
    """Augmented clips of a data set's key frames, by key (epoch, number of the key frame, repeat).

    ``clips[key]`` is always the same clip. A film that cannot be read does not stop a run: another key frame takes its
    place, and the clip has the reason; ValueError if none can be read.
    """

    def __init__(self, data: KeyFrames, transform: KeyFrameTransform, *, seed: int = 0) -> None:
        self.data, self.transform, self.seed = data, transform, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> PersonClip:
        rng = np.random.default_rng([self.seed, *key])
        unread: dict[str, str] = {}
        for number in self._candidates(key[1], rng):
            frame = self.data[number]
            try:
                frames, boxes, targets = self._read(frame, rng)
            except UNREADABLE as error:
                unread[str(frame.path)] = reason_of(error)
            else:
                return PersonClip(frames, boxes, targets, number, unread)
        path, reason = next(iter(unread.items()))
        raise ValueError(
            f"none of {len(unread)} films of {self.data.source} can be read: check the data set. {path}: {reason}"
        )

    def _candidates(self, number: int, rng: np.random.Generator) -> Iterator[int]:
        yield number
        yield from (other for other in rng.permutation(len(self))[:MAX_TRIES].tolist() if other != number)

    def _read(self, frame: KeyFrame, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        given = np.concatenate([frame.boxes, frame.proposals[:, :4]])
        threads = 1 if get_worker_info() else 0
        frames, pixels = open_clip(frame, self.transform, given, rng, num_threads=threads)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        persons, labels = pixels[: len(frame.boxes)], torch.from_numpy(frame.labels).float()
        boxes, targets = training_boxes(persons, labels, pixels[len(frame.boxes) :], generator=generator)
        if amount := self.transform.config["box_jitter"]:
            boxes = jitter_boxes(boxes, amount, tuple(frames.shape[1:3]), generator)
        return frames, boxes, targets


class PersonTask:
    """Detectors: clips around key frames and what the persons in them do; see ``videozoo.training.tasks.Task``."""

    noun = "clips"

    def __init__(
        self, model: nn.Module, train: KeyFrames, val: KeyFrames | None, config: TrainConfig, accelerator: Any
    ) -> None:
        self.val, self.config, self.accelerator = val, config, accelerator
        resolved = resolve_data_config(config.data, model=model, use_test_size=False)
        self.transform = KeyFrameTransform(resolved, is_training=True)
        self.clips = PersonClips(train, self.transform, seed=config.seed)

    def collate(self, items: Sequence[PersonClip]) -> PersonBatch:
        return collate_persons(items)

    def network(self, model: nn.Module) -> nn.Module:
        return model

    def losses(
        self, network: nn.Module, batch: PersonBatch, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.accelerator.device
        with self.accelerator.autocast():
            logits = network(self.inputs(batch), [rows.to(device) for rows in batch.boxes])
        loss = self.config.loss_weight * detection_loss(logits.float(), batch.targets.to(device))
        return loss, loss

    def inputs(self, batch: PersonBatch) -> torch.Tensor:
        return self.transform.normalize(batch.frames, self.accelerator.device)

    def validate(self, model: nn.Module) -> EvaluationResult:
        config = self.config
        amp_dtype = "none" if config.precision == "no" else config.precision
        return evaluate_detector(model, self.val, workers=config.workers, amp_dtype=amp_dtype)


def make_person_task(model: nn.Module, train: Any, val: Any, config: TrainConfig, accelerator: Any) -> PersonTask:
    """The task of a detector.

    Raises:
        ValueError: data of another kind or with other classes, or settings that only recognisers have.
    """
    check_detector(model)
    for data in (train, *([] if val is None else [val])):
        if not isinstance(data, KeyFrames):
            raise ValueError(f"a detector is trained on KeyFrames (load_detection), got a {type(data).__name__}.")
        check_classes(data, model)
    _check_settings(config)
    return PersonTask(model, train, val, config, accelerator)


def _check_settings(config: TrainConfig) -> None:
    for key in WHOLE_CLIPS:
        if getattr(config, key):
            raise ValueError(f"{key}={getattr(config, key)} is for classifiers of whole videos: leave it out.")
    for key in config.data:
        if key not in AUGMENTATION:
            raise ValueError(f"clips with boxes are not augmented by {key}: they know {', '.join(AUGMENTATION)}.")
