"""Boxes of persons in frames, by a detector of torchvision: what action detection starts from if no boxes are given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.annotations import AnnotationError, read_json

DETECTORS = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssdlite320_mobilenet_v3_large",
)
PERSON = 1  # among torchvision's classes of COCO


def person_detector(name: str = DETECTORS[0], device: str | torch.device | None = None) -> nn.Module:
    """A detector of torchvision with its weights of COCO, in eval mode; torchvision downloads them when needed.

    Raises:
        ValueError: ``name`` is none of ``DETECTORS``.
        OSError: its weights are not there and cannot be downloaded.
    """
    if name not in DETECTORS:
        raise ValueError(f"there is no person detector {name!r}: choose one of {', '.join(DETECTORS)}")
    from torchvision.models import detection

    try:
        model = getattr(detection, name)(weights="DEFAULT")
    except OSError as error:
        raise OSError(f"the weights of {name} cannot be downloaded ({error}): give boxes of your own.") from error
    return model.eval().to(device) if device is not None else model.eval()


@torch.inference_mode()
def detect_persons(model: nn.Module, frames: np.ndarray | torch.Tensor, min_score: float = 0.9) -> list[np.ndarray]:
    """Persons in each of the frames, uint8 ``(T, H, W, 3)``: float64 ``(K, 5)``, x1, y1, x2, y2 in pixels and score.

    Best first, cut to the frame, without boxes that have no area. ``model`` is one of torchvision's detectors of COCO,
    or anything with their input (a list of RGB pictures ``(3, H, W)`` in 0..1) and output.
    """
    frames = torch.as_tensor(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {tuple(frames.shape)}")
    device = next(model.parameters()).device
    found = []
    for frame in frames:
        answer = model([frame.to(device).permute(2, 0, 1) / 255])[0]
        keep = (answer["labels"] == PERSON) & (answer["scores"] >= min_score)
        boxes, scores = answer["boxes"][keep].double().cpu(), answer["scores"][keep].double().cpu()
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([frame.shape[1], frame.shape[0]]).repeat(2))
        order = scores.argsort(descending=True, stable=True)
        rows = torch.cat((boxes, scores[:, None]), dim=1)[order]
        found.append(rows[(rows[:, 2:4] > rows[:, :2]).all(1)].numpy())
    return found


def read_boxes(path: str | os.PathLike[str]) -> dict[int, np.ndarray]:
    """A user's own boxes by frame number from 0: float64 ``(K, 5)``, pixels of the video and score.

    The file is JSON, ``{"frames": {"15": [[x1, y1, x2, y2, score], ...], ...}}``; the score may be left out (1).

    Raises:
        AnnotationError: it is not; the message names the frame.
    """
    table = read_json(Path(path))
    rows = table.get("frames") if isinstance(table, Mapping) else None
    if not isinstance(rows, Mapping):
        raise AnnotationError(f'{path}: expected {{"frames": {{"15": [[x1, y1, x2, y2, score], ...], ...}}}}.')
    return {_frame_number(path, key): _rows(path, key, value) for key, value in rows.items()}


def _frame_number(path: Any, key: str) -> int:
    if not key.isdecimal():
        raise AnnotationError(f"{path}: frames are numbered from 0, got {key!r}.")
    return int(key)


def _rows(path: Any, key: str, value: Any) -> np.ndarray:
    try:
        rows = [[*row, 1.0] if len(row) == 4 else row for row in value]
        boxes = np.asarray(rows, np.float64).reshape(len(rows), -1) if rows else np.zeros((0, 5))
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{path}, frame {key}: {error}; expected rows of x1, y1, x2, y2, score.") from error
    if boxes.shape[1] != 5 or not np.isfinite(boxes).all() or (boxes[:, 2:4] < boxes[:, :2]).any():
        raise AnnotationError(f"{path}, frame {key}: expected rows of x1 <= x2, y1 <= y2 in pixels, and score.")
    return boxes


def nearest_boxes(table: Mapping[int, np.ndarray], frames: Iterable[int], reach: int) -> Iterator[np.ndarray]:
    """For each frame the boxes of the nearest one in ``table`` that is at most ``reach`` frames away, else ``(0, 5)``.

    Of two equally near frames the earlier counts.
    """
    numbers = np.array(sorted(table), np.int64)
    for frame in frames:
        if len(numbers):
            near = int(numbers[np.argmin(np.abs(numbers - frame))])
            if abs(near - frame) <= reach:
                yield table[near]
                continue
        yield np.zeros((0, 5))
