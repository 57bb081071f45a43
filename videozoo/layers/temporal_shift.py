"""Temporal shift, the parameter-free operator of TSM (Lin et al., ICCV 2019, arXiv:1811.08383)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class TemporalShift(nn.Module):
    """Replace a part of each frame's channels by those of its neighbours.

    Input and output are frames folded into the batch, ``(N*T, C, H, W)`` with T = ``num_frames``, frame fastest. The
    first ``C // fold_div`` channels come from the next frame, the following ``C // fold_div`` from the previous one;
    beyond the ends of the clip there are zeros. The other channels stay. Where ``causal`` is set, the first
    ``C // fold_div`` come from the previous frame and nothing comes from the next one.
    """

    is_online = False  # see step
    past: torch.Tensor | None = None  # (N, C // fold_div, H, W) of the frame before, None at the start of a stream

    def __init__(self, num_frames: int, fold_div: int = 8, causal: bool = False):
        super().__init__()
        self.num_frames = num_frames
        self.fold_div = fold_div
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fold = x.shape[1] // self.fold_div
        if self.is_online:
            return self.step(x, fold)
        x = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2)  # (N, C, T, H, W): an order whose layout cat keeps
        if self.causal:
            from_previous, rest = x.split([fold, x.shape[1] - fold], dim=1)
            out = torch.cat((_one_later(from_previous), rest), dim=1)
        else:
            from_next, from_previous, rest = x.split([fold, fold, x.shape[1] - 2 * fold], dim=1)
            from_next = F.pad(from_next[:, :, 1:], (0, 0, 0, 0, 0, 1))
            out = torch.cat((from_next, _one_later(from_previous), rest), dim=1)
        out = out.transpose(1, 2)
        if out.shape[3:] == (1, 1):  # a layout that the compiler expects to be another than it is
            out = out.clone(memory_format=torch.contiguous_format)
        return out.flatten(0, 1)

    def step(self, x: torch.Tensor, fold: int) -> torch.Tensor:
        """The causal shift of one frame ``(N, C, H, W)``, by what is kept in ``past`` of the frame before it."""
        current, rest = x.split([fold, x.shape[1] - fold], dim=1)
        past = torch.zeros_like(current) if self.past is None else self.past
        self.past = current.clone()  # a view would keep all of x
        return torch.cat((past, rest), dim=1)

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, fold_div={self.fold_div}" + ", causal=True" * self.causal


def _one_later(x: torch.Tensor) -> torch.Tensor:
    """Clips ``(N, C, T, H, W)`` moved on by one frame, zeros first."""
    return F.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0))
