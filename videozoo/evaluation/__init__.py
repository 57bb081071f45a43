"""Measuring models: metrics, protocols and reports."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recognition import evaluate
    from .result import EvaluationResult, compare

__all__ = ["EvaluationResult", "compare", "evaluate"]

_HOME = {"EvaluationResult": "result", "compare": "result", "evaluate": "recognition"}


def __getattr__(name: str):  # imported on first use: metrics and the command line need no torch
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOME[name]}", __name__), name)
