"""Channel-separated networks, CSN (Tran et al., ICCV 2019, arXiv:1904.02811).

A bottleneck ResNet whose 3x3x3 convolutions are depthwise, so that channels interact in 1x1x1 convolutions only.
"ir" (interaction-reduced) is that; "ip" (interaction-preserved) puts one more 1x1x1 convolution with norm, without
ReLU, in front of the depthwise one. Time is halved by the last three stages. Input ``(N, 3, T, H, W)``,
T = 32 frames, one in two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..layers import ConvChain, DepthwiseConv3d, conv_norm
from ..registry import register_model
from .resnet3d import Bottleneck3d, ResNet3d, Stem, Stride, stage_kernels

STRIDES: tuple[Stride, ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


class MixThenDepthwise(ConvChain):
    """A 1x1x1 convolution with norm and a depthwise kernel_t x 3 x 3 one."""

    conv_norms = (("mix", "norm"),)

    def __init__(self, width: int, kernel_t: int, stride: Stride, norm_eps: float):
        super().__init__()
        self.mix = nn.Conv3d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm3d(width, norm_eps)
        self.depthwise = _depthwise(width, kernel_t, stride)

    @property
    def last_conv(self) -> nn.Module:
        return self.depthwise

    def lead(self, x: torch.Tensor) -> torch.Tensor:
        return conv_norm(x, self.mix, self.norm)


def reduced_middle(width: int, kernel_t: int, stride: Stride, norm_eps: float) -> nn.Module:
    """Middle of a bottleneck: a depthwise kernel_t x 3 x 3 convolution."""
    return _depthwise(width, kernel_t, stride)


def preserved_middle(width: int, kernel_t: int, stride: Stride, norm_eps: float) -> nn.Module:
    """The same with a 1x1x1 convolution and norm in front of it."""
    return MixThenDepthwise(width, kernel_t, stride, norm_eps)


def _depthwise(width: int, kernel_t: int, stride: Stride) -> nn.Conv3d:
    padding = (kernel_t // 2, 1, 1)
    return DepthwiseConv3d(width, (kernel_t, 3, 3), stride, padding)


def _csn(
    depth: int, middle: Callable[..., nn.Module] = reduced_middle, norm_eps: float = 1e-3, **kwargs: Any
) -> ResNet3d:
    def make_block(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
        conv2 = middle(width, kernel_t, stride, norm_eps)
        return Bottleneck3d(in_chs, width, 1, stride, norm_eps=norm_eps, conv2=conv2)

    kernels = stage_kernels(depth, (3, 3, 3, 3))
    return ResNet3d(kernels, make_block=make_block, strides=STRIDES, stem=Stem((3, 7, 7)), norm_eps=norm_eps, **kwargs)


@register_model
def ircsn_r50_32x2(**kwargs: Any) -> ResNet3d:
    """Interaction-reduced CSN, ResNet-50, 32 frames, one in two."""
    return _csn(50, **kwargs)


@register_model
def ircsn_r101_32x2(**kwargs: Any) -> ResNet3d:
    """Interaction-reduced CSN, ResNet-101, 32 frames, one in two; batch norms have the usual epsilon."""
    return _csn(101, **{"norm_eps": 1e-5, **kwargs})


@register_model
def ircsn_r152_32x2(**kwargs: Any) -> ResNet3d:
    """Interaction-reduced CSN, ResNet-152, 32 frames, one in two."""
    return _csn(152, **kwargs)


@register_model
def ipcsn_r152_32x2(**kwargs: Any) -> ResNet3d:
    """Interaction-preserved CSN, ResNet-152, 32 frames, one in two."""
    return _csn(152, middle=preserved_middle, **kwargs)
