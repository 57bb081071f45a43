"""3-D ResNet: the trunk of I3D, SlowOnly, both pathways of SlowFast, CSN and R(2+1)D.

A bottleneck has a temporal kernel of 1 or 3 in its first 1x1 convolution and a 1x3x3 in the middle ("3x1x1 inflation",
Wang et al., CVPR 2018, arXiv:1711.07971). The networks differ in which blocks have a temporal kernel, in stem and
pooling, CSN and R(2+1)D in the kind of block. Module names are torchvision's, so image weights inflate by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..layers import Conv3d, ConvNorm, MaxPoolPairs, conv_norm
from .recognizer import Recognizer, level
from .resnet2d import DEPTHS

TemporalKernels = Sequence[Sequence[int]]
Stride = tuple[int, int, int]  # time, height, width

SPATIAL_STRIDES: tuple[Stride, ...] = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))  # of the four stages


class Bottleneck3d(nn.Module):
    """kx1x1, 1x3x3 (with the stride), 1x1x1 convolutions; ``after`` acts on the output (non-local).

    ``conv2`` takes the place of the 1x3x3 convolution; it maps ``width`` channels to ``width`` and does the stride.
    """

    expansion = 4
    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(
        self,
        in_chs: int,
        width: int,
        kernel_t: int = 1,
        stride: Stride = (1, 1, 1),
        after: nn.Module | None = None,
        norm_eps: float = 1e-5,
        conv2: nn.Module | None = None,
    ):
        super().__init__()
        out_chs = width * self.expansion
        self.conv1 = Conv3d(in_chs, width, (kernel_t, 1, 1), padding=(kernel_t // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(width, norm_eps)
        self.conv2 = conv2 or Conv3d(width, width, (1, 3, 3), stride, padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width, norm_eps)
        self.conv3 = Conv3d(width, out_chs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_chs, norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != (1, 1, 1) or in_chs != out_chs:
            shortcut = Conv3d(in_chs, out_chs, 1, stride, bias=False)
            self.downsample = ConvNorm(shortcut, nn.BatchNorm3d(out_chs, norm_eps))
        self.non_local = after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = conv_norm(x, self.conv1, self.bn1, self.relu)
        out = conv_norm(out, self.conv2, self.bn2, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.non_local(conv_norm(out, self.conv3, self.bn3, self.relu, shortcut))


@dataclass(frozen=True)
class Stem:
    """What comes before the residual stages: a convolution, batch norm, ReLU and a max pool; both halve space."""

    kernel: Stride = (1, 7, 7)
    """Of the convolution, in (time, height, width)."""
    stride: int = 1
    """Of the convolution, in time."""
    pool_stride: int | None = 1
    """Of the 1x3x3 max pool, in time; None: there is no pool."""


def stage_kernels(depth: int, per_stage: Sequence[int]) -> list[list[int]]:
    """Temporal kernels of all blocks where each stage has one: ``(1, 1, 3, 3)`` for SlowOnly."""
    return [[kernel] * blocks for kernel, blocks in zip(per_stage, DEPTHS[depth], strict=True)]


def bottleneck(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
    """``make_block`` of the plain network."""
    return Bottleneck3d(in_chs, width, kernel_t, stride)


class ResNet3d(Recognizer):
    """3-D ResNet with four stages.

    Args:
        temporal_kernels: kernel size in time of each block, one list a stage: that of a bottleneck's first convolution.
        make_block: ``(stage, index, in_chs, width, kernel_t, stride) -> residual block`` with ``width * expansion``
            output channels; stage 1 to 4, index within it, stride in (time, height, width).
        expansion: see ``make_block``.
        strides: stride of each stage's first block.
        stem: see :class:`Stem`.
        conv1: another first convolution, of the stem's stride.
        pool_after_layer1: halve the frames by max pooling after the first stage.
        base_width: channels of the stem.
        norm_eps: epsilon of the stem's batch norm.
        extra_chs: channels that another pathway adds to the input of each stage.
        zero_init_residual: start each bottleneck's residual branch at zero when weights are drawn afresh.
        pool_window: side of the window that the head slides over the features; 0: it averages over all of space.
        **head: num_classes, in_chans, drop_rate, init_std: see :class:`Recognizer`.
    """

    conv_norms = (("conv1", "bn1"),)

    def __init__(
        self,
        temporal_kernels: TemporalKernels,
        *,
        make_block: Callable[..., nn.Module] = bottleneck,
        expansion: int = Bottleneck3d.expansion,
        strides: Sequence[Stride] = SPATIAL_STRIDES,
        stem: Stem = Stem(),
        conv1: nn.Module | None = None,
        pool_after_layer1: bool = False,
        base_width: int = 64,
        norm_eps: float = 1e-5,
        extra_chs: Sequence[int] = (0, 0, 0, 0),
        zero_init_residual: bool = True,
        pool_window: int = 0,
        in_chans: int = 3,
        **head: Any,
    ):
        widths = [base_width * 2**i for i in range(4)]
        time, space = stem.stride * (stem.pool_stride or 1), 2 if stem.pool_stride is None else 4
        min_frames = time + 1 if pool_after_layer1 else 1  # the pool after layer1 needs two frames
        stages = []
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            time *= stride[0] * (2 if pool_after_layer1 and i == 1 else 1)
            space *= stride[1]
            stages.append(level(width * expansion, (time, space), f"layer{i + 1}"))
        super().__init__(
            num_features=widths[-1] * expansion,
            in_chans=in_chans,
            feature_info=[level(base_width, (stem.stride, 2), "relu"), *stages],
            **{"num_classes": 400, **head},
        )
        self.min_frames = min_frames
        self.pool_window = pool_window
        self.zero_init_residual = zero_init_residual
        padding = tuple(k // 2 for k in stem.kernel)
        self.conv1 = conv1 or Conv3d(in_chans, base_width, stem.kernel, (stem.stride, 2, 2), padding, bias=False)
        self.bn1 = nn.BatchNorm3d(base_width, norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        if stem.pool_stride is not None:
            self.maxpool = nn.MaxPool3d((1, 3, 3), (stem.pool_stride, 2, 2), padding=(0, 1, 1))
        self.pool2 = MaxPoolPairs() if pool_after_layer1 else nn.Identity()
        in_chs = base_width
        for stage, (width, kernels) in enumerate(zip(widths, temporal_kernels, strict=True), start=1):
            in_chs += extra_chs[stage - 1]
            blocks = []
            for i, kernel_t in enumerate(kernels):
                stride = strides[stage - 1] if i == 0 else (1, 1, 1)
                blocks.append(make_block(stage, i, in_chs, width, kernel_t, stride))
                in_chs = width * expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.init_weights()

    def init_weights(self) -> None:
        super().init_weights()
        if self.zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck3d):
                    nn.init.zeros_(module.bn3.weight)

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if index == 0:
            return conv_norm(x, self.conv1, self.bn1, self.relu)  # (N, 64, T', H/2, W/2)
        if index == 1:
            x = self.maxpool(x)
        if index == 2:
            x = self.pool2(x)
        return self.run_blocks(getattr(self, f"layer{index}"), x)
