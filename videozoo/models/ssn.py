"""Structured Segment Network (Zhao et al., ICCV 2017, arXiv:1704.06228): classifies and refines proposals of segments.

A 2-D ResNet describes single frames. A proposal is described by three stages: what comes before it (starting), the
proposal itself (course) and what comes after (ending). The course alone decides the class (``activity``, background
first); all three together how complete the action is and how the borders should move (``completeness``,
``regression``, for each class).

``forward(frames, ticks, scales)`` takes sampled frames of one video as a clip ``(1, C, T, H, W)`` and proposals in
units of these samples; ``forward_proposals`` takes the few frames of each proposal that training draws.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import register_model
from .resnet2d import ResNet2d, plain_block

STAGES = (2, 5, 2)  # frames of starting, course and ending that training draws


class ProposalPredictions(NamedTuple):
    """Raw scores of K proposals.

    ``activity`` ``(K, 1 + num_classes)``, background first, before the softmax; ``completeness`` ``(K, num_classes)``;
    ``regression`` ``(K, num_classes, 2)``: shift of the centre in lengths of the proposal and log of the change of
    length, both normalised (see ``videozoo.localization.ssn_detections``).
    """

    activity: torch.Tensor
    completeness: torch.Tensor
    regression: torch.Tensor


def range_means(x: torch.Tensor, first: torch.Tensor, stop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of rows ``first`` to ``stop`` (excluded, at least one row) of ``x`` ``(T, C)``: ``(K, C)``.

    A range behind the last row gives zeros. The second result ``(K,)`` is 1, and 0 for those.
    """
    rows = torch.arange(x.shape[0], device=x.device)
    inside = (rows >= first[:, None]) & (rows < stop.maximum(first + 1)[:, None])
    count = inside.sum(1)
    return (inside / count.clamp(min=1)[:, None]).to(x.dtype) @ x, (count > 0).to(x.dtype)


def with_course(scales: torch.Tensor) -> torch.Tensor:
    """Weights of all three stages ``(K, 3)`` from those of starting and ending: the course counts in full."""
    return torch.stack((scales[:, 0], torch.ones_like(scales[:, 0]), scales[:, 1]), 1)


class SSN(ResNet2d):
    """ResNet over frames with the three heads of SSN.

    Args:
        depth: of the ResNet.
        num_classes: actions, background not counted; 0 leaves the heads out.
        in_chans: channels of a frame.
        drop_rate: dropout on the frames' pooled features.
    """

    task = "localization"

    def __init__(self, depth: int, *, num_classes: int = 20, in_chans: int = 3, drop_rate: float = 0.8):
        super().__init__(depth, plain_block(depth), num_classes=0, in_chans=in_chans, drop_rate=drop_rate)
        self.init_std = 0.001
        self._make_heads(num_classes)

    def _make_heads(self, num_classes: int) -> None:
        self.num_classes = num_classes
        sizes = {"activity": (1, num_classes + 1), "completeness": (3, num_classes), "regression": (3, num_classes * 2)}
        weight = self.conv1.weight
        for name, (stages, outputs) in sizes.items():
            layer: nn.Module = nn.Identity()
            if num_classes:
                layer = nn.Linear(self.num_features * stages, outputs, device=weight.device, dtype=weight.dtype)
            setattr(self, name, layer)
        self._init_heads()

    def _init_heads(self) -> None:
        for layer in (self.activity, self.completeness, self.regression):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=self.init_std)
                nn.init.zeros_(layer.bias)

    def init_weights(self) -> None:
        super().init_weights()
        if hasattr(self, "activity"):
            self._init_heads()

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The layer that tells actions from each other, or its name; two further heads depend on the classes."""
        return "activity" if name_only else self.activity

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New heads for ``num_classes`` actions; 0 = none."""
        super().reset_classifier(0, global_pool)
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} must be 0 (no heads) or more")
        self._make_heads(num_classes)

    def frame_features(self, frames: torch.Tensor) -> torch.Tensor:
        """Pooled features of frames: ``(N, C, T, H, W)`` -> ``(N, T, num_features)``."""
        return self.frame_drop(self.head_drop(self.forward_features(frames).mean((3, 4)))).transpose(1, 2)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Output of ``forward_features`` -> scores of the whole clip as one course, ``(N, 1 + num_classes)``."""
        if not self.global_pool:
            return x
        x = self.pool(x)
        return x if pre_logits else self.activity(x)

    def forward(self, frames: torch.Tensor, ticks: torch.Tensor, scales: torch.Tensor) -> ProposalPredictions:
        """Scores of the proposals of one video, as they are tested.

        Args:
            frames: ``(1, C, T, H, W)``, evenly sampled from the whole video.
            ticks: ``(K, 4)`` ints: beginnings of starting, course and ending and the end of ending, as indices of
                frames; a course is at least one frame long.
            scales: ``(K, 2)``: shares of the starting and the ending stage that lie inside the video.

        Raises:
            ValueError: several videos, or ticks that do not fit.
        """
        if len(frames) != 1:
            raise ValueError(
                f"{self.title} takes the frames of one video at a time, (1, C, T, H, W), got {len(frames)}"
            )
        return self.score(self.frame_features(frames)[0], ticks, scales)

    def score(self, features: torch.Tensor, ticks: torch.Tensor, scales: torch.Tensor) -> ProposalPredictions:
        """As ``forward``, from the frames' features ``(T, num_features)``."""
        if ticks.ndim != 2 or ticks.shape[1] != 4 or scales.shape != (ticks.shape[0], 2):
            raise ValueError(f"ticks must be (K, 4) and scales (K, 2), got {tuple(ticks.shape)}, {tuple(scales.shape)}")
        borders = ticks.to(features.device).unbind(1)
        ranges = [range_means(features, *pair) for pair in zip(borders, borders[1:], strict=False)]
        means, present = (torch.stack(parts, 1) for parts in zip(*ranges, strict=True))  # (K, 3, C), (K, 3)
        weights = present * with_course(scales.to(features))
        # The published test gives each stage a third of the bias, and weights that as it weights the stage.
        return self._predict(means, weights, weights.sum(1) / 3)

    def forward_proposals(self, frames: torch.Tensor, scales: torch.Tensor) -> ProposalPredictions:
        """Scores of K proposals, as they are trained.

        Args:
            frames: ``(K, C, 9, H, W)``: frames drawn for each proposal, 2 of the starting stage, 5 of the course and
                2 of the ending one.
            scales: ``(K, 2)``, as in ``forward``.
        """
        if frames.shape[2] != sum(STAGES) or scales.shape != (len(frames), 2):
            raise ValueError(
                f"{self.title} is trained on {sum(STAGES)} frames of each proposal and scales (K, 2), "
                f"got {tuple(frames.shape)} and {tuple(scales.shape)}"
            )
        features = self.frame_features(frames)  # (K, 9, num_features)
        means = torch.stack([stage.mean(1) for stage in features.split(STAGES, 1)], 1)
        return self._predict(means, with_course(scales.to(features)), scales.new_ones(len(frames)).to(features))

    def _predict(self, means: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> ProposalPredictions:
        """Heads on the stages' features ``(K, 3, C)`` with their weights ``(K, 3)``, biases times ``bias`` ``(K,)``."""
        if not self.num_classes:
            raise ValueError(f"{self.title} has no heads: create it with num_classes=, or use frame_features")
        staged = (means * weights[..., None]).flatten(1)
        completeness, regression = (
            F.linear(staged, head.weight) + bias[:, None] * head.bias for head in (self.completeness, self.regression)
        )
        return ProposalPredictions(
            self.activity(means[:, 1]), completeness, regression.unflatten(1, (self.num_classes, 2))
        )


@register_model
def ssn_r50(**kwargs: Any) -> SSN:
    """SSN, ResNet-50."""
    return SSN(50, **kwargs)
