"""What the networks on feature sequences offer beside their layers (BMN and the two stages of BSN).

They find where something happens, not what: ``num_classes`` is 0 and there is no classifier to replace. Their output
is a tuple of named tensors; ``videozoo.localization`` makes scored segments of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .recognizer import FeatureInfo, resolve_indices


class Localizer(nn.Module):
    """Base of localisers on features: ``(N, in_chans, T)`` -> named tensors.

    Args:
        num_classes: must be 0, these networks know no classes.
        in_chans: width of the features.
        num_features: width of the last hidden features.
        feature_info: the stages, in order, as made by ``level``.

    Raises:
        ValueError: ``num_classes`` is not 0.
    """

    task = "localization"
    input_dims = 3
    first_conv: tuple[str, ...] = ()  # features of another width need another network, there is nothing to adapt
    num_frames: int | None = None  # positions that the network is tied to, if any

    def __init__(self, *, num_classes: int, in_chans: int, num_features: int, feature_info: Sequence[dict[str, Any]]):
        super().__init__()
        if num_classes:
            raise ValueError(
                f"num_classes={num_classes}: {type(self).__name__} finds segments and knows no classes; leave it out, "
                "and label the segments with the scores of a classifier (videozoo.localization.label_segments)"
            )
        self.num_classes = 0
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = num_features
        self.feature_info = FeatureInfo(feature_info)
        self.pretrained_cfg: dict[str, Any] = {}

    @property
    def title(self) -> str:
        """What messages call the model: its architecture, where it was made by name."""
        return self.pretrained_cfg.get("architecture") or type(self).__name__

    def check_input(self, x: torch.Tensor) -> None:
        """Raise ValueError unless ``x`` is floating point ``(N, in_chans, T >= 1)``, with T = ``num_frames`` if set."""
        if x.ndim != 3 or x.shape[1] != self.in_chans or not x.shape[2]:
            raise ValueError(
                f"{self.title} expects features (N, {self.in_chans}, T), got {tuple(x.shape)}: use x[None] for one "
                "video, x.mT where time comes first, or create the model with in_chans=... for another width"
            )
        if self.num_frames is not None and x.shape[2] != self.num_frames:
            raise ValueError(
                f"{self.title} takes {self.num_frames} positions, got {x.shape[2]}: resample the features "
                f"(videozoo.data.localization.resample_features) or create the model with num_frames={x.shape[2]}"
            )
        if not x.is_floating_point():
            raise ValueError(f"{self.title} expects floating-point features, got {x.dtype}: use x.float()")

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Stage ``index`` of ``feature_info``: from the output of the one before (0: from the input)."""
        raise TypeError(f"{type(self).__name__} must define forward_stage")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Features before the output layers, ``(N, num_features, T)``."""
        return self.forward_intermediates(x)[0]

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of chosen stages, each ``(N, C, T)``; arguments and result as of a recogniser's."""
        self.check_input(x)
        wanted = resolve_indices(indices, len(self.feature_info))
        last = max(wanted) if stop_early and wanted else len(self.feature_info) - 1
        outputs = {}
        for index in range(last + 1):
            x = self.forward_stage(index, x)
            outputs[index] = x
        intermediates = [outputs[i] for i in wanted]
        return intermediates if intermediates_only else (x, intermediates)

    def forward_head(self, x: torch.Tensor) -> Any:
        """Output of ``forward_features`` -> the model's named tensors."""
        raise TypeError(f"{type(self).__name__} must define forward_head")

    def forward(self, x: torch.Tensor) -> Any:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """There is no classifier: ValueError for any number of classes but 0."""
        if num_classes:
            raise ValueError(f"{self.title} knows no classes: it can have no classifier of {num_classes}")

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are never decayed."""
        return set()

    def init_weights(self) -> None:
        """Fill every parameter afresh, as PyTorch does by default."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                module.reset_parameters()
