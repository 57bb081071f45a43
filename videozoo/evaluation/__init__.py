"""Measuring models: metrics, protocols and reports."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .recognition import evaluate
    from .result import EvaluationResult, compare

_HOMES = {
    "recognition": ("evaluate",),
    "result": ("EvaluationResult", "compare"),
}

__all__ = [
    "EvaluationResult",
    "compare",
    "evaluate",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
