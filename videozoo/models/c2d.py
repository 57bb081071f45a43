"""C2D, the 2-D baseline of Non-local Neural Networks (Wang et al., CVPR 2018, arXiv:1711.07971).

An image ResNet on every frame; features are averaged over frames before the classifier. Frames meet only in a max
pool that halves their number after the first stage; ``nopool`` goes without it. Input ``(N, 3, T, H, W)``, T = 8
frames, one in eight, or 16 frames, one in four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers import MaxPoolPairs
from ..registry import register_model
from .recognizer import FeatureInfo, level
from .resnet2d import ResNet2d, plain_block


class C2D(ResNet2d):
    """ResNet over frames with a temporal pool.

    Args:
        depth: 50, 101 or 152.
        temporal_pool: halve the frames by max pooling after the first stage.
        pool_padding: padding of the stem's max pool; MMAction2 has none.
        pool_window: side of the window that the head slides over the features; 0: it averages over all of space.
        **kwargs: see :class:`ResNet2d`.
    """

    def __init__(
        self, depth: int, *, temporal_pool: bool = True, pool_padding: int = 1, pool_window: int = 0, **kwargs: Any
    ):
        super().__init__(depth, plain_block(depth), **kwargs)
        self.pool_window = pool_window
        self.maxpool = nn.MaxPool2d(3, 2, padding=pool_padding)
        self.pool2 = nn.Identity()
        if temporal_pool:
            self.min_frames = 2
            self.pool2 = MaxPoolPairs()
            stem, layer1, *later = self.feature_info.info
            later = [level(info["num_chs"], (2, info["reduction"][1]), info["module"]) for info in later]
            self.feature_info = FeatureInfo([stem, layer1, *later])

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return super().forward_stage(index, self.pool2(x) if index == 2 else x)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool_windows(x).mean(1)


@register_model
def c2d_r50_8x8(**kwargs: Any) -> C2D:
    """C2D, ResNet-50, 8 frames, one in eight."""
    return C2D(50, **kwargs)


@register_model
def c2d_r50_16x4(**kwargs: Any) -> C2D:
    """C2D, ResNet-50, 16 frames, one in four."""
    return C2D(50, **kwargs)


@register_model
def c2d_nopool_r50_8x8(**kwargs: Any) -> C2D:
    """C2D without temporal pool, ResNet-50, 8 frames, one in eight."""
    return C2D(50, temporal_pool=False, **kwargs)
