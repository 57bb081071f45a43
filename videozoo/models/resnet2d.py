"""2-D ResNet applied to every frame of a clip: the trunk of TSN and TSM (He et al., CVPR 2016, arXiv:1512.03385).

A clip ``(N, C, T, H, W)`` is folded to ``N*T`` frames; the head averages over space and frames. How a family lets
frames exchange information is its own choice of residual block, given as ``make_block``. Module names are
torchvision's (``conv1, bn1, layer1.0.conv1, fc``), so image weights fit by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..layers import ConvNorm, conv_norm
from .recognizer import Recognizer, level

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def conv_bn_shortcut(in_chs: int, out_chs: int, stride: int) -> nn.Module | None:
    """The projection of a residual block's shortcut, where shapes change."""
    if stride == 1 and in_chs == out_chs:
        return None
    return ConvNorm(nn.Conv2d(in_chs, out_chs, 1, stride, bias=False), nn.BatchNorm2d(out_chs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; ``before``, parameter-free, acts on the residual branch's input only."""

    expansion = 1
    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_chs: int, width: int, stride: int = 1, before: nn.Module | None = None):
        super().__init__()
        self.before = before or nn.Identity()
        self.conv1 = nn.Conv2d(in_chs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_bn_shortcut(in_chs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = conv_norm(self.before(x), self.conv1, self.bn1, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(out, self.conv2, self.bn2, self.relu, shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions.

    ``before`` acts on the residual branch's input only (temporal shift), ``after`` on the block's output (non-local).
    """

    expansion = 4
    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(
        self,
        in_chs: int,
        width: int,
        stride: int = 1,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
    ):
        super().__init__()
        out_chs = width * self.expansion
        self.before = before or nn.Identity()
        self.conv1 = nn.Conv2d(in_chs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_chs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_chs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_bn_shortcut(in_chs, out_chs, stride)
        self.non_local = after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = conv_norm(self.before(x), self.conv1, self.bn1, self.relu)
        out = conv_norm(out, self.conv2, self.bn2, self.relu)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.non_local(conv_norm(out, self.conv3, self.bn3, self.relu, shortcut))


def plain_block(depth: int) -> Callable[..., nn.Module]:
    """``make_block`` of an ordinary ResNet of this depth: frames do not see each other."""
    block = BasicBlock if depth < 50 else Bottleneck
    return lambda stage, index, in_chs, width, stride: block(in_chs, width, stride)


class FrameRecognizer(Recognizer):
    """A 2-D network over the frames of a clip; scores of all frames are averaged.

    Args:
        num_frames: frames that the network is tied to (temporal shift), or None if any number will do.
        drop_per_frame: dropout acts on each frame's features rather than on their average.
        **kwargs: see :class:`Recognizer`.
    """

    def __init__(self, *, num_frames: int | None, drop_rate: float, drop_per_frame: bool, **kwargs: Any):
        super().__init__(drop_rate=0.0 if drop_per_frame else drop_rate, **kwargs)
        self.num_frames = num_frames
        self.frame_drop = nn.Dropout(drop_rate if drop_per_frame else 0.0)

    def check_input(self, x: torch.Tensor) -> None:
        super().check_input(x)
        if self.num_frames is not None and x.shape[2] != self.num_frames:
            raise ValueError(
                f"{self.title} takes clips of {self.num_frames} frames, got {x.shape[2]}: "
                f"sample {self.num_frames}, or create the model with num_frames={x.shape[2]}"
            )

    def frame_stage(self, index: int, frames: torch.Tensor) -> torch.Tensor:
        """Stage ``index`` on frames ``(N*T, C, H, W)``, frame fastest."""
        raise TypeError(f"{type(self).__name__} must define frame_stage")

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        count = x.shape[0], x.shape[2]
        held = [x.transpose(1, 2).flatten(0, 1)]  # (N*T, C, H, W), a view after the first stage
        del x  # it may be freed within the stage
        return self.frame_stage(index, held.pop()).unflatten(0, count).transpose(1, 2)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        # The mean over frames commutes with the classifier, so this is also the mean of the frames' logits.
        return self.frame_drop(x.mean((3, 4))).mean(2)


class ResNet2d(FrameRecognizer):
    """ResNet over frames.

    Args:
        depth: 18, 34, 50, 101 or 152.
        make_block: ``(stage, index, in_chs, width, stride) -> residual block``; stage 1 to 4, index within it.
        base_width: channels of the stem.
        num_classes: see :class:`Recognizer`.
        in_chans: channels of one frame; 10 for stacks of five optical-flow fields.
        num_frames: see :class:`FrameRecognizer`.
        drop_rate: dropout before the classifier.
        drop_per_frame: see :class:`FrameRecognizer`.
        init_std: see :class:`Recognizer`.
    """

    conv_norms = (("conv1", "bn1"),)

    def __init__(
        self,
        depth: int,
        make_block: Callable[..., nn.Module],
        *,
        base_width: int = 64,
        num_classes: int = 400,
        in_chans: int = 3,
        num_frames: int | None = None,
        drop_rate: float = 0.5,
        drop_per_frame: bool = False,
        init_std: float = 0.01,
    ):
        expansion = 1 if depth < 50 else 4
        widths = [base_width * 2**i for i in range(4)]
        stages = [level(w * expansion, (1, 4 * 2**i), f"layer{i + 1}") for i, w in enumerate(widths)]
        super().__init__(
            num_classes=num_classes,
            num_features=widths[-1] * expansion,
            in_chans=in_chans,
            feature_info=[level(base_width, (1, 2), "relu"), *stages],
            num_frames=num_frames,
            drop_rate=drop_rate,
            drop_per_frame=drop_per_frame,
            init_std=init_std,
        )
        self.conv1 = nn.Conv2d(in_chans, base_width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        in_chs = base_width
        for stage, (width, blocks) in enumerate(zip(widths, DEPTHS[depth], strict=True), start=1):
            layers = []
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                layers.append(make_block(stage, i, in_chs, width, stride))
                in_chs = width * expansion
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.init_weights()

    def frame_stage(self, index: int, frames: torch.Tensor) -> torch.Tensor:
        if index == 0:
            return conv_norm(frames, self.conv1, self.bn1, self.relu)  # (N*T, base_width, H/2, W/2)
        if index == 1:
            frames = self.maxpool(frames)
        return self.run_blocks(getattr(self, f"layer{index}"), frames)
