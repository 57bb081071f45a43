"""SlowOnly, the slow pathway of SlowFast on its own (Feichtenhofer et al., ICCV 2019, arXiv:1812.03982).

A ResNet with a 2-D stem that never reduces time; only its last two stages have temporal kernels. Input
``(N, 3, T, H, W)``, flow ``(N, 2, T, H, W)``; T = 4 frames, one in sixteen, or 8 frames, one in eight, as the name
says: both are the same network.
"""

from __future__ import annotations

from typing import Any

from ..registry import register_model
from .resnet3d import ResNet3d, stage_kernels


def _slowonly(depth: int, **kwargs: Any) -> ResNet3d:
    return ResNet3d(stage_kernels(depth, (1, 1, 3, 3)), **kwargs)


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
