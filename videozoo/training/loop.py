"""One epoch of training, as a readable loop: what happens between two optimiser steps and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from .config import TrainConfig
from .tasks import Task

__all__ = ["Step", "TrainingError", "training_steps"]


class TrainingError(ValueError):
    """Training cannot go on; the message says what to change."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step did, in this process."""

    number: int
    """Within the epoch, from 0."""
    loss: torch.Tensor
    """Mean over the step's clips, detached, on the model's device."""
    clips: int
    lr: float
    """Of the parameter group that learns fastest."""
    unread: dict[str, str]
    """Videos that could not be read and were replaced, with the reason."""


def training_steps(
    network: nn.Module,
    batches: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    task: Task,
    *,
    config: TrainConfig,
    lr_factor: Any = None,
    epoch: int = 0,
    start: int = 0,
) -> Iterator[Step]:
    """Train on ``batches`` and give a :class:`Step` after each step of the optimiser.

    What a step draws (dropout, mixing) depends on seed, epoch, number of the step and process alone, so a run that
    goes on from a checkpoint is the same as one that was never interrupted.

    Args:
        network: that of the task, as prepared by ``accelerator``; the caller has set its modes.
        batches: of one epoch, from step ``start`` on; ``config.accumulate`` of them make one step.
        optimizer: as prepared by ``accelerator``.
        accelerator: of Hugging Face accelerate.
        task: makes losses of batches.
        lr_factor: number of the step within the epoch -> factor of each group's ``initial_lr``.

    Raises:
        TrainingError: the loss is not a number any more.
    """
    rank = accelerator.process_index
    batches = iter(batches)
    for number in range(start, 1 << 62):
        parts = list(islice(batches, config.accumulate))
        if len(parts) < config.accumulate:
            return
        rng = np.random.default_rng([config.seed, epoch, number, rank])
        torch.manual_seed(int(rng.integers(2**62)))
        if lr_factor is not None:
            _set_rates(optimizer, lr_factor(number))
        losses, unread = [], {}
        for place, batch in enumerate(parts):
            unread |= batch.unread
            is_last = place == len(parts) - 1
            with nullcontext() if is_last else accelerator.no_sync(network):
                shown, loss = task.losses(network, batch, rng)
                accelerator.backward(loss / len(parts))
            losses.append(shown.detach())
        if config.clip_grad:
            accelerator.clip_grad_norm_(network.parameters(), config.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(losses).mean()
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is {loss.item()} at step {number} of epoch {epoch + 1}: try a smaller lr, a longer warm-up, "
                f"a smaller clip_grad{'' if config.precision != 'fp16' else ', or precision bf16 in place of fp16'}."
            )
        rate = max(group["lr"] for group in optimizer.param_groups)
        yield Step(number, loss, sum(len(batch) for batch in parts), rate, unread)


def _set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
