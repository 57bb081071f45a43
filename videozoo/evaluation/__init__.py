"""Measuring models: metrics, protocols and reports."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .detection import evaluate_detector
    from .recognition import evaluate
    from .result import EvaluationResult, compare

_HOMES = {
    "detection": ("evaluate_detector",),
    "recognition": ("evaluate",),
    "result": ("EvaluationResult", "compare"),
}

__all__ = [
    "EvaluationResult",
    "compare",
    "evaluate",
    "evaluate_detector",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
