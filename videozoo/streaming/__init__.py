"""Predictions while video is coming in: windows of frames, sources that are not finished, TSM frame by frame."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .online import OnlineTSM
    from .stream import Stream, StreamScores

_HOMES = {"online": ("OnlineTSM",), "stream": ("Stream", "StreamScores")}

__all__ = ["OnlineTSM", "Stream", "StreamScores"]

__getattr__, __dir__ = attach(__name__, _HOMES)
