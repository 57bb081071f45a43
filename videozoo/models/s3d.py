"""S3D (Xie et al., ECCV 2018, arXiv:1712.04851).

Inception-v1 on clips, every 3-D convolution split into a spatial and a temporal one, each with norm and ReLU. Input
``(N, 3, T, H, W)``, published with T = 128 frames, one in two, of 224x224 pixels. Module names are torchvision's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import Conv3d, ConvNorm
from ..registry import register_model
from .recognizer import Recognizer, level

# Inception blocks of the last three stages: channels of the 1x1x1 branch, two branches (reduced, out), pool branch.
STAGES = (
    ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
    (
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
    ),
    ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
)
Triple = tuple[int, int, int]  # time, height, width

HEAD_WINDOW = (2, 7, 7)  # the head averages over all places of this window: positions in the middle count more


class ConvNormReLU(ConvNorm):
    """Convolution with padding for its kernel, norm, ReLU."""

    def __init__(self, in_chs: int, out_chs: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)):
        padding = tuple(k // 2 for k in kernel)
        super().__init__(
            Conv3d(in_chs, out_chs, kernel, stride, padding, bias=False),
            nn.BatchNorm3d(out_chs, eps=1e-3, momentum=1e-3),
            nn.ReLU(inplace=True),
        )


class SeparableConv(nn.Sequential):
    """1 x k x k, then k x 1 x 1 convolution, both with norm and ReLU; the stride is that of all three dimensions."""

    def __init__(self, in_chs: int, out_chs: int, kernel: int = 3, stride: int = 1):
        super().__init__(
            ConvNormReLU(in_chs, out_chs, (1, kernel, kernel), (1, stride, stride)),
            ConvNormReLU(out_chs, out_chs, (kernel, 1, 1), (stride, 1, 1)),
        )


class SeparableInception(nn.Module):
    """Four branches side by side: 1x1x1, two separable 3x3x3 after a reduction, max pool and projection."""

    def __init__(self, in_chs: int, plain: int, branch1: tuple[int, int], branch2: tuple[int, int], pooled: int):
        super().__init__()
        self.out_chs = plain + branch1[1] + branch2[1] + pooled
        self.branch0 = ConvNormReLU(in_chs, plain)
        self.branch1 = nn.Sequential(ConvNormReLU(in_chs, branch1[0]), SeparableConv(*branch1))
        self.branch2 = nn.Sequential(ConvNormReLU(in_chs, branch2[0]), SeparableConv(*branch2))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, padding=1), ConvNormReLU(in_chs, pooled))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), dim=1)


class S3D(Recognizer):
    """S3D; a stage begins with its pool.

    Clips of fewer than 13 frames or 193 pixels leave less than the head's window of 2x7x7 positions, and all of it is
    averaged then; the published network does not take such clips.

    Args:
        num_classes, in_chans, drop_rate, init_std: see :class:`Recognizer`.
    """

    first_conv = ("features.0.0.0",)
    min_frames = 5  # the pool before the last stage needs two positions in time

    def __init__(self, *, num_classes: int = 400, in_chans: int = 3, drop_rate: float = 0.2, init_std: float = 0.01):
        def spatial_pool() -> nn.Module:
            return nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1))

        layers: list[nn.Module] = [SeparableConv(in_chans, 64, 7, stride=2)]
        layers += [spatial_pool(), ConvNormReLU(64, 64), SeparableConv(64, 192)]
        ends, chs = [1, len(layers)], [64, 192]
        pools = (spatial_pool(), nn.MaxPool3d(3, 2, padding=1), nn.MaxPool3d(2, 2))
        for pool, blocks in zip(pools, STAGES, strict=True):
            layers.append(pool)
            width = chs[-1]
            for block in blocks:
                layers.append(SeparableInception(width, *block))
                width = layers[-1].out_chs
            ends.append(len(layers))
            chs.append(width)
        reductions = ((2, 2), (2, 4), (2, 8), (4, 16), (8, 32))
        super().__init__(
            num_classes=num_classes,
            num_features=chs[-1],
            in_chans=in_chans,
            feature_info=[level(c, r, f"features.{end - 1}") for c, r, end in zip(chs, reductions, ends, strict=True)],
            drop_rate=drop_rate,
            init_std=init_std,
        )
        self.features = nn.Sequential(*layers)
        self.stage_ends = (0, *ends)
        self.init_weights()

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return self.run_blocks(self.features[self.stage_ends[index] : self.stage_ends[index + 1]], x)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        window = [min(w, size) for w, size in zip(HEAD_WINDOW, x.shape[2:], strict=True)]
        return F.avg_pool3d(x.float(), window, stride=1).mean((2, 3, 4)).to(x.dtype)  # not made for bf16 on a CPU

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The stem is the first separable convolution; coarse groups are the stages between two pools."""
        if not coarse:
            return {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)"}
        stages = [range(a, b) for a, b in zip(self.stage_ends[1:], self.stage_ends[2:], strict=False)]
        return {
            "stem": r"^features\.0\.",
            **{f"stage{i}": rf"^features\.(?:{'|'.join(map(str, s))})\." for i, s in enumerate(stages, start=1)},
        }


@register_model
def s3d_128x2(**kwargs: Any) -> S3D:
    """S3D, 128 frames, one in two."""
    return S3D(**kwargs)
