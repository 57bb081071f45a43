"""Temporal shift, the parameter-free operator of TSM (Lin et al., ICCV 2019, arXiv:1811.08383)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class TemporalShift(nn.Module):
    """Replace a part of each frame's channels by those of its neighbours.

    Input and output are frames folded into the batch, ``(N*T, C, H, W)`` with T = ``num_frames``, frame fastest. The
    first ``C // fold_div`` channels come from the next frame, the following ``C // fold_div`` from the previous one;
    beyond the ends of the clip there are zeros. The other channels stay.
    """

    def __init__(self, num_frames: int, fold_div: int = 8):
        super().__init__()
        self.num_frames = num_frames
        self.fold_div = fold_div

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fold = x.shape[1] // self.fold_div
        x = x.unflatten(0, (-1, self.num_frames))  # (N, T, C, H, W)
        from_next, from_previous, rest = x.split([fold, fold, x.shape[2] - 2 * fold], dim=2)
        from_next = F.pad(from_next[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        from_previous = F.pad(from_previous[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        return torch.cat((from_next, from_previous, rest), dim=2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, fold_div={self.fold_div}"
