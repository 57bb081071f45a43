"""The moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["ema_model"]


def ema_model(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of ``model``, to be moved by ``.update_parameters(model)`` after every step.

    The first update copies; update n after it (1, 2, ...) keeps ``min(decay, (1 + n) / (10 + n))`` of the average, so
    that a short run is not held back by the weights it started from. Running statistics of batch norms are averaged
    like the weights, so that they belong to them; counters are copied. The averaged network is ``.module``, in
    evaluation mode and without gradients; ``.state_dict()`` holds all that a resumed run needs.

    Args:
        model: the network, not wrapped or compiled.
        decay: what an update keeps in the long run, from 0 to below 1, e.g. 0.999.

    Raises:
        ValueError: a decay out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema={decay} must be from 0 to below 1.")

    @torch.no_grad()
    def update(averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], updates: torch.Tensor) -> None:
        kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - kept)
            else:
                average.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average.eval().requires_grad_(False)
