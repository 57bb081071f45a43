"""X3D (Feichtenhofer, CVPR 2020, arXiv:2004.04730): small 3-D networks, found by growing a 2-D one axis by axis.

Bottlenecks with a depthwise 3x3x3 convolution that is wider than its neighbours, squeeze-and-excitation in every
second one. Time is never reduced; every stage halves space, the first one too. Input ``(N, 3, T, H, W)``: XS takes
4 frames, one in twelve, S 13 frames, one in six (both at 160 pixels), M and L 16 frames, one in five (224 and 312
pixels). XS, S and M are the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import Conv3d, ConvNorm, DepthwiseConv3d, conv_norm, window_means
from ..registry import register_model
from .recognizer import Recognizer, level

WIDTHS = (24, 48, 96, 192)
INNER_WIDTHS = (54, 108, 216, 432)
HEAD_WIDTH = 2048


class SqueezeExcite(nn.Module):
    """Channels weighted by what the clip holds as a whole (Hu et al., CVPR 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv3d(channels, squeezed_width(channels), 1)
        self.fc2 = nn.Conv3d(squeezed_width(channels), channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.fc2(F.relu(self.fc1(x.mean((2, 3, 4), keepdim=True))))  # (N, C, 1, 1, 1)
        return x * scale.sigmoid()


def squeezed_width(channels: int) -> int:
    """A sixteenth of the channels, rounded to a multiple of 8 that is no more than a tenth below it."""
    target = channels / 16
    width = max(8, int(target + 4) // 8 * 8)
    return width if width >= 0.9 * target else width + 8


class Block(nn.Module):
    """1x1x1, depthwise 3x3x3 (with the spatial stride), 1x1x1 convolutions.

    Args:
        in_chs: input channels.
        inner: channels of the depthwise convolution.
        out_chs: output channels.
        stride: stride in space.
        squeeze: squeeze-and-excitation after the depthwise convolution's norm.
        shortcut_norm: the projection of the shortcut, where shapes change, has a norm.
    """

    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_chs: int, inner: int, out_chs: int, stride: int, squeeze: bool, shortcut_norm: bool = True):
        super().__init__()
        self.conv1 = nn.Conv3d(in_chs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = DepthwiseConv3d(inner, 3, (1, stride, stride), padding=1)
        self.bn2 = nn.BatchNorm3d(inner)
        self.squeeze = squeeze
        self.se = SqueezeExcite(inner) if squeeze else nn.Identity()
        self.conv3 = nn.Conv3d(inner, out_chs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_chs)
        self.relu = nn.ReLU(inplace=True)
        self.swish = nn.SiLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_chs != out_chs:
            shortcut = nn.Conv3d(in_chs, out_chs, 1, (1, stride, stride), bias=False)
            self.downsample = ConvNorm(shortcut, nn.BatchNorm3d(out_chs) if shortcut_norm else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = conv_norm(x, self.conv1, self.bn1, self.relu)
        if self.squeeze:
            out = self.swish(self.se(conv_norm(out, self.conv2, self.bn2)))
        else:
            out = conv_norm(out, self.conv2, self.bn2, self.swish)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(out, self.conv3, self.bn3, self.relu, shortcut)


class X3D(Recognizer):
    """X3D network.

    Args:
        blocks: residual blocks of the four stages.
        first_shortcut_norm: the shortcut of the very first block, which keeps its width, has a norm; not so in
            PyTorchVideo.
        pool_window: side of the window that the head slides over the features; 0: it averages over all of space.
        num_classes, in_chans, drop_rate, init_std: see :class:`Recognizer`.
    """

    conv_norms = (("conv1", None), ("conv1_t", "bn1"), ("conv5", "bn5"))

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        first_shortcut_norm: bool = True,
        pool_window: int = 0,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        init_std: float = 0.01,
    ):
        stages = [level(width, (1, 4 * 2**i), f"layer{i + 1}") for i, width in enumerate(WIDTHS)]
        super().__init__(
            num_classes=num_classes,
            num_features=HEAD_WIDTH,
            in_chans=in_chans,
            feature_info=[level(WIDTHS[0], (1, 2), "relu"), *stages],
            drop_rate=drop_rate,
            init_std=init_std,
        )
        self.pool_window = pool_window
        stem = WIDTHS[0]
        self.conv1 = Conv3d(in_chans, stem, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1), bias=False)
        self.conv1_t = DepthwiseConv3d(stem, (5, 1, 1), padding=(2, 0, 0))
        self.bn1 = nn.BatchNorm3d(stem)
        self.relu = nn.ReLU(inplace=True)
        in_chs = stem
        for stage, (width, inner, count) in enumerate(zip(WIDTHS, INNER_WIDTHS, blocks, strict=True), start=1):
            layers = []
            for i in range(count):
                norm = first_shortcut_norm or stage > 1
                layers.append(Block(in_chs, inner, width, 2 if i == 0 else 1, i % 2 == 0, norm))
                in_chs = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.conv5 = nn.Conv3d(in_chs, INNER_WIDTHS[-1], 1, bias=False)
        self.bn5 = nn.BatchNorm3d(INNER_WIDTHS[-1])
        self.fc1 = nn.Linear(INNER_WIDTHS[-1], HEAD_WIDTH, bias=False)
        self.init_weights()

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if index == 0:
            x = conv_norm(x, self.conv1)
            return conv_norm(x, self.conv1_t, self.bn1, self.relu)  # (N, 24, T, H/2, W/2)
        return self.run_blocks(getattr(self, f"layer{index}"), x)

    def pool_windows(self, x: torch.Tensor) -> torch.Tensor:
        x = conv_norm(x, self.conv5, self.bn5, self.relu)  # (N, 432, T, H', W')
        return self.relu(self.fc1(window_means(x, self.pool_window)))  # (N, windows, 2048)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^(?:conv1|conv1_t|bn1)\.", "blocks": blocks, "neck": r"^(?:conv5|bn5|fc1)\."}

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.normal_(self.fc1.weight, std=self.init_std)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.bn3.weight)  # residual branches start at zero


def _x3d(blocks: Sequence[int] = (3, 5, 11, 7), **kwargs: Any) -> X3D:
    return X3D(blocks, **kwargs)


@register_model
def x3d_xs_4x12(**kwargs: Any) -> X3D:
    """X3D-XS, 4 frames, one in twelve."""
    return _x3d(**kwargs)


@register_model
def x3d_s_13x6(**kwargs: Any) -> X3D:
    """X3D-S, 13 frames, one in six."""
    return _x3d(**kwargs)


@register_model
def x3d_m_16x5(**kwargs: Any) -> X3D:
    """X3D-M, 16 frames, one in five."""
    return _x3d(**kwargs)


@register_model
def x3d_l_16x5(**kwargs: Any) -> X3D:
    """X3D-L, 16 frames, one in five, and more than twice the depth."""
    return _x3d((5, 10, 25, 15), **kwargs)
