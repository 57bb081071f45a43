"""AVA as detectors read it: key frames with persons, what they do, boxes that another detector found, and clips.

A key frame is a whole second of a film; the clip that a network sees lies around it. Boxes are fractions of the frame
in files and pixels of the clip after :class:`KeyFrameTransform`. Labels are tables of 0 and 1 whose column 0 is AVA's
action 1: the background class of published networks has no column.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .annotations import AnnotationError, Sample, atomic_text, is_video_file
from .datasets import annotation_places, dataset_facts, find_files, load_dataset
from .reader import VideoReader, open_video
from .regions import AVA_FPS, AVA_START, read_ava_exclusions, read_ava_proposals
from .sampling import ava_clip
from .transforms import crop, flip, normalize_by, resize

__all__ = [
    "ACTIONS",
    "EVALUATED",
    "KeyFrame",
    "KeyFrameTransform",
    "clip_indices",
    "crop_person_boxes",
    "file_start",
    "film_name",
    "flip_person_boxes",
    "frame_indices",
    "key_frames",
    "load_key_frames",
    "open_clip",
    "read_proposals",
    "select_proposals",
    "write_proposals",
]

ACTIONS = tuple(range(1, 81))
_RARE = (2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75)
EVALUATED = tuple(number for number in ACTIONS if number not in _RARE)  # the 60 of the official label map
WHOLE_FRAME = np.array([[0.0, 0.0, 1.0, 1.0, 1.0]])  # the proposal of a key frame in which nobody was found
MIN_SCORE, MAX_PROPOSALS = 0.9, 1000
LONGEST = 1.25  # times config["resize"]: largest short side of training clips before they are cropped
PathLike = str | os.PathLike[str]


# Proposals -----------------------------------------------------------------------------------------------------------


def read_proposals(path: PathLike) -> dict[tuple[str, int], np.ndarray]:
    """Person boxes with scores, float64 ``(K, 5)`` as fractions, by (video, second).

    From the published pickle (read without running code from it), or from the JSON or safetensors file that
    :func:`write_proposals` makes; the name's suffix tells them apart. AnnotationError for anything else.
    """
    if Path(path).suffix != ".safetensors":
        return read_ava_proposals(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            videos = json.loads((file.metadata() or {})["videos"])
            boxes, places, seconds, counts = (file.get_tensor(key) for key in ("boxes", "video", "second", "count"))
        parts = np.split(boxes.astype(np.float64), np.cumsum(counts)[:-1])
        return {(videos[v], int(s)): part for v, s, part in zip(places, seconds, parts, strict=True)}
    except (SafetensorError, KeyError, IndexError, ValueError) as error:
        raise AnnotationError(f"{path} is no file of proposals ({error}): write it with write_proposals.") from error


def write_proposals(table: Mapping[tuple[str, int], np.ndarray], path: PathLike) -> None:
    """Write proposals as ``.json`` ({"video,0902": [[x1, y1, x2, y2, score], ...]}) or, smaller, as ``.safetensors``.

    With :func:`read_proposals` it converts the published pickle. ValueError for another suffix.
    """
    path = Path(path)
    if path.suffix == ".json":
        rows = {f"{video},{second:04d}": np.asarray(boxes).tolist() for (video, second), boxes in table.items()}
        atomic_text(path, json.dumps(rows))
        return
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: proposals are written as .json or .safetensors, choose one of these names.")
    from safetensors.numpy import save_file

    names = list(dict.fromkeys(video for video, _ in table))
    number = {name: i for i, name in enumerate(names)}
    parts = [np.asarray(boxes, np.float64) if len(boxes) else np.zeros((0, 5)) for boxes in table.values()]
    parts = [part if part.shape[1] == 5 else np.pad(part, ((0, 0), (0, 1)), constant_values=1.0) for part in parts]
    tensors = {
        "boxes": np.concatenate([*parts, np.zeros((0, 5))]),
        "video": np.array([number[video] for video, _ in table], np.int64),
        "second": np.array([second for _, second in table], np.int64),
        "count": np.array([len(part) for part in parts], np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, {"videos": json.dumps(names)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def select_proposals(rows: np.ndarray | None, min_score: float = MIN_SCORE, most: int = MAX_PROPOSALS) -> np.ndarray:
    """The proposals ``(K, 5)`` of a key frame that count, by the published rule.

    Those with a score of at least ``min_score``, or of the best score if none has; of these the first ``most``, not
    the best. Without any (None) it is the whole frame. Boxes without score, ``(K, 4)``, all count, with score 1.
    """
    if rows is None or not len(rows):
        return WHOLE_FRAME.copy()
    if rows.shape[1] == 4:
        return np.pad(rows[:most], ((0, 0), (0, 1)), constant_values=1.0)
    return rows[rows[:, 4] >= min(min_score, rows[:, 4].max())][:most]


# Key frames ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyFrame:
    """A second of a film, the persons in it and what they do."""

    video: str
    second: int
    boxes: np.ndarray
    """Of persons, fractions of the frame, float64 ``(K, 4)``."""
    labels: np.ndarray
    """What each does, uint8 ``(K, C)`` of 0 and 1."""
    persons: np.ndarray
    """Numbers that follow a person through a film, ``(K,)``."""
    proposals: np.ndarray
    """Boxes that a detector of persons found, with score, float64 ``(P, 5)``; see :func:`select_proposals`."""
    path: Path = Path()
    """The film, or the folder of its frames."""
    frame: int | None = None
    """Number of the frame in the file, from 0, where it is known rather than the second."""


def key_frames(
    samples: Iterable[Sample],
    *,
    excluded: Iterable[tuple[str, int]] = (),
    proposals: Mapping[tuple[str, int], np.ndarray] | None = None,
    classes: Sequence[int] = ACTIONS,
    min_score: float = MIN_SCORE,
    max_proposals: int = MAX_PROPOSALS,
    root: Path = Path(),
) -> list[KeyFrame]:
    """Key frames of ``read_ava``'s samples, in their order.

    ``excluded`` key frames are left out, which is what training does; a test keeps them and leaves them out of the
    metric. ``classes`` are ids of AVA's actions in the order of the label columns; persons who do none of them, and
    frames without others, are left out. Without ``proposals`` each key frame has none at all, ``(0, 5)``.
    """
    excluded, column = set(excluded), {number: i for i, number in enumerate(classes)}
    result = []
    for sample in samples:
        name, second = film_name(sample.path), sample.extra["timestamp"]
        if (name, second) in excluded:
            continue
        table = np.zeros((len(sample.extra["actions"]), len(column)), np.uint8)
        for row, actions in enumerate(sample.extra["actions"]):
            table[row, [column[action] for action in actions if action in column]] = 1
        keep = table.any(axis=1)
        if not keep.any():
            continue
        found = np.zeros((0, 5))
        if proposals is not None:
            found = select_proposals(proposals.get((name, second)), min_score, max_proposals)
        boxes, persons = sample.extra["boxes"][keep], sample.extra["persons"][keep]
        result.append(KeyFrame(name, second, boxes, table[keep], persons, found, root / sample.path))
    return result


def film_name(path: PathLike) -> str:
    """The id of a film, which is the name of its file or folder."""
    name = Path(path).name
    return Path(name).stem if is_video_file(name) else name


def load_key_frames(
    root: PathLike,
    name: str = "ava21",
    split: str = "val",
    *,
    is_training: bool = False,
    proposals: PathLike | None = None,
    annotations: PathLike | None = None,
    **options: Any,
) -> tuple[list[KeyFrame], set[tuple[str, int]]]:
    """Key frames of AVA under the folder ``root``, and those that count neither in training nor in the metric.

    Annotations, exclusions and proposals are looked for under their published names in ``root`` and
    ``root/annotations``; ``proposals`` names another file, ``annotations`` another
    file or folder. ``is_training`` leaves the excluded key frames out.
    ``options``: ``classes``, ``min_score`` and ``max_proposals`` of :func:`key_frames`.

    Raises:
        FileNotFoundError: no annotations, films or proposals are there.
    """
    dataset = load_dataset(name, root, split=split, annotations=annotations)
    given = Path(annotations) if annotations is not None else None
    places = annotation_places(Path(root), given if given and given.is_dir() else None)
    official = dataset_facts(name)["files"]["official"]
    found = {
        role: find_files(places, [pattern.format(split=split) for pattern in official[role]])
        for role in ("exclusions", "proposals")
    }
    if proposals is None and not found["proposals"]:
        raise FileNotFoundError(
            f"no proposals were found in {' and '.join(map(str, places))}: put "
            f"{official['proposals'][0].format(split=split)} there, or name another file as proposals, such as "
            "'videozoo data proposals' writes."
        )
    excluded = read_ava_exclusions(found["exclusions"][0]) if found["exclusions"] else set()
    table = read_proposals(proposals if proposals is not None else found["proposals"][0])
    left_out = excluded if is_training else ()
    return key_frames(dataset.samples, excluded=left_out, proposals=table, root=dataset.root, **options), excluded


def frame_indices(
    second: int,
    total: int,
    *,
    frames: int,
    stride: int,
    fps: float = AVA_FPS,
    start: int = AVA_START,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Frames from 0, ``(frames,)``, of the clip around a second of a film that has ``total`` frames.

    ``start`` is the second of the film at which the file begins: 900 for AVA's cut films, 0 for whole ones. Numbers
    beyond the ends repeat the first or last frame. With ``rng`` frames move within their stride.
    """
    if fps == AVA_FPS:
        numbers = ava_clip(second, frames=frames, stride=stride, timestamp_start=start, shot=(0, total + 1), rng=rng)[0]
        return np.clip(numbers - 1, 0, total - 1)
    return clip_indices(round(fps * (second - start)), total, frames=frames, stride=stride, rng=rng)


def file_start(total: int, fps: float) -> int:
    """Second of the film at which a file of ``total`` frames begins: one of more than 1000 seconds is taken for whole,
    another for AVA's cut."""
    return 0 if total / fps > 1000 else AVA_START


def clip_indices(
    middle: int, total: int, *, frames: int, stride: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Frames, ``(frames,)``, of the clip around frame ``middle`` of a video; see :func:`frame_indices`."""
    moved = rng.integers(-stride // 2, (stride + 1) // 2, size=frames) if rng is not None else 0
    return np.clip(middle + (np.arange(frames) - frames // 2) * stride + moved, 0, total - 1)


# Clips and boxes -----------------------------------------------------------------------------------------------------


def crop_person_boxes(boxes: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Boxes ``(K, 4)`` in pixels as seen in the crop at (x, y), cut to 0..width - 1 and 0..height - 1."""
    moved = boxes - np.array([x, y, x, y])
    return np.clip(moved, 0, np.array([width - 1, height - 1, width - 1, height - 1]))


def flip_person_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes ``(K, 4)`` in pixels as seen in the mirror: x becomes width - 1 - x."""
    return np.stack([width - 1 - boxes[:, 2], boxes[:, 1], width - 1 - boxes[:, 0], boxes[:, 3]], axis=1)


class KeyFrameTransform:
    """Clip and boxes of a key frame as a detector takes them, by a data config (``resolve_data_config``).

    The test shows whole frames with a short side of ``config["resize"]`` pixels; training a random square of
    ``config["size"]`` from frames whose short side is drawn from there to a quarter more, mirrored as often as
    ``config["hflip"]`` says.
    """

    def __init__(self, config: Mapping[str, Any], is_training: bool = False):
        self.config = dict(config)
        self.is_training = is_training
        resize = config["resize"]
        if is_training and (not isinstance(resize, int) or resize < config["size"]):
            raise ValueError(
                f"resize={resize}, size={config['size']}: clips are cut to squares of size pixels from frames whose "
                "short side is at least resize, so make it a number from size on."
            )

    def __call__(
        self, video: VideoReader, indices: np.ndarray, boxes: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Float32 clip ``(C, T, H, W)`` and boxes float32 ``(K, 4)`` in its pixels, from boxes as fractions.

        Training needs ``rng``. Columns of ``boxes`` beyond the fourth are left out.
        """
        return self.from_frames(torch.from_numpy(video.get(indices)), boxes, rng)

    def from_frames(
        self, frames: torch.Tensor, boxes: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the call, from the clip's frames, uint8 ``(T, H, W, C)``."""
        frames, pixels = self.cut(frames, boxes, rng)
        return self.normalize(frames[None])[0], pixels

    def normalize(self, frames: torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
        """uint8 clips ``(N, T, H, W, C)`` to float32 ``(N, C, T, H, W)`` on ``device``."""
        return normalize_by(self.config, frames, device)

    def cut(
        self, frames: torch.Tensor, boxes: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames as the network sees them, still uint8 ``(T, H, W, C)``, and boxes in their pixels."""
        if self.is_training and rng is None:
            raise ValueError("a training transform draws at random: pass rng=numpy.random.default_rng(seed).")
        cfg = self.config
        short = cfg["resize"]
        if self.is_training:
            short = int(rng.integers(short, round(LONGEST * short) + 1))
        if short is not None:
            scale = (-1, short) if isinstance(short, int) else short
            frames = resize(frames, scale, interpolation=cfg["interpolation"], backend=cfg["resize_backend"])
        height, width = frames.shape[1:3]
        boxes = np.asarray(boxes, np.float64)[:, :4] * np.array([width, height, width, height])
        if self.is_training:
            frames, boxes = self._augmented(frames, boxes, rng)
        return frames, torch.from_numpy(boxes).float()

    def _augmented(
        self, frames: torch.Tensor, boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, np.ndarray]:
        size, (height, width) = self.config["size"], frames.shape[1:3]
        x, y = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
        frames, boxes = crop(frames, (x, y, size, size)), crop_person_boxes(boxes, x, y, size, size)
        if rng.random() < self.config.get("hflip", 0.5):
            frames, boxes = flip(frames), flip_person_boxes(boxes, size)
        return frames, boxes


def open_clip(
    frame: KeyFrame,
    transform: KeyFrameTransform,
    boxes: np.ndarray,
    rng: np.random.Generator | None = None,
    num_threads: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip, uint8 ``(T, H, W, C)``, and boxes (fractions in, pixels out) of a key frame from its film or frames.

    Where only the second is known the film may be whole or cut (:func:`file_start`).
    ``transform.normalize`` makes clips the network's input. ``num_threads`` is that of ``open_video``.
    """
    cfg = transform.config
    shape = {"frames": cfg["num_frames"], "stride": cfg["stride"], "rng": rng if transform.is_training else None}
    with open_video(frame.path, num_threads=num_threads) as video:
        total, fps = len(video), video.fps or AVA_FPS
        if frame.frame is None:
            indices = frame_indices(frame.second, total, fps=fps, start=file_start(total, fps), **shape)
        else:
            indices = clip_indices(frame.frame, total, **shape)
        return transform.cut(torch.from_numpy(video.get(indices)), boxes, rng)
