"""TSM frame by frame: each shifted block keeps what it needs of the frame before (Lin et al., ICCV 2019)."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from .. import catalog
from ..layers import TemporalShift
from ..prediction import eval_mode, full_name


class OnlineTSM:
    """A causal TSM that takes one frame at a time, at the cost of one frame.

    After T frames the mean of its logits is what the model itself gives for the clip of these T frames (the model built
    with ``num_frames=T``), and it goes on without end: what is kept does not grow. Several of them can share a model,
    though not at the same time in several threads; the model stays as it is.

    Args:
        model: a TSM made with ``causal=True``, whose shifts come from the past only. Published weights were trained
            with shifts in both directions; they load, but need training in this form, which a warning says.

    Raises:
        ValueError: ``model`` is no TSM, or its shifts look ahead.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._shifts = [module for module in model.modules() if isinstance(module, TemporalShift)]
        name = full_name(getattr(model, "pretrained_cfg", {}))
        if not self._shifts or not hasattr(model, "frame_stage"):
            raise ValueError(f"{name} is no TSM, so it does not work frame by frame: leave out online=True.")
        if not all(shift.causal for shift in self._shifts):
            raise ValueError(
                f"{name} shifts features from the future, too: make it with videozoo.create_model(..., causal=True)."
            )
        if getattr(model, "has_published_weights", False) and catalog.find_entry(name):
            warnings.warn(
                f"the weights of {name} were trained with shifts in both directions: "
                "train the causal model before you trust its scores.",
                stacklevel=2,
            )
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one begins a stream, and may have another size."""
        self._past: list[torch.Tensor | None] = [None] * len(self._shifts)
        self._shape: torch.Size | None = None

    @torch.inference_mode()
    def push(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, classes)`` of the next frame of N streams, normalised float ``(N, C, H, W)``.

        Raises:
            ValueError: another shape than that of the frames before.
        """
        if frames.ndim != 4:
            raise ValueError(
                f"expected the next frame of N streams, (N, C, H, W), got {tuple(frames.shape)}: use x[None] for one."
            )
        if self._shape not in (None, frames.shape):
            raise ValueError(
                f"frames {tuple(frames.shape)} follow on frames {tuple(self._shape)}: keep the shape, or call reset()."
            )
        for shift, past in zip(self._shifts, self._past, strict=True):
            shift.is_online, shift.past = True, past
        try:
            with eval_mode(self.model):
                x = frames[:, :, None]  # (N, C, 1, H, W)
                for stage in range(len(self.model.feature_info)):
                    x = self.model.forward_stage(stage, x)
                logits = self.model.forward_head(self.model.as_features(x))
            self._past, self._shape = [shift.past for shift in self._shifts], frames.shape
        finally:
            for shift in self._shifts:
                shift.is_online, shift.past = False, None
        return logits
