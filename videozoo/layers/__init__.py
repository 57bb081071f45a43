"""Blocks that have a name in the literature and several users among the models."""

from .checkpointing import checkpoint_block
from .non_local import NonLocal3d
from .pooling import window_means
from .temporal_shift import TemporalShift

__all__ = ["NonLocal3d", "TemporalShift", "checkpoint_block", "window_means"]
