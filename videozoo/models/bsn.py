"""Boundary Sensitive Network (Lin et al., ECCV 2018, arXiv:1806.02964): its two networks.

``bsn_tem`` (temporal evaluation) gives each of T = 100 positions of a video probabilities of action, start and end:
features ``(N, 400, T)``. Starts and ends are paired to candidates and described by 32 numbers each, without a network
(``videozoo.localization``); ``bsn_pem`` (proposal evaluation) scores the descriptions ``(N, 32, K)`` of K candidates.
Both scale their activations down a lot (by 0.01, and 0.1 twice): fresh networks say 0.5 everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import register_model
from .localizer import Localizer
from .recognizer import level


class BoundaryScores(NamedTuple):
    """Probabilities at each position, ``(N, T)`` each."""

    action: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor


class ProposalScores(NamedTuple):
    """Confidence of each candidate, ``(N, K)``: an estimate of its overlap with the best segment."""

    confidence: torch.Tensor


class TemporalEvaluation(Localizer):
    """TEM: three convolutions over time. T is free, the published networks were trained on 100 positions.

    Args:
        num_classes: must be 0.
        in_chans: width of the features.
        hidden: channels of both hidden layers.
    """

    SCALE = 0.01

    def __init__(self, *, num_classes: int = 0, in_chans: int = 400, hidden: int = 512):
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            num_features=hidden,
            feature_info=[level(hidden, (1, 1), "conv1"), level(hidden, (1, 1), "conv2")],
        )
        self.conv1 = nn.Conv1d(in_chans, hidden, 3, padding=1)
        self.conv2 = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.conv3 = nn.Conv1d(hidden, 3, 1)

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return F.relu((self.conv1, self.conv2)[index](x))

    def forward_head(self, x: torch.Tensor) -> BoundaryScores:
        return BoundaryScores(*torch.sigmoid(self.SCALE * self.conv3(x)).unbind(1))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that put parameters into groups from input to output."""
        return {"stem": r"^conv1\.", "blocks": r"^conv2\."}


class ProposalEvaluation(Localizer):
    """PEM: two linear layers on each candidate's description, ``(N, 32, K)`` -> ``(N, K)``.

    Args:
        num_classes: must be 0.
        in_chans: length of a description.
        hidden: width of the hidden layer.
    """

    SCALE = 0.1  # of both layers

    def __init__(self, *, num_classes: int = 0, in_chans: int = 32, hidden: int = 256):
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            num_features=hidden,
            feature_info=[level(hidden, (1, 1), "fc1")],
        )
        self.fc1 = nn.Linear(in_chans, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.SCALE * self.fc1(x.mT)).mT  # (N, hidden, K)

    def forward_head(self, x: torch.Tensor) -> ProposalScores:
        return ProposalScores(torch.sigmoid(self.SCALE * self.fc2(x.mT)).squeeze(-1))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that put parameters into groups from input to output."""
        return {"stem": r"^fc1\."}


@register_model
def bsn_tem(**kwargs) -> TemporalEvaluation:
    """BSN, temporal evaluation: probabilities of action, start and end at each position."""
    return TemporalEvaluation(**kwargs)


@register_model
def bsn_pem(**kwargs) -> ProposalEvaluation:
    """BSN, proposal evaluation: confidence of candidates."""
    return ProposalEvaluation(**kwargs)
