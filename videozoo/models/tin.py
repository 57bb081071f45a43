"""Temporal Interlacing Network (Shao et al., AAAI 2020, arXiv:2001.06499).

TSN whose residual branches see their input with the first quarter of its channels moved in time, by offsets and with
weights that small networks predict from the clip itself: TSM with learned, fractional shifts. These networks see all
frames at once, so the number of frames is fixed: input ``(N, 3, 8, H, W)``; ``num_frames=`` builds it for another one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import register_model
from .resnet2d import Bottleneck, ResNet2d

GROUPS = 2  # predicted offsets; each is used with both signs, on a part of the channels of its own


class OffsetNet(nn.Module):
    """Channel descriptors ``(N, C, T)`` -> offsets in frames ``(N, GROUPS)`` within (-2, 2)."""

    def __init__(self, channels: int, num_frames: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, 1, 3, padding=1)
        self.fc1 = nn.Linear(num_frames, num_frames)
        self.fc2 = nn.Linear(num_frames, GROUPS)

    def init_weights(self) -> None:
        """Offsets start near half a frame."""
        for layer in (self.conv, self.fc1, self.fc2):
            layer.reset_parameters()
        nn.init.zeros_(self.conv.bias)
        nn.init.constant_(self.fc2.bias, 0.5108)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).squeeze(1)  # (N, T)
        return 4 * (self.fc2(F.relu(self.fc1(x))).sigmoid() - 0.5)


class WeightNet(nn.Module):
    """Channel descriptors ``(N, C, T)`` -> weights of frames ``(N, GROUPS, T)`` within (0, 2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, GROUPS, 3, padding=1)

    def init_weights(self) -> None:
        """Weights start near one."""
        self.conv.reset_parameters()
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.conv(x).sigmoid()


class TemporalInterlace(nn.Module):
    """Move the first quarter of the channels in time, by learned amounts.

    Input and output are frames folded into the batch, ``(N*T, C, H, W)`` with T = ``num_frames``, frame fastest. A
    positive offset moves features to later frames, a fractional one spreads them over two; beyond the ends of the clip
    there is nothing.
    """

    def __init__(self, channels: int, num_frames: int):
        super().__init__()
        self.num_frames = num_frames
        self.moved = channels // 4
        self.offset_net = OffsetNet(self.moved, num_frames)
        self.weight_net = WeightNet(self.moved)

    def mixing(self, x: torch.Tensor) -> torch.Tensor:
        """Shares of frames s in frame t of each channel group: x ``(N, T, C, H, W)`` -> ``(N, 2 * GROUPS, t, s)``."""
        descriptor = x.mean((3, 4)).transpose(1, 2)  # (N, C, T)
        offsets = self.offset_net(descriptor)
        weights = self.weight_net(descriptor)
        offsets, weights = torch.cat((offsets, -offsets), 1), torch.cat((weights, weights), 1)
        frames = torch.arange(self.num_frames, device=x.device)
        distance = frames[:, None] - frames - offsets[:, :, None, None]
        return (1 - distance.abs()).clamp(min=0) * weights[..., None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved, rest = x.unflatten(0, (-1, self.num_frames)).split([self.moved, x.shape[1] - self.moved], dim=2)
        grouped = moved.unflatten(2, (2 * GROUPS, -1)).transpose(1, 2)  # (N, groups, T, C / groups, H, W)
        mixed = self.mixing(moved) @ grouped.flatten(3)
        mixed = mixed.unflatten(3, grouped.shape[3:]).transpose(1, 2).flatten(2, 3)
        return torch.cat((mixed, rest), dim=2).flatten(0, 1)


@register_model
def tin_r50_f8(*, num_frames: int = 8, **kwargs: Any) -> ResNet2d:
    """TIN, ResNet-50, 8 frames."""

    def make_block(stage: int, index: int, in_chs: int, width: int, stride: int) -> nn.Module:
        return Bottleneck(in_chs, width, stride, before=TemporalInterlace(in_chs, num_frames))

    head = {"drop_rate": 0.5, "init_std": 0.001, **kwargs}
    return ResNet2d(50, make_block, num_frames=num_frames, drop_per_frame=True, **head)
