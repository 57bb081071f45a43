"""SlowOnly, the slow pathway of SlowFast on its own (Feichtenhofer et al., ICCV 2019, arXiv:1812.03982).

A ResNet with a 2-D stem that never reduces time; only its last two stages have temporal kernels. Input
``(N, 3, T, H, W)``, flow ``(N, 2, T, H, W)``; T = 4 frames, one in sixteen, or 8 frames, one in eight, as the name
says: both are the same network. ``nlembgauss``: with five non-local blocks (Wang et al., CVPR 2018, arXiv:1711.07971).
"""

from __future__ import annotations

from typing import Any

from ..layers import NonLocal3d
from ..registry import register_model
from .resnet3d import Bottleneck3d, ResNet3d, Stride, stage_kernels

NON_LOCAL_BLOCKS = {2: (0, 2), 3: (0, 2, 4)}  # stage -> blocks that a non-local block follows


def _slowonly(depth: int, **kwargs: Any) -> ResNet3d:
    return ResNet3d(stage_kernels(depth, (1, 1, 3, 3)), **kwargs)


def _non_local(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
    after = None
    if index in NON_LOCAL_BLOCKS.get(stage, ()):
        after = NonLocal3d(width * Bottleneck3d.expansion, "embedded_gaussian", use_scale=True)
    return Bottleneck3d(in_chs, width, kernel_t, stride, after)


@register_model
def slowonly_r50_4x16(**kwargs: Any) -> ResNet3d:
    """SlowOnly, ResNet-50, 4 frames, one in sixteen."""
    return _slowonly(50, **kwargs)


@register_model
def slowonly_r50_8x8(**kwargs: Any) -> ResNet3d:
    """SlowOnly, ResNet-50, 8 frames, one in eight."""
    return _slowonly(50, **kwargs)


@register_model
def slowonly_r101_8x8(**kwargs: Any) -> ResNet3d:
    """SlowOnly, ResNet-101, 8 frames, one in eight."""
    return _slowonly(101, **kwargs)


@register_model
def slowonly_nlembgauss_r50_4x16(**kwargs: Any) -> ResNet3d:
    """SlowOnly, ResNet-50 with five embedded-Gaussian non-local blocks, 4 frames, one in sixteen."""
    return _slowonly(50, make_block=_non_local, **kwargs)


@register_model
def slowonly_nlembgauss_r50_8x8(**kwargs: Any) -> ResNet3d:
    """SlowOnly, ResNet-50 with five embedded-Gaussian non-local blocks, 8 frames, one in eight."""
    return _slowonly(50, make_block=_non_local, **kwargs)
