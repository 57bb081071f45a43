"""3-D ResNet: the trunk of I3D, SlowOnly and both pathways of SlowFast.

A bottleneck has a temporal kernel of 1 or 3 in its first 1x1 convolution and a 1x3x3 in the middle ("3x1x1 inflation",
Wang et al., CVPR 2018, arXiv:1711.07971). The networks differ in which blocks have a temporal kernel, in stem and
pooling. Module names are torchvision's, so image weights inflate by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .recognizer import Recognizer, level
from .resnet2d import DEPTHS

TemporalKernels = Sequence[Sequence[int]]


class Bottleneck3d(nn.Module):
    """kx1x1, 1x3x3 (with the spatial stride), 1x1x1 convolutions; ``after`` acts on the output (non-local)."""

    expansion = 4

    def __init__(self, in_chs: int, width: int, kernel_t: int = 1, stride: int = 1, after: nn.Module | None = None):
        super().__init__()
        out_chs = width * self.expansion
        self.conv1 = nn.Conv3d(in_chs, width, (kernel_t, 1, 1), padding=(kernel_t // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out_chs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_chs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_chs != out_chs:
            shortcut = nn.Conv3d(in_chs, out_chs, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out_chs))
        self.non_local = after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.non_local(self.relu(out))


def stage_kernels(depth: int, per_stage: Sequence[int]) -> list[list[int]]:
    """Temporal kernels of all blocks where each stage has one: ``(1, 1, 3, 3)`` for SlowOnly."""
    return [[kernel] * blocks for kernel, blocks in zip(per_stage, DEPTHS[depth], strict=True)]


class ResNet3d(Recognizer):
    """3-D ResNet with bottleneck blocks.

    Args:
        temporal_kernels: kernel size in time of each block's first convolution, one list a stage.
        stem_kernel: kernel of the first convolution in (time, height, width).
        stem_stride: its stride in time; in space it is 2.
        pool_stride: stride in time of the max pool after the stem; in space it is 2.
        pool_after_layer1: halve the frames by max pooling after the first stage.
        base_width: channels of the stem.
        extra_chs: channels that another pathway adds to the input of each stage.
        make_after: ``(stage, index, channels) -> module`` that follows a block, or None.
        zero_init_residual: start each residual branch at zero when weights are drawn afresh.
        num_classes, in_chans, drop_rate, init_std: see :class:`Recognizer`.
    """

    def __init__(
        self,
        temporal_kernels: TemporalKernels,
        *,
        stem_kernel: tuple[int, int, int] = (1, 7, 7),
        stem_stride: int = 1,
        pool_stride: int = 1,
        pool_after_layer1: bool = False,
        base_width: int = 64,
        extra_chs: Sequence[int] = (0, 0, 0, 0),
        make_after: Callable[[int, int, int], nn.Module | None] = lambda stage, index, channels: None,
        zero_init_residual: bool = True,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        init_std: float = 0.01,
    ):
        widths = [base_width * 2**i for i in range(4)]
        time = stem_stride * pool_stride
        later = time * (2 if pool_after_layer1 else 1)
        stages = [level(w * 4, (later if i else time, 4 * 2**i), f"layer{i + 1}") for i, w in enumerate(widths)]
        super().__init__(
            num_classes=num_classes,
            num_features=widths[-1] * 4,
            in_chans=in_chans,
            feature_info=[level(base_width, (stem_stride, 2), "relu"), *stages],
            drop_rate=drop_rate,
            init_std=init_std,
        )
        self.min_frames = time + 1 if pool_after_layer1 else 1  # the pool after layer1 needs two frames
        self.zero_init_residual = zero_init_residual
        padding = tuple(k // 2 for k in stem_kernel)
        self.conv1 = nn.Conv3d(in_chans, base_width, stem_kernel, (stem_stride, 2, 2), padding, bias=False)
        self.bn1 = nn.BatchNorm3d(base_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (pool_stride, 2, 2), padding=(0, 1, 1))
        self.pool2 = nn.MaxPool3d((2, 1, 1), (2, 1, 1)) if pool_after_layer1 else nn.Identity()
        in_chs = base_width
        for stage, (width, kernels) in enumerate(zip(widths, temporal_kernels, strict=True), start=1):
            in_chs += extra_chs[stage - 1]
            blocks = []
            for i, kernel_t in enumerate(kernels):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Bottleneck3d(in_chs, width, kernel_t, stride, make_after(stage, i, width * 4)))
                in_chs = width * 4
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
            return self.relu(self.bn1(self.conv1(x)))  # (N, 64, T', H/2, W/2)
        if index == 1:
            x = self.maxpool(x)
        if index == 2:
            x = self.pool2(x)
        return self.run_blocks(getattr(self, f"layer{index}"), x)
