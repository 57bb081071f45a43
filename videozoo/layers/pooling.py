"""Pooling: windows of fixed size, as the heads of PySlowFast and PyTorchVideo have them, and pairs of frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def window_means(x: torch.Tensor, window: int = 0) -> torch.Tensor:
    """Means over all of time and over each ``window`` x ``window`` part in space: ``(N, C, T, H, W)`` -> ``(N, P, C)``.

    The window moves by one cell, so P = (H - window + 1) * (W - window + 1), rows first. 0: all of space, P = 1. A side
    shorter than the window is averaged as a whole.
    """
    if not window:
        return x.mean((2, 3, 4))[:, None]
    x = x.mean(2)  # (N, C, H, W)
    size = (min(window, x.shape[2]), min(window, x.shape[3]))
    return F.avg_pool2d(x, size, stride=1).flatten(2).transpose(1, 2)


class MaxPoolPairs(nn.Module):
    """The larger value of each pair of frames: ``(N, C, T, H, W)`` -> ``(N, C, T // 2, H, W)``, as a 2x1x1 max pool."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = x.shape[2] // 2
        return torch.maximum(x[:, :, 0 : 2 * pairs : 2], x[:, :, 1 : 2 * pairs : 2])
