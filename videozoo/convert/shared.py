"""What the rules of PySlowFast and PyTorchVideo have in common."""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def fast_first(weight: Tensor) -> Tensor:
    """A SlowFast classifier's weight (classes, slow + fast features) with the columns as (fast + slow)."""
    slow = weight.shape[1] * 8 // 9  # the slow pathway has eight times the fast one's channels
    return torch.cat((weight[:, slow:], weight[:, :slow]), dim=1)


def without_time(state: State) -> State:
    """The weights of a network without any temporal kernel (C2D) as those of 2-D convolutions; others unchanged."""
    convolutions = [key for key, value in state.items() if value.ndim == 5]
    if any(state[key].shape[2] > 1 for key in convolutions):
        return state
    return {key: value.squeeze(2) if key in convolutions else value for key, value in state.items()}
