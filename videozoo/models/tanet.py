"""TANet: ResNet with Temporal Adaptive Modules (Liu et al., ICCV 2021, arXiv:2005.06803).

After the first convolution of every bottleneck each channel is convolved over time with a kernel of its own for each
clip, predicted from the clip (global branch), after a gate for each channel and frame (local branch). The global
branch sees all frames at once, so their number is fixed: input ``(N, 3, 8, H, W)``; ``num_frames=`` builds it for
another one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import conv_norm
from ..registry import register_model
from .resnet2d import Bottleneck, ResNet2d

KERNEL = 3  # frames


class TemporalAdaptiveModule(nn.Module):
    """Gate and temporal convolution that depend on the clip.

    Input and output are frames folded into the batch, ``(N*T, C, H, W)`` with T = ``num_frames``, frame fastest.
    """

    def __init__(self, channels: int, num_frames: int):
        super().__init__()
        self.num_frames = num_frames
        hidden = channels // 4
        self.kernel = nn.Sequential(  # global branch: (N*C, T) -> (N*C, KERNEL)
            nn.Linear(num_frames, num_frames * 2, bias=False),
            nn.BatchNorm1d(num_frames * 2),
            nn.ReLU(inplace=True),
            nn.Linear(num_frames * 2, KERNEL, bias=False),
            nn.Softmax(-1),
        )
        self.gate = nn.Sequential(  # local branch: (N, C, T) -> (N, C, T)
            nn.Conv1d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv1d(hidden, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def init_weights(self) -> None:
        """Kernels start near the mean of neighbouring frames."""
        for layer in (*self.kernel, *self.gate):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.001)
            elif isinstance(layer, nn.Conv1d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.BatchNorm1d):
                layer.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(0, (-1, self.num_frames))  # (N, T, C, H, W)
        n, t, c = x.shape[:3]
        descriptor = x.mean((3, 4)).transpose(1, 2)  # (N, C, T)
        kernel = self.kernel(descriptor.reshape(n * c, t)).view(n, 1, c, 1, 1, KERNEL)
        gate = self.gate(descriptor).transpose(1, 2)[..., None, None]
        padded = F.pad(x * gate, (0, 0, 0, 0, 0, 0, 1, 1))
        out = sum(padded[:, i : i + t] * kernel[..., i] for i in range(KERNEL))
        return out.flatten(0, 1)


class TemporalAdaptiveBlock(Bottleneck):
    """A bottleneck with the module between its first and second convolution."""

    def __init__(self, in_chs: int, width: int, stride: int, num_frames: int):
        super().__init__(in_chs, width, stride)
        self.tam = TemporalAdaptiveModule(width, num_frames)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.tam(conv_norm(x, self.conv1, self.bn1, self.relu))
        out = conv_norm(out, self.conv2, self.bn2, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(out, self.conv3, self.bn3, self.relu, shortcut)


@register_model
def tanet_r50_f8(*, num_frames: int = 8, **kwargs: Any) -> ResNet2d:
    """TANet, ResNet-50, 8 frames."""

    def make_block(stage: int, index: int, in_chs: int, width: int, stride: int) -> nn.Module:
        return TemporalAdaptiveBlock(in_chs, width, stride, num_frames)

    head = {"drop_rate": 0.5, "init_std": 0.001, **kwargs}
    return ResNet2d(50, make_block, num_frames=num_frames, drop_per_frame=True, **head)
