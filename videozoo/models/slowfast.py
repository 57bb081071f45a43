"""SlowFast (Feichtenhofer et al., ICCV 2019, arXiv:1812.03982).

Two 3-D ResNets on one clip: the slow pathway sees every ``alpha``-th frame with many channels, the fast pathway all
frames with an eighth of them; lateral convolutions with stride ``alpha`` in time bring fast features to the slow
pathway. Input ``(N, 3, T, H, W)``, T = 32 or 64 frames, one in two, a multiple of ``alpha``; the pathways are made
inside. Features of a stage are a pair (slow, fast). The authors' own networks differ from MMAction2's in two ways:
lateral convolutions have a norm, and the slow pathway's frames reach from the first to the last of the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import nn

from ..layers import Conv3d, conv_norm, window_means
from ..registry import register_model
from .recognizer import Recognizer, level
from .resnet3d import SPATIAL_STRIDES, ResNet3d, Stem, Stride, TemporalKernels, bottleneck, stage_kernels

FAST_WIDTH = 8  # channels of the fast pathway's stem, an eighth of the slow one's
FUSION_RATIO = 2  # a lateral convolution doubles the fast channels

Pathways = tuple[torch.Tensor, torch.Tensor]


def _kernels(depth: int, per_stage: tuple[int, ...], layer3_blocks: int | None) -> TemporalKernels:
    """``stage_kernels``, where only the first ``layer3_blocks`` blocks of layer3 have a temporal kernel; None: all."""
    kernels = stage_kernels(depth, per_stage)
    if layer3_blocks is not None:
        kernels[2][layer3_blocks:] = [1] * (len(kernels[2]) - layer3_blocks)
    return kernels


class SlowFast(Recognizer):
    """SlowFast network.

    Args:
        slow_depth: depth of the slow ResNet.
        fast_depth: depth of the fast ResNet.
        alpha: the slow pathway takes one frame in alpha.
        lateral_kernel: temporal kernel of the lateral convolutions.
        lateral_norm: a batch norm and a ReLU follow them.
        slow_to_end: the slow pathway's frames are spread evenly from the clip's first to its last frame, rounded down,
            rather than every alpha-th frame.
        layer3_blocks: only so many blocks of layer3 have a temporal kernel, in both pathways; None: all.
        pool_window: side of the window that the head slides over the features; 0: it averages over all of space.
        strides, slow_block, fast_block: strides of the stages and ``make_block`` of each pathway, see
            :class:`ResNet3d`.
        **head: num_classes, in_chans, drop_rate, init_std: see :class:`Recognizer`.
    """

    first_conv = ("slow.conv1", "fast.conv1")
    conv_norms = tuple((f"lateral{i}", f"lateral_norm{i}.0") for i in range(1, 5))

    def __init__(
        self,
        slow_depth: int,
        fast_depth: int,
        *,
        alpha: int,
        lateral_kernel: int,
        lateral_norm: bool = False,
        slow_to_end: bool = False,
        layer3_blocks: int | None = None,
        pool_window: int = 0,
        strides: Sequence[Stride] = SPATIAL_STRIDES,
        slow_block: Callable[..., nn.Module] = bottleneck,
        fast_block: Callable[..., nn.Module] = bottleneck,
        in_chans: int = 3,
        **head: Any,
    ):
        slow_chs, fast_chs = (64, 256, 512, 1024, 2048), (8, 32, 64, 128, 256)
        names = ("relu", "layer1", "layer2", "layer3", "layer4")
        space = (2, *list(accumulate((stride[1] for stride in strides), mul, initial=4))[1:])
        super().__init__(
            num_features=slow_chs[-1] + fast_chs[-1],
            in_chans=in_chans,
            feature_info=[
                level((slow_chs[i], fast_chs[i]), ((alpha, space[i]), (1, space[i])), f"slow.{name}")
                for i, name in enumerate(names)
            ],
            **{"num_classes": 400, **head},
        )
        self.alpha = self.min_frames = alpha
        self.slow_to_end = slow_to_end
        self.pool_window = pool_window
        lateral_chs = [chs * FUSION_RATIO for chs in fast_chs[:4]]
        self.slow = ResNet3d(
            _kernels(slow_depth, (1, 1, 3, 3), layer3_blocks),
            make_block=slow_block,
            strides=strides,
            extra_chs=lateral_chs,
            num_classes=0,
            in_chans=in_chans,
        )
        self.fast = ResNet3d(
            _kernels(fast_depth, (3, 3, 3, 3), layer3_blocks),
            make_block=fast_block,
            strides=strides,
            stem=Stem((5, 7, 7)),
            base_width=FAST_WIDTH,
            num_classes=0,
            in_chans=in_chans,
        )
        kernel, padding = (lateral_kernel, 1, 1), (lateral_kernel // 2, 0, 0)
        for i, chs in enumerate(fast_chs[:4], start=1):  # lateral{i} feeds slow.layer{i}
            conv = Conv3d(chs, chs * FUSION_RATIO, kernel, (alpha, 1, 1), padding, bias=False)
            norm = [nn.BatchNorm3d(chs * FUSION_RATIO), nn.ReLU(inplace=True)] if lateral_norm else [nn.Identity()]
            setattr(self, f"lateral{i}", conv)
            setattr(self, f"lateral_norm{i}", nn.Sequential(*norm))
        self.init_weights()

    def check_input(self, x: torch.Tensor) -> None:
        super().check_input(x)
        if x.shape[2] % self.alpha:
            raise ValueError(
                f"{self.title} takes clips of a multiple of {self.alpha} frames (one in {self.alpha} goes to the "
                f"slow pathway), got {x.shape[2]}"
            )

    def slow_frames(self, x: torch.Tensor) -> torch.Tensor:
        """The slow pathway's share of a clip: ``(N, C, T, H, W)`` -> ``(N, C, T / alpha, H, W)``."""
        if not self.slow_to_end:
            return x[:, :, :: self.alpha]
        last, steps = x.shape[2] - 1, x.shape[2] // self.alpha - 1
        frames = [i * last // max(steps, 1) for i in range(steps + 1)]
        return x[:, :, frames]

    def forward_stage(self, index: int, x: Any) -> Pathways:
        slow, fast = (self.slow_frames(x), x) if index == 0 else x
        del x  # it may be freed within the stage
        if index == 1:  # the stems' pools come before the first lateral connection
            slow, fast = self.slow.maxpool(slow), self.fast.maxpool(fast)
        if index > 0:
            lateral, norm = getattr(self, f"lateral{index}"), getattr(self, f"lateral_norm{index}")
            slow = torch.cat((slow, conv_norm(fast, lateral, *norm)), dim=1)
            slow_blocks, fast_blocks = getattr(self.slow, f"layer{index}"), getattr(self.fast, f"layer{index}")
            return self.run_blocks(slow_blocks, slow), self.run_blocks(fast_blocks, fast)
        return self.slow.forward_stage(0, slow), self.fast.forward_stage(0, fast)

    def pool_windows(self, x: Pathways) -> torch.Tensor:
        slow, fast = (window_means(pathway, self.pool_window) for pathway in x)
        return torch.cat((fast, slow), dim=2)  # fast first, as in MMAction2's heads

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """A lateral connection and its norm are a layer of their own before the first blocks of the stage they feed."""
        block = r"^(?:(?:slow|fast)\.layer(\d+)" + ("" if coarse else r"\.(\d+)") + r"|lateral(?:_norm)?(\d+))\."
        return {"stem": r"^(?:slow|fast)\.(?:conv1|bn1)\.", "blocks": block}

    def init_weights(self) -> None:
        self.slow.init_weights()
        self.fast.init_weights()
        for conv in (self.lateral1, self.lateral2, self.lateral3, self.lateral4):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for norm in (self.lateral_norm1, self.lateral_norm2, self.lateral_norm3, self.lateral_norm4):
            if isinstance(norm[0], nn.BatchNorm3d):
                norm[0].reset_parameters()
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=self.init_std)
            nn.init.zeros_(self.fc.bias)


@register_model
def slowfast_r50_4x16(**kwargs: Any) -> SlowFast:
    """SlowFast, ResNet-50; the slow pathway takes 4 of 32 frames."""
    return SlowFast(50, 50, **{"alpha": 8, "lateral_kernel": 5, **kwargs})


@register_model
def slowfast_r50_8x8(**kwargs: Any) -> SlowFast:
    """SlowFast, ResNet-50; the slow pathway takes 8 of 32 frames."""
    return SlowFast(50, 50, **{"alpha": 4, "lateral_kernel": 7, **kwargs})


@register_model
def slowfast_r101_8x8(**kwargs: Any) -> SlowFast:
    """SlowFast, ResNet-101 in both pathways; the slow one takes 8 of 32 frames."""
    return SlowFast(101, 101, **{"alpha": 4, "lateral_kernel": 7, **kwargs})


@register_model
def slowfast_r101r50_4x16(**kwargs: Any) -> SlowFast:
    """SlowFast, slow ResNet-101, fast ResNet-50; the slow pathway takes 4 of 32 frames."""
    return SlowFast(101, 50, **{"alpha": 8, "lateral_kernel": 5, **kwargs})


@register_model
def slowfast_r152r50_4x16(**kwargs: Any) -> SlowFast:
    """SlowFast, slow ResNet-152, fast ResNet-50; the slow pathway takes 4 of 32 frames."""
    return SlowFast(152, 50, **{"alpha": 8, "lateral_kernel": 5, **kwargs})


@register_model
def slowfast_r50_16x8(**kwargs: Any) -> SlowFast:
    """SlowFast, ResNet-50; the slow pathway takes 16 of 64 frames."""
    return SlowFast(50, 50, **{"alpha": 4, "lateral_kernel": 7, **kwargs})


@register_model
def slowfast_r101_16x8(**kwargs: Any) -> SlowFast:
    """SlowFast, ResNet-101 with few temporal kernels in both pathways; the slow one takes 16 of 64 frames."""
    return SlowFast(101, 101, **{"alpha": 4, "lateral_kernel": 5, "layer3_blocks": 6, **kwargs})
