"""Temporal Pyramid Network (Yang et al., CVPR 2020, arXiv:2004.03548).

A neck over the last two stages of a ResNet, taken as slow and fast tempo: both are brought to one size and summed over
time windows, exchange information top-down and bottom-up, and are joined before the classifier. Trunks are SlowOnly,
input ``(N, 3, T, H, W)`` with T = 8 frames, one in eight, and TSM, ``(N, 3, 8, H, W)``, 8 frames spread over the video.

An auxiliary classifier on the third stage supports training. It is part of the published weights, but of no result:
``forward`` returns the logits of the main classifier in training, too; ``forward_auxiliary`` gives both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers import ConvNorm
from ..registry import register_model
from .recognizer import Recognizer, level
from .resnet2d import ResNet2d
from .resnet3d import ResNet3d, stage_kernels
from .tsm import shifted_block

TRUNK_CHS = (1024, 2048)  # of the two levels, as the trunk gives them
CHS = 1024  # of each level inside the pyramid
OUT_CHS = 2048  # of the whole
FRAMES = 8  # pooled into one

Levels = list[torch.Tensor]


def conv_bn_relu(in_chs: int, out_chs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> ConvNorm:
    """Convolution in space, norm and activation; it does not see neighbouring frames."""
    space, padding = (1, stride, stride), (0, kernel // 2, kernel // 2)
    conv = nn.Conv3d(in_chs, out_chs, (1, kernel, kernel), space, padding, groups=groups, bias=False)
    return ConvNorm(conv, nn.BatchNorm3d(out_chs), nn.ReLU(inplace=True))


def temporal_conv(in_chs: int, groups: int) -> nn.Conv3d:
    return nn.Conv3d(in_chs, CHS, (3, 1, 1), padding=(1, 0, 0), groups=groups, bias=False)


class LevelFusion(nn.Module):
    """Two levels ``(N, CHS, T, H, W)`` -> their combination ``(N, OUT_CHS, T, H, W)``."""

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(conv_bn_relu(CHS, CHS, groups=32) for _ in TRUNK_CHS)
        self.fuse = conv_bn_relu(len(TRUNK_CHS) * CHS, OUT_CHS)

    def forward(self, levels: Levels) -> torch.Tensor:
        return self.fuse(torch.cat([conv(x) for conv, x in zip(self.levels, levels, strict=True)], dim=1))


class TemporalPyramid(nn.Module):
    """Features of layer3 ``(N, 1024, T, 2H, 2W)`` and layer4 ``(N, 2048, T, H, W)`` -> ``(N, 2048, T / 8, H, W)``."""

    def __init__(self):
        super().__init__()
        self.spatial = conv_bn_relu(*TRUNK_CHS, kernel=3, stride=2)
        self.temporal = nn.ModuleList(temporal_conv(TRUNK_CHS[-1], groups=32) for _ in TRUNK_CHS)
        self.pool = nn.MaxPool3d((FRAMES, 1, 1), ceil_mode=True)
        self.top_down = LevelFusion()
        self.up = temporal_conv(CHS, groups=1)
        self.bottom_up = LevelFusion()
        self.fuse = conv_bn_relu(2 * OUT_CHS, OUT_CHS)

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, fast: torch.Tensor, slow: torch.Tensor) -> torch.Tensor:
        fast, slow = (self.pool(conv(x)) for conv, x in zip(self.temporal, (self.spatial(fast), slow), strict=True))
        fast = fast + slow
        top_down = self.top_down([fast, slow])
        bottom_up = self.bottom_up([fast, slow + self.up(fast)])
        return self.fuse(torch.cat((top_down, bottom_up), dim=1))


class AuxiliaryHead(nn.Module):
    """Classifier of layer3's features, ``(N, 1024, T, H, W)`` -> logits ``(N, num_classes)``."""

    def __init__(self, num_classes: int, drop_rate: float):
        super().__init__()
        self.conv = conv_bn_relu(*TRUNK_CHS, kernel=3, stride=2)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(TRUNK_CHS[-1], num_classes)

    def init_weights(self) -> None:
        nn.init.xavier_uniform_(self.conv[0].weight)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.conv(x).mean((2, 3, 4))))


class TPN(Recognizer):
    """A trunk with the pyramid as its fifth stage.

    Args:
        trunk: network without classifier whose ``layer3`` and ``layer4`` the pyramid stands on.
        num_classes, drop_rate, init_std: see :class:`Recognizer`; without classes there is no auxiliary head either.
    """

    first_conv = ("trunk.conv1",)
    auxiliary_classifier = "aux.fc"

    def __init__(self, trunk: ResNet2d | ResNet3d, *, num_classes: int, drop_rate: float, init_std: float):
        stages = [{**stage, "module": f"trunk.{stage['module']}"} for stage in trunk.feature_info.info]
        super().__init__(
            num_classes=num_classes,
            num_features=OUT_CHS,
            in_chans=trunk.in_chans,
            feature_info=[*stages, level(OUT_CHS, (FRAMES, 32), "neck")],
            drop_rate=drop_rate,
            init_std=init_std,
        )
        self.num_frames = trunk.num_frames
        self.trunk = trunk
        self.neck = TemporalPyramid()
        self.aux = self._auxiliary_head(num_classes)
        self.init_weights()

    def _auxiliary_head(self, num_classes: int) -> AuxiliaryHead | None:
        return AuxiliaryHead(num_classes, self.head_drop.p) if num_classes else None

    def check_input(self, x: torch.Tensor) -> None:
        super().check_input(x)
        self.trunk.check_input(x)

    def forward_stage(self, index: int, x: Any) -> Any:
        if index == 5:
            return self.neck(*x)
        out = self.trunk.forward_stage(index, x)
        return (x, out) if index == 4 else out  # the pyramid needs layer3 as well

    def as_features(self, x: Any) -> torch.Tensor:
        return x[-1] if isinstance(x, tuple) else x

    def forward_auxiliary(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the main and of the auxiliary classifier, each ``(N, num_classes)``, for clips ``(N, C, T, H, W)``.

        The published training adds half of the auxiliary cross entropy to the main one. ValueError if the model has no
        classifier.
        """
        if self.aux is None:
            raise ValueError("this TPN has no classifier: create it with num_classes of at least 1")
        x = self.prepare_input(x)
        for index in range(5):
            x = self.forward_stage(index, x)
        return self.forward_head(self.neck(*x)), self.aux(x[0])

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As of every model; the auxiliary head is made anew or removed with the classifier."""
        super().reset_classifier(num_classes, global_pool)
        weight = self.neck.up.weight
        with torch.device(weight.device):
            self.aux = self._auxiliary_head(num_classes)
        if self.aux is not None:
            self.aux.to(weight.dtype)
            self.aux.init_weights()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        block = r"^trunk\.layer(\d+)" if coarse else r"^trunk\.layer(\d+)\.(\d+)"
        return {"stem": r"^trunk\.(?:conv1|bn1)\.", "blocks": block, "neck": r"^neck\."}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        super().set_grad_checkpointing(enable)
        self.trunk.set_grad_checkpointing(enable)


def _tpn(trunk: ResNet2d | ResNet3d, *, num_classes: int = 400, drop_rate: float = 0.5, init_std: float = 0.01) -> TPN:
    return TPN(trunk, num_classes=num_classes, drop_rate=drop_rate, init_std=init_std)


@register_model
def tpn_slowonly_r50_8x8(*, in_chans: int = 3, **kwargs: Any) -> TPN:
    """TPN on SlowOnly, ResNet-50, 8 frames, one in eight."""
    return _tpn(ResNet3d(stage_kernels(50, (1, 1, 3, 3)), num_classes=0, in_chans=in_chans), **kwargs)


@register_model
def tpn_tsm_r50_f8(*, in_chans: int = 3, num_frames: int = 8, **kwargs: Any) -> TPN:
    """TPN on TSM, ResNet-50, 8 frames."""
    trunk = ResNet2d(50, shifted_block(50, num_frames), num_classes=0, in_chans=in_chans, num_frames=num_frames)
    return _tpn(trunk, **kwargs)
