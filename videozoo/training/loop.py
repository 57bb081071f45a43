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

from .clips import Batch
from .config import TrainConfig
from .mixing import Mixer, clip_loss

__all__ = ["Step", "TrainingError", "WithAuxiliary", "training_steps"]

AUXILIARY_WEIGHT = 0.5  # of the loss of a classifier that only training uses


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


class WithAuxiliary(nn.Module):
    """Logits of all classifiers that training uses: clips ``(N, C, T, H, W)`` -> tuple of ``(N, num_classes)``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if getattr(self.model, "auxiliary_classifier", ""):
            return self.model.forward_auxiliary(clips)
        return (self.model(clips),)


def training_steps(
    network: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    *,
    transform: Any,
    config: TrainConfig,
    num_classes: int,
    multi_label: bool = False,
    lr_factor: Any = None,
    epoch: int = 0,
    start: int = 0,
) -> Iterator[Step]:
    """Train on ``batches`` and give a :class:`Step` after each step of the optimiser.

    What a step draws (dropout, mixing) depends on seed, epoch, number of the step and process alone, so a run that
    goes on from a checkpoint is the same as one that was never interrupted.

    Args:
        network: a :class:`WithAuxiliary` as prepared by ``accelerator``; the caller has set its modes.
        batches: of one epoch, from step ``start`` on; ``config.accumulate`` of them make one step.
        optimizer: as prepared by ``accelerator``.
        accelerator: of Hugging Face accelerate.
        transform: normalises frames on the device.
        lr_factor: number of the step within the epoch -> factor of each group's ``initial_lr``.

    Raises:
        TrainingError: the loss is not a number any more.
    """
    mixer = Mixer(config, num_classes)
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
            clips = transform.normalize(batch.frames, accelerator.device)
            clips, targets = mixer(clips, batch.targets.to(accelerator.device), rng)
            is_last = place == len(parts) - 1
            with nullcontext() if is_last else accelerator.no_sync(network):
                with accelerator.autocast():
                    outputs = network(clips)
                main, *auxiliary = (clip_loss(logits, targets, config, multi_label) for logits in outputs)
                loss = main + AUXILIARY_WEIGHT * sum(auxiliary)
                accelerator.backward(loss / len(parts))
            losses.append(main.detach())
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
        yield Step(number, loss, sum(len(batch.frames) for batch in parts), rate, unread)


def _set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
