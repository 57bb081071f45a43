"""Boxes of persons in frames, by a detector of torchvision: what action detection starts from if no boxes are given."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import VideoReader
from ..data.annotations import AnnotationError, read_json
from ..data.ava import file_start, film_name, read_proposals
from ..data.regions import AVA_FPS

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
    from torchvision.models import detection, get_model_weights

    try:
        model = getattr(detection, name)(weights="DEFAULT")
    except OSError as error:
        raise OSError(
            f"the weights of {name} cannot be downloaded ({error}): give boxes of your own, or put "
            f"{get_model_weights(name).DEFAULT.url} into {torch.hub.get_dir()}/checkpoints."
        ) from error
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


def person_source(
    name: str = DETECTORS[0], device: str | torch.device | None = None, min_score: float = 0.9
) -> Callable[[np.ndarray], np.ndarray]:
    """What finds the persons ``(K, 5)`` of a frame, uint8 ``(H, W, 3)``, with a detector of torchvision."""
    network = person_detector(name, device)
    return lambda frame: detect_persons(network, frame[None], min_score)[0]


def read_boxes(path: str | os.PathLike[str], video: VideoReader | None = None) -> dict[int, np.ndarray]:
    """Boxes of a video's persons by frame number from 0: float64 ``(K, 5)``, pixels of the video and score.

    The file is JSON, ``{"frames": {"15": [[x1, y1, x2, y2, score], ...], ...}}``, where the score may be left out (1);
    or what ``videozoo detect`` has written as JSON; or AVA's proposals, published or own (see
    :func:`~videozoo.data.ava.read_proposals`), of which the film with the name of the open ``video`` counts.

    Raises:
        AnnotationError: it is none of them; the message names the frame. Proposals have nothing of this film.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: it should have the boxes of the persons.")
    table = read_json(path) if path.suffix not in (".pkl", ".safetensors") else {}
    rows = table.get("frames") if isinstance(table, Mapping) else None
    if isinstance(rows, Mapping):
        return {_frame_number(path, key): _rows(path, key, value) for key, value in rows.items()}
    if isinstance(table, Mapping) and isinstance(table.get("moments"), list):
        return _found_boxes(path, table["moments"])
    if video is not None and isinstance(table, Mapping) and all("," in key for key in table):
        return _film_boxes(path, video)
    raise AnnotationError(f'{path}: expected {{"frames": {{"15": [[x1, y1, x2, y2, score], ...], ...}}}}.')


def _found_boxes(path: Path, moments: list[Any]) -> dict[int, np.ndarray]:
    """The persons in the JSON of ``videozoo detect``."""
    try:
        found = {moment["frame"]: [[*p["box"], p["score"]] for p in moment["persons"]] for moment in moments}
    except (KeyError, TypeError) as error:
        raise AnnotationError(f"{path}: the moments are not those of videozoo detect ({error}).") from error
    return {_frame_number(path, str(frame)): _rows(path, str(frame), rows) for frame, rows in found.items()}


def _film_boxes(path: Path, video: VideoReader) -> dict[int, np.ndarray]:
    """AVA's proposals of one film, at the frames of its seconds."""
    film, table = film_name(video.path), read_proposals(path)
    fps = video.fps or AVA_FPS
    start, result = file_start(len(video), fps), {}
    for (name, second), rows in table.items():
        frame = round(fps * (second - start))
        if name == film and 0 <= frame < len(video):
            rows = np.pad(rows, ((0, 0), (0, 5 - rows.shape[1])), constant_values=1.0)
            result[frame] = rows * [video.width, video.height, video.width, video.height, 1]
    if not result:
        raise AnnotationError(
            f"{path} has no boxes for {video.path}: none of its {len({name for name, _ in table})} films is called "
            f"{film!r} and has key frames from second {start} to {start + len(video) / fps:.0f}."
        )
    return result


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


def nearest_frame(numbers: Sequence[int], frame: int, reach: int) -> int | None:
    """Of ``numbers``, in order, the one nearest to ``frame`` that is at most ``reach`` away; of two the earlier."""
    place = bisect_left(numbers, frame)
    near = min(numbers[max(0, place - 1) : place + 1], key=lambda number: abs(number - frame), default=None)
    return near if near is not None and abs(near - frame) <= reach else None
