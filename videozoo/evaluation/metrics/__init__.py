"""Metrics of recognition and temporal localisation: arrays in, numbers out. No model or data set is known here."""

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
from .temporal import average_recall, detection_average_precision, detection_map, thumos14_map

__all__ = [
    "METRICS",
    "average_clips",
    "average_precision",
    "average_recall",
    "confusion_matrix",
    "detection_average_precision",
    "detection_map",
    "evaluate",
    "fuse_scores",
    "hvu_mean_average_precision",
    "many_hot",
    "mean_average_precision",
    "mean_class_accuracy",
    "mmit_mean_average_precision",
    "precision_recall_curve",
    "softmax",
    "thumos14_map",
    "top_k_accuracy",
]
