"""R(2+1)D, R3D and MC3 (Tran et al., CVPR 2018, arXiv:1711.11248).

ResNets on clips that differ in the convolution: R3D's are full 3-D ones, MC3's are so in the first stage only and 2-D
after it, R(2+1)D splits each into a spatial and a temporal one with norm and ReLU between them. Time is halved by the
last three stages (not by MC3's). Three lineages of R(2+1)D have weights: torchvision's 18 layers (no pool after the
stem, a whole block shares one width between its convolutions), MMAction2's 34 layers (shortcuts are split too) and
PyTorchVideo's 50 layers (bottlenecks, temporal convolution first). Input ``(N, 3, T, H, W)``: 16 frames of 112 pixels
for 18 layers, else 8, 16 or 32 frames of 224 pixels, as the name says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..layers import Conv3d, ConvChain, ConvNorm, conv_norm
from ..registry import register_model
from .resnet3d import SPATIAL_STRIDES, Bottleneck3d, ResNet3d, Stem, Stride, stage_kernels

OUTER_EPS = 1e-3  # of MMAction2's batch norms outside split convolutions
ALL_STRIDES: tuple[Stride, ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def matched_width(in_chs: int, out_chs: int, kernel: int) -> int:
    """Channels between the two parts that give a split convolution the parameters of a full 3 x kernel x kernel one."""
    area = kernel * kernel
    return 3 * in_chs * out_chs * area // (in_chs * area + 3 * out_chs)


class Conv2plus1d(ConvChain):
    """A 1 x k x k and a t x 1 x 1 convolution with norm and ReLU between them.

    Args:
        in_chs, mid_chs, out_chs: channels before, between and after the two.
        kernel_t: kernel size in time.
        kernel: kernel size in space.
        stride: in (time, height, width), each part has its own share.
        time_first: the temporal part precedes the spatial one.
    """

    def __init__(
        self,
        in_chs: int,
        mid_chs: int,
        out_chs: int,
        kernel_t: int = 3,
        kernel: int = 3,
        stride: Stride = (1, 1, 1),
        time_first: bool = False,
    ):
        super().__init__()
        self.time_first = time_first
        spatial = ((1, kernel, kernel), (1, *stride[1:]), (0, kernel // 2, kernel // 2))
        temporal = ((kernel_t, 1, 1), (stride[0], 1, 1), (kernel_t // 2, 0, 0))
        first, last = (in_chs, mid_chs), (mid_chs, out_chs)
        self.conv_s = Conv3d(*(last if time_first else first), *spatial, bias=False)
        self.bn = nn.BatchNorm3d(mid_chs)
        self.relu = nn.ReLU(inplace=True)
        self.conv_t = Conv3d(*(first if time_first else last), *temporal, bias=False)

    @property
    def conv_norms(self) -> tuple[tuple[str, str]]:
        return (("conv_t" if self.time_first else "conv_s", "bn"),)

    @property
    def last_conv(self) -> nn.Module:
        return self.conv_s if self.time_first else self.conv_t

    def lead(self, x: torch.Tensor) -> torch.Tensor:
        return conv_norm(x, self.conv_t if self.time_first else self.conv_s, self.bn, self.relu)


class BasicBlock3d(nn.Module):
    """Two convolutions, given as modules, the first with the stride; ``shortcut`` is one too where shapes change."""

    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(
        self, width: int, conv1: nn.Module, conv2: nn.Module, shortcut: nn.Module | None, norm_eps: float = 1e-5
    ):
        super().__init__()
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm3d(width, norm_eps)
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm3d(width, norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if shortcut is None else ConvNorm(shortcut, nn.BatchNorm3d(width, norm_eps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = conv_norm(x, self.conv1, self.bn1, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(out, self.conv2, self.bn2, self.relu, shortcut)


# The kinds of block, as `make_block` of ResNet3d.


def full_block(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> BasicBlock3d:
    """Full convolutions, kernel_t x 3 x 3."""
    kernel, padding = (kernel_t, 3, 3), (kernel_t // 2, 1, 1)
    conv1 = Conv3d(in_chs, width, kernel, stride, padding, bias=False)
    conv2 = Conv3d(width, width, kernel, 1, padding, bias=False)
    return BasicBlock3d(width, conv1, conv2, _full_shortcut(in_chs, width, stride))


def _full_shortcut(in_chs: int, width: int, stride: Stride) -> nn.Module | None:
    changes = stride != (1, 1, 1) or in_chs != width
    return Conv3d(in_chs, width, 1, stride, bias=False) if changes else None


def shared_width_block(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> BasicBlock3d:
    """Split convolutions; the inner width follows from the block's channels and serves both."""
    mid = matched_width(in_chs, width, 3)
    conv1 = Conv2plus1d(in_chs, mid, width, kernel_t, stride=stride)
    conv2 = Conv2plus1d(width, mid, width, kernel_t)
    return BasicBlock3d(width, conv1, conv2, _full_shortcut(in_chs, width, stride))


def split_block(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> BasicBlock3d:
    """Split convolutions, each with its own inner width, the shortcut among them."""
    conv1 = Conv2plus1d(in_chs, matched_width(in_chs, width, 3), width, kernel_t, stride=stride)
    conv2 = Conv2plus1d(width, matched_width(width, width, 3), width, kernel_t)
    shortcut = None
    if stride != (1, 1, 1) or in_chs != width:
        shortcut = Conv2plus1d(in_chs, matched_width(in_chs, width, 1), width, 1, 1, stride)
    return BasicBlock3d(width, conv1, conv2, shortcut, OUTER_EPS)


def time_first_block(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
    """Bottleneck with a split convolution in the middle, temporal part first, all of one width."""
    conv2 = Conv2plus1d(width, width, width, kernel_t, stride=stride, time_first=True)
    return Bottleneck3d(in_chs, width, 1, stride, conv2=conv2)


class R2Plus1D(ResNet3d):
    """ResNet3d whose first convolution is split as well.

    Args:
        temporal_kernels: see :class:`ResNet3d`.
        stem_mid_chs: channels between the two parts of the first convolution, 1x7x7 and 3x1x1.
        in_chans: input channels.
        **kwargs: see :class:`ResNet3d`.
    """

    first_conv = ("conv1.conv_s",)

    def __init__(
        self,
        temporal_kernels: Sequence[Sequence[int]],
        *,
        stem_mid_chs: int,
        in_chans: int = 3,
        **kwargs: Any,
    ):
        conv1 = Conv2plus1d(in_chans, stem_mid_chs, 64, 3, 7, (1, 2, 2))
        super().__init__(temporal_kernels, conv1=conv1, expansion=1, strides=ALL_STRIDES, in_chans=in_chans, **kwargs)


def _video_resnet18(temporal_kernels: tuple[int, ...], strides: Sequence[Stride], **kwargs: Any) -> ResNet3d:
    return ResNet3d(
        stage_kernels(18, temporal_kernels),
        make_block=full_block,
        expansion=1,
        strides=strides,
        **{"stem": Stem((3, 7, 7), pool_stride=None), "drop_rate": 0.0, **kwargs},
    )


@register_model
def r3d_r18_16x2(**kwargs: Any) -> ResNet3d:
    """R3D, ResNet-18 with 3-D convolutions, 16 frames, one in two."""
    return _video_resnet18((3, 3, 3, 3), ALL_STRIDES, **kwargs)


@register_model
def mc3_r18_16x2(**kwargs: Any) -> ResNet3d:
    """MC3, ResNet-18 with 3-D convolutions in stem and first stage, 16 frames, one in two."""
    return _video_resnet18((3, 1, 1, 1), SPATIAL_STRIDES, **kwargs)


@register_model
def mc3_r18w16_8x4(**kwargs: Any) -> ResNet3d:
    """MC3, ResNet-18 of a quarter of the width with a max pool after the stem, 8 frames, one in four."""
    return _video_resnet18((3, 1, 1, 1), SPATIAL_STRIDES, **{"base_width": 16, "stem": Stem((3, 7, 7)), **kwargs})


@register_model
def r2plus1d_r18_16x2(**kwargs: Any) -> R2Plus1D:
    """R(2+1)D, ResNet-18, 16 frames, one in two."""
    options = {"stem_mid_chs": 45, "stem": Stem(pool_stride=None), "drop_rate": 0.0, **kwargs}
    return R2Plus1D(stage_kernels(18, (3, 3, 3, 3)), make_block=shared_width_block, **options)


def _r2plus1d_r34(**kwargs: Any) -> R2Plus1D:
    # the stem's inner width is matched_width(3, 64, 7), whatever the input channels
    return R2Plus1D(
        stage_kernels(34, (3, 3, 3, 3)), make_block=split_block, stem_mid_chs=83, norm_eps=OUTER_EPS, **kwargs
    )


@register_model
def r2plus1d_r34_8x8(**kwargs: Any) -> R2Plus1D:
    """R(2+1)D, ResNet-34, 8 frames, one in eight."""
    return _r2plus1d_r34(**kwargs)


@register_model
def r2plus1d_r34_32x2(**kwargs: Any) -> R2Plus1D:
    """R(2+1)D, ResNet-34, 32 frames, one in two."""
    return _r2plus1d_r34(**kwargs)


@register_model
def r2plus1d_r50_16x4(**kwargs: Any) -> ResNet3d:
    """R(2+1)D, ResNet-50, 16 frames, one in four; time is halved by the last two stages only."""
    return ResNet3d(
        stage_kernels(50, (3, 3, 3, 3)),
        make_block=time_first_block,
        strides=((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        stem=Stem(pool_stride=None),
        zero_init_residual=False,
        **kwargs,
    )
