"""Residual networks on the sound track's log-mel spectrogram.

``tsn_r18_64x1`` and ``tsn_r50_64x1`` are ordinary ResNets with one input channel (the sound stream of TSN);
``audioonly_r50_64x1`` is the audio pathway of Audiovisual SlowFast (Xiao et al., 2020, arXiv:2001.08740): half as wide,
without early pooling, its first convolutions split into one along time and one along frequency. Input
``(N, 1, T, F)``: T = 128 rows of F = 80 mel bands, the sound of 64 video frames (``videozoo.data.audio``). Features of
a stage are ``(N, C, T', F')``, their reduction is that of time and of frequency.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layers import ConvNorm, conv_norm
from ..registry import register_model
from .recognizer import FeatureInfo, Recognizer, level
from .resnet2d import DEPTHS, ResNet2d, conv_bn_shortcut, plain_block


def check_spectrogram(model: Recognizer, x: torch.Tensor) -> None:
    """Raise ValueError unless ``x`` is ``(N, in_chans, T, F)``."""
    if x.ndim != 4 or x.shape[1] != model.in_chans:
        raise ValueError(
            f"{model.title} expects spectrograms (N, {model.in_chans}, time, mel band), got {tuple(x.shape)}: "
            "use x[None] for one spectrogram, videozoo.data.audio.audio_views(path, config) for a file"
        )
    model.check_dtype(x)


class SpectrogramResNet(ResNet2d):
    """ResNet on spectrograms; arguments as of :class:`ResNet2d`."""

    input_dims = 4

    def __init__(self, depth: int, *, in_chans: int = 1, **kwargs: Any):
        super().__init__(depth, plain_block(depth), in_chans=in_chans, **kwargs)
        stages = [level(i["num_chs"], (i["reduction"][1],) * 2, i["module"]) for i in self.feature_info.info]
        self.feature_info = FeatureInfo(stages)

    def check_input(self, x: torch.Tensor) -> None:
        check_spectrogram(self, x)

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return self.frame_stage(index, x)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class SplitConv(nn.Module):
    """A convolution along time and one along frequency, side by side, each with norm and activation.

    ``(N, in_chs, T, F)`` -> both outputs, ``(N, out_chs, T / stride, F / stride)`` each.
    """

    def __init__(self, in_chs: int, out_chs: int, kernel: int, stride: int = 1):
        super().__init__()
        pad = kernel // 2
        self.time = ConvNorm(
            nn.Conv2d(in_chs, out_chs, (kernel, 1), stride, (pad, 0), bias=False),
            nn.BatchNorm2d(out_chs),
            nn.ReLU(inplace=True),
        )
        self.frequency = ConvNorm(
            nn.Conv2d(in_chs, out_chs, (1, kernel), stride, (0, pad), bias=False),
            nn.BatchNorm2d(out_chs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.time(x), self.frequency(x)


class AudioBottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions; the middle one has neither norm nor activation after it.

    ``split``: it is a :class:`SplitConv`, whose two outputs are joined as channels.
    """

    expansion = 4
    conv_norms = (("conv1", "bn1"), ("conv3", "bn3"))

    def __init__(self, in_chs: int, width: int, stride: int, split: bool):
        super().__init__()
        out_chs = width * self.expansion
        self.conv1 = nn.Conv2d(in_chs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.split = split
        self.conv2 = (
            SplitConv(width, width, 3, stride) if split else nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        )
        self.conv3 = nn.Conv2d(width * 2 if split else width, out_chs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_chs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_bn_shortcut(in_chs, out_chs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(conv_norm(x, self.conv1, self.bn1, self.relu))
        out = torch.cat(out, dim=1) if self.split else out
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(out, self.conv3, self.bn3, self.relu, shortcut)


class AudioOnly(Recognizer):
    """The audio pathway on its own: stem, then four stages of which the first two split their convolutions.

    Args:
        depth: 50, 101 or 152.
        num_classes, in_chans, drop_rate, init_std: see :class:`Recognizer`.
    """

    input_dims = 4
    first_conv = ("conv1.time.0", "conv1.frequency.0")

    def __init__(
        self, depth: int, *, num_classes: int = 400, in_chans: int = 1, drop_rate: float = 0.5, init_std: float = 0.01
    ):
        widths = (32, 64, 128, 256)
        stages = [level(w * AudioBottleneck.expansion, (2**i, 2**i), f"layer{i + 1}") for i, w in enumerate(widths)]
        super().__init__(
            num_classes=num_classes,
            num_features=widths[-1] * AudioBottleneck.expansion,
            in_chans=in_chans,
            feature_info=[level(widths[0], (1, 1), "relu"), *stages],
            drop_rate=drop_rate,
            init_std=init_std,
        )
        self.conv1 = SplitConv(in_chans, widths[0], 9)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        in_chs = widths[0]
        for stage, (width, count) in enumerate(zip(widths, DEPTHS[depth], strict=True), start=1):
            blocks = []
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(AudioBottleneck(in_chs, width, stride, split=stage < 3))
                in_chs = width * AudioBottleneck.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.init_weights()

    def check_input(self, x: torch.Tensor) -> None:
        check_spectrogram(self, x)

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if index > 0:
            return self.run_blocks(getattr(self, f"layer{index}"), x)
        over_time, over_frequency = self.conv1(x)
        return self.relu(self.bn1(over_time + over_frequency))  # (N, 32, T, F)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@register_model
def tsn_r18_64x1(**kwargs: Any) -> SpectrogramResNet:
    """ResNet-18 on the sound of 64 frames."""
    return SpectrogramResNet(18, **kwargs)


@register_model
def tsn_r50_64x1(**kwargs: Any) -> SpectrogramResNet:
    """ResNet-50 on the sound of 64 frames."""
    return SpectrogramResNet(50, **kwargs)


@register_model
def audioonly_r50_64x1(**kwargs: Any) -> AudioOnly:
    """Audio pathway of Audiovisual SlowFast, ResNet-50, on the sound of 64 frames."""
    return AudioOnly(50, **kwargs)
