"""MobileNetV2 over the frames of a clip (Sandler et al., CVPR 2018, arXiv:1801.04381): the small trunk of TSM.

Module names are torchvision's (``features.N.conv...``), but for the classifier, which is ``fc`` as everywhere here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..layers import ConvNorm, conv_norm
from .recognizer import level
from .resnet2d import FrameRecognizer

# expansion, output channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LEVEL_ENDS = (1, 3, 6, 13, 18)  # last module of ``features`` in each feature level


def conv_bn_relu6(in_chs: int, out_chs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> ConvNorm:
    """Convolution without bias, batch norm, ReLU6."""
    conv = nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return ConvNorm(conv, nn.BatchNorm2d(out_chs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise 3x3, project (1x1); ``before`` acts on the residual branch's input only."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, expand: int, before: nn.Module | None = None):
        super().__init__()
        hidden = in_chs * expand
        self.shortcut = stride == 1 and in_chs == out_chs
        self.before = before or nn.Identity()
        layers: list[nn.Module] = [conv_bn_relu6(in_chs, hidden)] if expand != 1 else []
        layers.append(conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden))
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, out_chs, 1, bias=False), nn.BatchNorm2d(out_chs))
        self.conv_norms = ((f"conv.{len(layers)}", f"conv.{len(layers) + 1}"),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *layers, project, norm = self.conv
        out = self.before(x)
        for layer in layers:
            out = layer(out)
        out = conv_norm(out, project, norm)
        return x + out if self.shortcut else out


class MobileNetV2(FrameRecognizer):
    """MobileNetV2, width 1.0.

    Args:
        make_before: ``(expand, has_shortcut) -> module`` put in front of a block's residual branch, or None.
        num_classes, in_chans, num_frames, drop_rate, drop_per_frame, init_std: see :class:`FrameRecognizer`.
    """

    first_conv = ("features.0.0",)

    def __init__(
        self,
        make_before: Callable[[int, bool], nn.Module | None],
        *,
        num_classes: int = 400,
        in_chans: int = 3,
        **kwargs: Any,
    ):
        levels = zip((16, 24, 32, 96, 1280), (2, 4, 8, 16, 32), LEVEL_ENDS, strict=True)
        super().__init__(
            num_classes=num_classes,
            num_features=1280,
            in_chans=in_chans,
            feature_info=[level(chs, (1, space), f"features.{end}") for chs, space, end in levels],
            **kwargs,
        )
        features: list[nn.Module] = [conv_bn_relu6(in_chans, 32, 3, 2)]
        in_chs = 32
        for expand, out_chs, blocks, stride in STAGES:
            for i in range(blocks):
                block_stride = stride if i == 0 else 1
                before = make_before(expand, block_stride == 1 and in_chs == out_chs)
                features.append(InvertedResidual(in_chs, out_chs, block_stride, expand, before))
                in_chs = out_chs
        features.append(conv_bn_relu6(in_chs, 1280))
        self.features = nn.Sequential(*features)
        self.init_weights()

    def frame_stage(self, index: int, frames: torch.Tensor) -> torch.Tensor:
        start = LEVEL_ENDS[index - 1] + 1 if index else 0
        return self.run_blocks(self.features[start : LEVEL_ENDS[index] + 1], frames)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Coarse groups are the feature levels; the stem is the first of them."""
        if not coarse:
            return {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)"}
        starts = (0, *(end + 1 for end in LEVEL_ENDS))
        levels = [range(start, end) for start, end in pairwise(starts)]
        return {f"level{i}": rf"^features\.(?:{'|'.join(map(str, part))})\." for i, part in enumerate(levels)}
