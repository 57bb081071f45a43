"""I3D on ResNet-50 (Carreira and Zisserman, CVPR 2017, arXiv:1705.07750; Wang et al., CVPR 2018, arXiv:1711.07971).

An ImageNet ResNet inflated in time: a 5x7x7 stem, every second block with a 3x1x1 convolution, time reduced by 8 early
on. Input ``(N, 3, T, H, W)``, T = 32 frames, one in two. ``8x8``: T = 8, one in eight, and time is only halved, once;
``heavy``: the same with every block inflated.
"""

from __future__ import annotations

from typing import Any

from ..layers import NonLocal3d
from ..registry import register_model
from .resnet3d import Bottleneck3d, ResNet3d, Stem, Stride, stage_kernels

TEMPORAL_KERNELS = ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
FAST_STEM = Stem((5, 7, 7), stride=2, pool_stride=2)  # quarters time
SLOW_STEM = Stem((5, 7, 7))
NON_LOCAL_BLOCKS = {2: (1, 3), 3: (1, 3, 5)}  # stage -> blocks that a non-local block follows


def _i3d(non_local: str = "", non_local_args: dict[str, Any] | None = None, **kwargs: Any) -> ResNet3d:
    def make_block(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
        after = None
        if non_local and index in NON_LOCAL_BLOCKS.get(stage, ()):
            after = NonLocal3d(width * Bottleneck3d.expansion, non_local, **(non_local_args or {}))
        return Bottleneck3d(in_chs, width, kernel_t, stride, after)

    options = {"temporal_kernels": TEMPORAL_KERNELS, "stem": FAST_STEM, **kwargs}
    return ResNet3d(make_block=make_block, pool_after_layer1=True, zero_init_residual=False, **options)


@register_model
def i3d_r50_32x2(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50, 32 frames, one in two."""
    return _i3d(**kwargs)


@register_model
def i3d_heavy_r50_8x8(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50 with all blocks inflated, 8 frames, one in eight."""
    return _i3d(temporal_kernels=stage_kernels(50, (3, 3, 3, 3)), stem=SLOW_STEM, **kwargs)


@register_model
def i3d_nldot_r50_32x2(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50 with five dot-product non-local blocks."""
    return _i3d("dot_product", **kwargs)


@register_model
def i3d_nlgauss_r50_32x2(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50 with five Gaussian non-local blocks."""
    return _i3d("gaussian", **kwargs)


@register_model
def i3d_nlembgauss_r50_32x2(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50 with five embedded-Gaussian non-local blocks."""
    return _i3d("embedded_gaussian", **kwargs)


@register_model
def i3d_r50_8x8(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50, 8 frames, one in eight."""
    return _i3d(stem=SLOW_STEM, **kwargs)


@register_model
def i3d_nlembgauss_r50_8x8(**kwargs: Any) -> ResNet3d:
    """I3D, ResNet-50 with five embedded-Gaussian non-local blocks, 8 frames, one in eight."""
    args = {"use_scale": True, "pool_input": True, "out_bias": True}
    return _i3d("embedded_gaussian", args, stem=SLOW_STEM, **kwargs)
