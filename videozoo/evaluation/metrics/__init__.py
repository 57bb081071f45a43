"""Metrics of recognition: arrays in, numbers out. Nothing here knows a model or a data set."""

from .classification import (
    average_clips,
    confusion_matrix,
    fuse_scores,
    mean_class_accuracy,
    softmax,
    top_k_accuracy,
)
from .multilabel import (
    average_precision,
    hvu_mean_average_precision,
    many_hot,
    mean_average_precision,
    mmit_mean_average_precision,
    precision_recall_curve,
)
from .summary import METRICS, evaluate

__all__ = [
    "METRICS",
    "average_clips",
    "average_precision",
    "confusion_matrix",
    "evaluate",
    "fuse_scores",
    "hvu_mean_average_precision",
    "many_hot",
    "mean_average_precision",
    "mean_class_accuracy",
    "mmit_mean_average_precision",
    "precision_recall_curve",
    "softmax",
    "top_k_accuracy",
]
