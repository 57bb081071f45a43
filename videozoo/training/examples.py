"""Training examples of localisers: what one video gives, batches of it, and what the tasks of all of them share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..evaluation.recognition import UNREADABLE, reason_of

__all__ = ["Example", "ExampleBatch", "Examples", "LocalizationTask", "collate_examples"]

MAX_TRIES = 50  # videos that are tried in place of one that cannot be read
Key = tuple[int, int, int]  # epoch, number of the video, repeat


@dataclass(frozen=True)
class Example:
    """What one video gives in one epoch."""

    input: torch.Tensor
    targets: tuple[torch.Tensor, ...]
    number: int
    unread: dict[str, str]


@dataclass(frozen=True)
class ExampleBatch:
    """Examples of equal shape for one forward pass."""

    input: torch.Tensor
    """(N, ...)."""
    targets: tuple[torch.Tensor, ...]
    """(N, ...) each."""
    numbers: list[int]
    unread: dict[str, str]
    """Path and reason of videos that could not be read; others took their places."""

    def __len__(self) -> int:
        return len(self.numbers)

    def pin_memory(self) -> ExampleBatch:
        """The batch in page-locked memory, as a DataLoader asks for it."""
        targets = tuple(target.pin_memory() for target in self.targets)
        return replace(self, input=self.input.pin_memory(), targets=targets)


class Examples(torch.utils.data.Dataset):
    """Examples by key, the same for the same key; a video that cannot be read is replaced by another one."""

    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.seed = data, seed

    def __len__(self) -> int:
        return len(self.data)

    def read(self, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Input and targets of a video."""
        raise TypeError(f"{type(self).__name__} must define read")

    def __getitem__(self, key: Key) -> Example:
        rng = np.random.default_rng([self.seed, *key])
        unread: dict[str, str] = {}
        others = (int(number) for number in rng.permutation(len(self))[:MAX_TRIES] if number != key[1])
        for number in (key[1], *others):
            try:
                return Example(*self.read(number, rng), number, unread)
            except UNREADABLE as error:
                unread[os.fspath(self.data[number].path)] = reason_of(error)
        path, reason = next(iter(unread.items()))
        raise ValueError(
            f"none of {len(unread)} videos of {self.data.source} can be read: check the data set. {path}: {reason}"
        )


def collate_examples(items: Sequence[Example]) -> ExampleBatch:
    """Examples of equal shape as a batch."""
    unread = {path: reason for item in items for path, reason in item.unread.items()}
    targets = tuple(torch.stack(parts) for parts in zip(*(item.targets for item in items), strict=True))
    return ExampleBatch(torch.stack([item.input for item in items]), targets, [item.number for item in items], unread)


class LocalizationTask:
    """What the tasks of all localisers share; see :class:`~videozoo.training.tasks.Task`."""

    noun = "videos"

    def __init__(self, clips: Examples, val: Any, accelerator: Any, workers: int) -> None:
        self.clips, self.val, self.accelerator, self.workers = clips, val, accelerator, workers

    def collate(self, items: Sequence[Example]) -> ExampleBatch:
        return collate_examples(items)

    def network(self, model: nn.Module) -> nn.Module:
        return model

    def inputs(self, batch: ExampleBatch) -> torch.Tensor:
        return batch.input.to(self.accelerator.device)

    def losses(
        self, network: nn.Module, batch: ExampleBatch, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        targets = tuple(target.to(self.accelerator.device) for target in batch.targets)
        loss = self.loss(network, self.inputs(batch), targets)["loss"]
        return loss, loss

    def loss(self, network: nn.Module, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """``loss`` of a batch, with its parts."""
        raise TypeError(f"{type(self).__name__} must define loss")

    def run(self, network: nn.Module, *x: torch.Tensor) -> Any:
        """The network's output in float32, for the losses take logarithms."""
        with self.accelerator.autocast():
            output = network(*x)
        return type(output)(*(part.float() for part in output))
