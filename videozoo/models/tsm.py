"""Temporal Shift Module (Lin et al., ICCV 2019, arXiv:1811.08383).

TSN whose residual branches see a shifted copy of their input: an eighth of the channels comes from the next frame, an
eighth from the previous one, at no cost in parameters or FLOPs. The shift ties the network to its number of frames:
input ``(N, 3, 8, H, W)`` or 16 frames, as the name says; ``num_frames=`` builds it for another number.

``causal=True`` is the paper's online variant: an eighth of the channels comes from the previous frame and none from the
next, so that frames can go through one by one (:class:`videozoo.streaming.OnlineTSM`). It has the same parameters, but
all published weights were trained with shifts in both directions: it needs training of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..layers import NonLocal3d, TemporalShift
from ..registry import register_model
from .mobilenetv2 import MobileNetV2
from .resnet2d import DEPTHS, BasicBlock, Bottleneck, ResNet2d

NON_LOCAL_BLOCKS = {2: (0, 2), 3: (0, 2, 4)}  # stage -> blocks that a non-local block follows


class ClipNonLocal(nn.Module):
    """A non-local block over the frames of a clip that are folded into the batch, ``(N*T, C, H, W)``."""

    def __init__(self, channels: int, num_frames: int, mode: str):
        super().__init__()
        self.num_frames = num_frames
        self.block = NonLocal3d(channels, mode)

    def forward(self, x):
        clip = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2)  # (N, C, T, H, W)
        return self.block(clip).transpose(1, 2).flatten(0, 1)


def shifted_block(depth: int, num_frames: int, non_local: str = "", causal: bool = False) -> Callable[..., nn.Module]:
    """``make_block`` of TSM: where layer3 has 23 blocks or more, only every second block of each stage is shifted."""
    every = 2 if DEPTHS[depth][2] >= 23 else 1

    def make_block(stage: int, index: int, in_chs: int, width: int, stride: int) -> nn.Module:
        shift = TemporalShift(num_frames, causal=causal) if index % every == 0 else None
        if depth < 50:
            return BasicBlock(in_chs, width, stride, before=shift)
        after = None
        if non_local and index in NON_LOCAL_BLOCKS.get(stage, ()):
            after = ClipNonLocal(width * Bottleneck.expansion, num_frames, non_local)
        return Bottleneck(in_chs, width, stride, before=shift, after=after)

    return make_block


def _tsm(depth: int, *, num_frames: int = 8, non_local: str = "", causal: bool = False, **kwargs: Any) -> ResNet2d:
    if causal and non_local:
        raise ValueError(
            "a TSM with non-local blocks cannot be causal, for they see all frames of the clip: "
            "take one without, such as tsm_r50_f8"
        )
    make_block = shifted_block(depth, num_frames, non_local, causal)
    head = {"drop_rate": 0.5, "init_std": 0.001, **kwargs}
    return ResNet2d(depth, make_block, num_frames=num_frames, drop_per_frame=True, **head)


@register_model
def tsm_r50_f8(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-50, 8 frames."""
    return _tsm(50, **kwargs)


@register_model
def tsm_r50_f16(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-50, 16 frames."""
    return _tsm(50, **{"num_frames": 16, **kwargs})


@register_model
def tsm_r101_f8(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-101, 8 frames; every second block is shifted."""
    return _tsm(101, **kwargs)


@register_model
def tsm_nldot_r50_f8(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-50 with five dot-product non-local blocks, 8 frames."""
    return _tsm(50, non_local="dot_product", **kwargs)


@register_model
def tsm_nlgauss_r50_f8(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-50 with five Gaussian non-local blocks, 8 frames."""
    return _tsm(50, non_local="gaussian", **kwargs)


@register_model
def tsm_nlembgauss_r50_f8(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-50 with five embedded-Gaussian non-local blocks, 8 frames."""
    return _tsm(50, non_local="embedded_gaussian", **kwargs)


@register_model
def tsm_r18w16_8x4(**kwargs: Any) -> ResNet2d:
    """TSM, ResNet-18 of a quarter of the width (16 channels after the stem), 8 frames, one in four."""
    return _tsm(18, **{"base_width": 16, **kwargs})


@register_model
def tsm_mobilenetv2_f8(*, num_frames: int = 8, causal: bool = False, **kwargs: Any) -> MobileNetV2:
    """TSM, MobileNetV2, 8 frames: blocks with an expansion and a shortcut are shifted."""

    def make_shift(expand: int, has_shortcut: bool) -> nn.Module | None:
        return TemporalShift(num_frames, causal=causal) if expand != 1 and has_shortcut else None

    head = {"drop_rate": 0.5, "init_std": 0.001, **kwargs}
    return MobileNetV2(make_shift, num_frames=num_frames, drop_per_frame=True, **head)
