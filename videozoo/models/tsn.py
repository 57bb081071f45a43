"""Temporal Segment Networks (Wang et al., ECCV 2016, arXiv:1608.00859).

One frame (or a stack of optical-flow fields) from each of T segments of the video goes through a 2-D ResNet; features
are averaged over the segments before the classifier. Input ``(N, 3, T, H, W)``, flow ``(N, 10, T, H, W)``. T is free:
the published networks were trained with 3 to 16 segments (the ``f`` of their names) and most are tested with 25.
"""

from __future__ import annotations

from typing import Any

from ..registry import register_model
from .resnet2d import ResNet2d, plain_block


def _tsn(depth: int, **kwargs: Any) -> ResNet2d:
    return ResNet2d(depth, plain_block(depth), **{"drop_rate": 0.4, **kwargs})


@register_model
def tsn_r18_f8(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-18, 8 segments."""
    return _tsn(18, **kwargs)


@register_model
def tsn_r50_f3(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-50, 3 segments."""
    return _tsn(50, **kwargs)


@register_model
def tsn_r50_f5(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-50, 5 segments."""
    return _tsn(50, **kwargs)


@register_model
def tsn_r50_f6(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-50, 6 segments."""
    return _tsn(50, **kwargs)


@register_model
def tsn_r50_f8(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-50, 8 segments."""
    return _tsn(50, **kwargs)


@register_model
def tsn_r50_f16(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-50, 16 segments."""
    return _tsn(50, **kwargs)


@register_model
def tsn_r101_f5(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-101, 5 segments."""
    return _tsn(101, **kwargs)


@register_model
def tsn_r18w16_8x4(**kwargs: Any) -> ResNet2d:
    """TSN, ResNet-18 of a quarter of the width (16 channels after the stem), 8 frames, one in four."""
    return _tsn(18, **{"base_width": 16, **kwargs})
