"""Non-local block (Wang et al., CVPR 2018, arXiv:1711.07971)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .conv_norm import conv_norm

MODES = ("dot_product", "gaussian", "embedded_gaussian")


class NonLocal3d(nn.Module):
    """Self-attention over all positions of a clip, added to the input: ``(N, C, T, H, W)`` -> same shape.

    Args:
        channels: C of the input; the inner width is C // 2.
        mode: how two positions are compared. ``gaussian`` compares the input itself (no ``theta``, ``phi``),
            ``embedded_gaussian`` and ``dot_product`` its projections; the Gaussian modes normalise by a softmax over
            the keys, ``dot_product`` by their number.
        sub_sample: keys and values are max-pooled by 2 in space.
        pool_time: that pooling acts by 2 in time as well.
        use_scale: divide ``embedded_gaussian`` similarities by the square root of the inner width.
        pool_input: the pooling acts on the input of the projections to keys and values, not on their output.
        out_bias: the last convolution has a bias, though a norm follows it.
    """

    conv_norms = (("out", "norm"),)

    def __init__(
        self,
        channels: int,
        mode: str = "dot_product",
        sub_sample: bool = True,
        use_scale: bool = False,
        pool_input: bool = False,
        out_bias: bool = False,
        pool_time: bool = False,
    ):
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown non-local mode {mode!r}: choose one of {', '.join(MODES)}")
        inner = channels // 2
        self.mode = mode
        self.scale = inner**-0.5 if use_scale and mode == "embedded_gaussian" else 1.0
        self.theta = nn.Identity() if mode == "gaussian" else nn.Conv3d(channels, inner, 1)
        self.phi = nn.Identity() if mode == "gaussian" else nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        pool = nn.MaxPool3d((2 if pool_time else 1, 2, 2)) if sub_sample else nn.Identity()
        self.pool_before, self.pool = (pool, nn.Identity()) if pool_input else (nn.Identity(), pool)
        self.out = nn.Conv3d(inner, channels, 1, bias=out_bias)
        self.norm = nn.BatchNorm3d(channels)

    def init_weights(self) -> None:
        """Start as the identity: the norm's scale is zero."""
        for conv in (self.theta, self.phi, self.g, self.out):
            if isinstance(conv, nn.Conv3d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        self.norm.reset_parameters()
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.theta(x).flatten(2).transpose(1, 2)  # (N, THW, C')
        source = self.pool_before(x)
        key = self.pool(self.phi(source)).flatten(2)  # (N, C', keys)
        value = self.pool(self.g(source)).flatten(2).transpose(1, 2)  # (N, keys, C/2)
        similarity = query @ key  # (N, THW, keys)
        if self.mode == "dot_product":
            attention = similarity / similarity.shape[-1]
        else:
            attention = F.softmax(similarity * self.scale, dim=-1)
        y = (attention @ value).transpose(1, 2).unflatten(2, x.shape[2:])  # (N, C/2, T, H, W)
        return x + conv_norm(y, self.out, self.norm)
