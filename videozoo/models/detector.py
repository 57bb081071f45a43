"""Detectors of actions in space and time: a clip trunk whose head looks at the persons of the clip's middle frame.

As in SlowFast (Feichtenhofer et al., ICCV 2019, arXiv:1812.03982): the trunk's last stage keeps its resolution, so
features are a sixteenth of the frame; they are averaged over time, cut out for each person by RoIAlign, max-pooled and
classified, every action on its own (sigmoid). Input: clips ``(N, 3, T, H, W)`` of whole frames, short side 256, and for
each clip the boxes of its persons in pixels of that input. ``context`` lets every person see the whole frame as well.

A detector has the keys of the recogniser that its trunk comes from, so weights of Kinetics fit all but the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import NonLocal3d
from ..registry import register_model
from .recognizer import Features, Recognizer
from .resnet3d import Bottleneck3d, ResNet3d, Stride, stage_kernels
from .slowfast import SlowFast

STRIDES: tuple[Stride, ...] = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 1, 1))  # the last stage keeps its resolution
CLASSES = 80  # of AVA
NON_LOCAL_BLOCKS = (6, 13, 20)  # blocks of layer3 that a non-local block follows
MIN_SIDE = 1.0  # pixels; boxes that are smaller within the frame are widened to it


def check_boxes(boxes: Sequence[torch.Tensor], clips: int) -> None:
    """ValueError unless there is one tensor ``(K, 4)`` of finite x1 <= x2, y1 <= y2 for each clip."""
    if not isinstance(boxes, (list, tuple)) or len(boxes) != clips:
        given = f"{len(boxes)} of them" if isinstance(boxes, (list, tuple)) else f"a {type(boxes).__name__}"
        given += f" {tuple(boxes.shape)}" if isinstance(boxes, torch.Tensor) else ""
        raise ValueError(f"boxes must be a list of {clips} tensors (K, 4), one for each clip, got {given}")
    for number, rows in enumerate(boxes):
        if not isinstance(rows, torch.Tensor):
            raise ValueError(
                f"boxes of clip {number} must be a tensor (K, 4) of x1, y1, x2, y2 in pixels, got a "
                f"{type(rows).__name__}: use torch.as_tensor(boxes).reshape(-1, 4)"
            )
        if rows.ndim != 2 or rows.shape[1] != 4:
            raise ValueError(
                f"boxes of clip {number} must be a tensor (K, 4) of x1, y1, x2, y2 in pixels, got {tuple(rows.shape)}: "
                "use torch.zeros(0, 4) where there is nobody"
            )
        if torch.compiler.is_compiling() or rows.is_meta:  # what follows looks at values
            continue
        if not torch.isfinite(rows).all():
            raise ValueError(f"boxes of clip {number} hold numbers that are not finite: leave such boxes out")
        inverted = (rows[:, 2:] < rows[:, :2]).any(1)
        if inverted.any():
            raise ValueError(
                f"boxes of clip {number} must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got "
                f"{rows[inverted][0].tolist()}: is it x, y, width, height?"
            )


def clip_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes ``(K, 4)`` cut to the frame; what is then narrower than a pixel becomes a pixel at the nearest place."""
    limit = boxes.new_tensor([width, height])
    low = torch.minimum(boxes[:, :2].clamp(min=0), limit - MIN_SIDE)
    high = torch.maximum(torch.minimum(boxes[:, 2:], limit), low + MIN_SIDE)
    return torch.cat((low, high), dim=1)


def box_rows(boxes: Sequence[torch.Tensor]) -> torch.Tensor:
    """The boxes ``(K_i, 4)`` of all clips as one tensor ``(sum K_i, 5)``, the number of the clip first."""
    return torch.cat([F.pad(rows, (1, 0), value=clip) for clip, rows in enumerate(boxes)])


class RoiHead(Recognizer):
    """What a detector adds to the trunk that it is derived from, ``class X(RoiHead, Trunk)``.

    ``model(x, boxes)``: clips ``(N, in_chans, T, H, W)`` and a list of N tensors ``(K_i, 4)``, x1, y1, x2, y2 in pixels
    of the clips, give logits ``(sum K_i, num_classes)`` in the boxes' order. Parts of a box outside the frame count as
    cut off; boxes without area in it are read at the nearest pixel. A clip may have no box.

    Args:
        roi_size: cells of a box's feature map along each side.
        aligned: cells are placed half a pixel further to the upper left, at the pixels' centres.
        context: the features of the whole frame, pooled to a map of the same size, stand beside the box's own.
        drop_before_pool: dropout acts on the map of a box rather than on its pooled features.
        **trunk: arguments of the trunk.
    """

    task = "detection"

    def __init__(
        self,
        *args: Any,
        roi_size: int = 8,
        aligned: bool = True,
        context: bool = False,
        drop_before_pool: bool = True,
        **trunk: Any,
    ):
        super().__init__(*args, **{"num_classes": CLASSES, "strides": STRIDES, **trunk})
        self.roi_size = roi_size
        self.aligned = aligned
        self.context = context
        self.drop_before_pool = drop_before_pool
        if context:
            self.num_features = self.head_hidden_size = 2 * self.num_features
            self.reset_classifier(self.num_classes)

    def feature_map(self, x: Features) -> torch.Tensor:
        """Mean over time of the unpooled features, ``(N, C, H / 16, W / 16)``."""
        return x.mean(2)

    def box_features(self, x: Features, boxes: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Feature maps of the boxes, ``(sum K_i, num_features, roi_size, roi_size)``; boxes as in ``forward_head``."""
        from torchvision.ops import roi_align

        frames = self.feature_map(x)
        dtype = frames.dtype
        frames = frames.float() if dtype in (torch.float16, torch.bfloat16) else frames  # half precision moves boxes
        rois = (boxes if isinstance(boxes, torch.Tensor) else box_rows(boxes)).to(frames.device, frames.dtype)
        maps = roi_align(frames, rois, self.roi_size, 1 / self.stride, aligned=self.aligned)
        if self.context:
            whole = F.adaptive_avg_pool2d(frames, self.roi_size)
            maps = torch.cat((maps, whole[rois[:, 0].long()]), dim=1)
        return maps.to(dtype)

    @property
    def stride(self) -> int:
        """Pixels of the clip that a cell of the features stands for, along each side."""
        return self.feature_info[-1]["reduction"][1]

    def forward_head(
        self, x: Features, boxes: Sequence[torch.Tensor] | torch.Tensor, pre_logits: bool = False
    ) -> torch.Tensor:
        """Output of ``forward_features`` and boxes within the frame -> logits ``(sum K_i, num_classes)``.

        The boxes are a list as in ``forward``, or one tensor as ``box_rows`` makes it.
        ``pre_logits``: the classifier's input, ``(sum K_i, num_features)``.
        """
        if not self.global_pool:
            return x
        maps = self.box_features(x, boxes)
        if self.drop_before_pool:
            pooled = self.head_drop(maps).amax((2, 3))
        else:
            pooled = self.head_drop(maps.amax((2, 3)))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: torch.Tensor, boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits ``(sum K_i, num_classes)`` of the boxes of each clip; ValueError for boxes that are none."""
        self.check_input(x)
        check_boxes(boxes, len(x))
        boxes = [clip_boxes(rows.float(), *x.shape[3:]) for rows in boxes]
        return self.forward_head(self.forward_features(x), boxes)


class ResNet3dDetector(RoiHead, ResNet3d):
    """A detector on one pathway: SlowOnly."""


class SlowFastDetector(RoiHead, SlowFast):
    """A detector on two pathways, whose features stand side by side, the fast ones first, as in the recogniser."""

    def feature_map(self, x: Features) -> torch.Tensor:
        slow, fast = x
        return torch.cat((fast.mean(2), slow.mean(2)), dim=1)

    @property
    def stride(self) -> int:
        (_, space), _ = self.feature_info[-1]["reduction"]
        return space


def dilated(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
    """``make_block`` of a network whose last stage sees with gaps what it would see at half the resolution."""
    conv2 = None
    if stage == 4:
        conv2 = nn.Conv3d(width, width, (1, 3, 3), stride, padding=(0, 2, 2), dilation=(1, 2, 2), bias=False)
    return Bottleneck3d(in_chs, width, kernel_t, stride, conv2=conv2)


def dilated_non_local(stage: int, index: int, in_chs: int, width: int, kernel_t: int, stride: Stride) -> Bottleneck3d:
    """``dilated``, with non-local blocks in the third stage."""
    block = dilated(stage, index, in_chs, width, kernel_t, stride)
    if stage == 3 and index in NON_LOCAL_BLOCKS:
        channels = width * Bottleneck3d.expansion
        block.non_local = NonLocal3d(channels, pool_input=True, out_bias=True, pool_time=True)
    return block


AUTHORS = {"roi_size": 7, "aligned": False, "drop_before_pool": False}  # how the authors of SlowFast cut out boxes
AUTHORS_SLOWFAST = {**AUTHORS, "alpha": 4, "lateral_norm": True, "slow_to_end": True}


def _slowonly(depth: int, **kwargs: Any) -> ResNet3dDetector:
    return ResNet3dDetector(stage_kernels(depth, (1, 1, 3, 3)), **kwargs)


def _slowfast(depth: int, **kwargs: Any) -> SlowFastDetector:
    return SlowFastDetector(depth, depth, **kwargs)


@register_model
def slowonly_roi_r50_4x16(**kwargs: Any) -> ResNet3dDetector:
    """Detector on SlowOnly, ResNet-50, 4 frames, one in sixteen."""
    return _slowonly(50, **kwargs)


@register_model
def slowonly_roi_r101_8x8(**kwargs: Any) -> ResNet3dDetector:
    """Detector on SlowOnly, ResNet-101, 8 frames, one in eight."""
    return _slowonly(101, **kwargs)


@register_model
def slowonly_dilated_roi_r50_4x16(**kwargs: Any) -> ResNet3dDetector:
    """Detector on SlowOnly, ResNet-50 with a dilated last stage, 4 frames, one in sixteen."""
    return _slowonly(50, **{"make_block": dilated, **AUTHORS, **kwargs})


@register_model
def slowfast_roi_r50_4x16(**kwargs: Any) -> SlowFastDetector:
    """Detector on SlowFast, ResNet-50; the slow pathway takes 4 of 32 frames."""
    return _slowfast(50, **{"alpha": 8, "lateral_kernel": 5, **kwargs})


@register_model
def slowfast_context_roi_r50_4x16(**kwargs: Any) -> SlowFastDetector:
    """Detector on SlowFast, ResNet-50, that sees the whole frame beside each box; the slow pathway takes 4 of 32."""
    return slowfast_roi_r50_4x16(**{"context": True, **kwargs})


@register_model
def slowfast_roi_r50_8x8(**kwargs: Any) -> SlowFastDetector:
    """Detector on SlowFast, ResNet-50; the slow pathway takes 8 of 32 frames."""
    return _slowfast(50, **{"alpha": 4, "lateral_kernel": 7, **kwargs})


@register_model
def slowfast_dilated_roi_r50_8x8(**kwargs: Any) -> SlowFastDetector:
    """Detector on the authors' SlowFast, ResNet-50 with a dilated last stage; the slow pathway takes 8 of 32 frames."""
    blocks = {"slow_block": dilated, "fast_block": dilated}
    return _slowfast(50, **{"lateral_kernel": 7, **AUTHORS_SLOWFAST, **blocks, **kwargs})


def _slowfast_nldot_r101(**kwargs: Any) -> SlowFastDetector:
    blocks = {"slow_block": dilated_non_local, "fast_block": dilated}
    return _slowfast(101, **{"lateral_kernel": 5, "layer3_blocks": 6, **AUTHORS_SLOWFAST, **blocks, **kwargs})


@register_model
def slowfast_nldot_roi_r101_8x8(**kwargs: Any) -> SlowFastDetector:
    """Detector on the authors' SlowFast, ResNet-101 with non-local blocks; the slow pathway takes 8 of 32 frames."""
    return _slowfast_nldot_r101(**kwargs)


@register_model
def slowfast_nldot_roi_r101_16x8(**kwargs: Any) -> SlowFastDetector:
    """Detector on the authors' SlowFast, ResNet-101 with non-local blocks; the slow pathway takes 16 of 64 frames."""
    return _slowfast_nldot_r101(**kwargs)
