"""C3D (Tran et al., ICCV 2015, arXiv:1412.0767).

VGG in three dimensions: eight 3x3x3 convolutions with bias and without norm, max pools, two fully connected layers
before the classifier. Those tie it to its input: ``(N, 3, 16, 112, 112)``, 16 consecutive frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers import conv_norm
from ..registry import register_model
from .recognizer import Recognizer, level

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # output channels of the convolutions between two pools
FRAMES, SIZE = 16, 112
FLAT = 512 * 4 * 4  # what the last pool leaves of a clip


class ConvReLU(nn.Module):
    """A 3x3x3 convolution and ReLU."""

    conv_norms = (("conv", None),)

    def __init__(self, in_chs: int, out_chs: int):
        super().__init__()
        self.conv = nn.Conv3d(in_chs, out_chs, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv_norm(x, self.conv, None, self.relu)


class C3D(Recognizer):
    """C3D; features of a stage are those before the pool that ends it.

    Args:
        drop_rate: dropout after each of the two fully connected layers.
        num_classes, in_chans, init_std: see :class:`Recognizer`.
    """

    first_conv = ("layer1.0.conv",)
    num_frames = FRAMES
    fixed_size = SIZE

    def __init__(self, *, num_classes: int = 101, in_chans: int = 3, drop_rate: float = 0.5, init_std: float = 0.01):
        reductions = ((1, 1), (1, 2), (2, 4), (4, 8), (8, 16))
        super().__init__(
            num_classes=num_classes,
            num_features=4096,
            in_chans=in_chans,
            feature_info=[
                level(chs[-1], reduction, f"layer{i}")
                for i, (chs, reduction) in enumerate(zip(STAGES, reductions, strict=True), start=1)
            ],
            drop_rate=drop_rate,
            init_std=init_std,
        )
        self.pool1 = nn.MaxPool3d((1, 2, 2), (1, 2, 2))
        self.pool2 = self.pool3 = self.pool4 = nn.MaxPool3d(2, 2)
        self.pool5 = nn.MaxPool3d(2, 2, padding=(0, 1, 1))
        in_chs = in_chans
        for stage, widths in enumerate(STAGES, start=1):
            blocks = []
            for width in widths:
                blocks.append(ConvReLU(in_chs, width))
                in_chs = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc6 = nn.Linear(FLAT, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu = nn.ReLU(inplace=True)
        self.fc_drop = nn.Dropout(drop_rate)
        self.init_weights()

    def init_weights(self) -> None:
        super().init_weights()
        for layer in (self.fc6, self.fc7):
            nn.init.normal_(layer.weight, std=0.005)
            nn.init.zeros_(layer.bias)

    def check_input(self, x: torch.Tensor) -> None:
        super().check_input(x)
        if tuple(x.shape[2:]) != (FRAMES, SIZE, SIZE):
            raise ValueError(
                f"C3D takes clips of {FRAMES} frames of {SIZE}x{SIZE} pixels, because its fully connected layers fit "
                f"no other size, got {tuple(x.shape[2:])}: sample {FRAMES} frames and resize or crop them"
            )

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if index > 0:
            x = getattr(self, f"pool{index}")(x)
        return self.run_blocks(getattr(self, f"layer{index + 1}"), x)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool5(x).flatten(1)  # (N, 8192)
        x = self.fc_drop(self.relu(self.fc6(x)))
        return self.relu(self.fc7(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)", "fully_connected": r"^fc([67])\."}


@register_model
def c3d_16x1(**kwargs: Any) -> C3D:
    """C3D, 16 consecutive frames of 112x112 pixels."""
    return C3D(**kwargs)
