"""The learning rate over a run, as a function of the step."""

from __future__ import annotations

import math

from .config import TrainConfig

__all__ = ["learning_rate_factor"]


def learning_rate_factor(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Share of the learning rate at ``step``, 0 = the first of the schedule; for ``torch.optim.lr_scheduler.LambdaLR``.

    The factor is a pure function of the step, so a resumed run continues as if it had not stopped.

    "cosine" (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983) falls with every step from 1 to
    ``config.min_lr_ratio``, which a step after the last would have; MMAction2's trainings change it once an epoch.
    "step" multiplies by ``config.gamma`` when as many epochs as a milestone says are over. Over the first
    ``config.warmup_epochs`` epochs (not necessarily a whole number) the schedule is multiplied by a line from
    ``config.warmup_ratio`` to 1 that rises with every step, as in those trainings.

    Raises:
        ValueError: ``steps_per_epoch`` is not at least 1, or the step negative.
    """
    if steps_per_epoch < 1 or step < 0:
        raise ValueError(f"step={step} must be 0 or more and steps_per_epoch={steps_per_epoch} at least 1.")
    if config.schedule == "cosine":
        progress = min(step / (config.epochs * steps_per_epoch), 1.0)
        factor = config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "step":
        factor = config.gamma ** sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
    else:
        factor = 1.0
    warmup_steps = config.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        factor *= config.warmup_ratio + (1 - config.warmup_ratio) * step / warmup_steps
    return factor
