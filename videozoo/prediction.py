"""What a model says about a video, by the test protocol of its checkpoint.

``predict`` gives labels with probabilities; ``classify`` also what they were made from, for the command line and the
HTML report.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from . import catalog
from .data import ClipTransform, ClipViews, VideoReader, open_video, resolve_data_config

VIEWS = ("full", "fast")
CPU_BATCH, GPU_BATCH = 1, 8  # views at a time; on a CPU larger batches are slower per view and need more memory
THUMBNAIL_HEIGHT = 108  # pixels


@dataclass(frozen=True)
class Prediction:
    """The scores of one video and how they came about."""

    labels: list[str]
    """Class names in index order."""
    probabilities: np.ndarray
    """Of all classes, float64; they add up to 1 unless the classes are independent (``multi_label``)."""
    indices: np.ndarray
    """Frame numbers of each clip, (clips, T), for stacked flow (clips, T, k). Every crop shows the same clips."""
    config: dict[str, Any]
    """The resolved data config: sampling, crops, normalisation, averaging."""
    model: dict[str, Any]
    """The model's ``pretrained_cfg`` with ``full_name`` and ``params``."""
    video: dict[str, Any]
    """path, width, height, fps (0 if unknown) and frames of the video."""
    seconds: dict[str, float]
    """Time of decode, transform and model."""
    device: str
    views: int
    """Network inputs that the scores are the average of: clips x crops."""
    frame_size: tuple[int, int] = (0, 0)
    """Width and height of the resized frames that the crops are cut from."""
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Distinct crops (x, y, width, height) in the resized frames."""
    poster: np.ndarray | None = None
    """The middle one of the sampled frames, uint8 (H, W, 3)."""
    thumbnails: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """Frame number and small uint8 (h, w, 3) picture of distinct sampled frames, in order."""
    weights: str = ""
    """Where the weights came from, if the caller said so."""
    caveat: str = ""
    """Why the prediction should not be trusted; empty if nothing speaks against it."""

    @property
    def repeats(self) -> bool:
        """Whether the video is so short that clips show frames more than once."""
        clips = self.indices.reshape(len(self.indices), -1)
        return any(len(np.unique(clip)) < clip.size for clip in clips)

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """The ``count`` most probable classes as (index, label, probability), best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(i), self.labels[i], float(self.probabilities[i])) for i in order]


def predict(
    model: nn.Module,
    path: str | os.PathLike[str] | VideoReader,
    topk: int = 5,
    *,
    views: str = "full",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> list[tuple[str, float]]:
    """The ``topk`` most probable labels of a video with their probabilities, best first.

    Sampling, crops and averaging are those of the model's checkpoint (``model.pretrained_cfg``). Where several classes
    may hold at once (``multi_label``) the probabilities are independent. Videos that are too short repeat their frames.

    Args:
        path: video file, folder of images (for flow models ``x_*.jpg`` and ``y_*.jpg``), or an open reader.
        topk: number of labels; all classes if there are fewer.
        views: "full" is the published protocol, "fast" one clip from the middle of the video and the centre crop.
        batch_size: views that go through the network at a time; by default 1 on a CPU and 8 elsewhere.
        device: the model is moved there and stays there; None leaves it where it is.
        progress: show a bar on stderr.

    Raises:
        VideoError: the video cannot be read; the message has path and reason.
        ValueError: wrong argument, or a model that is no classifier of videos.
    """
    if topk < 1:
        raise ValueError(f"topk={topk} asks for no label: give a number from 1 on.")
    result = classify(
        model, path, views=views, batch_size=batch_size, device=device, progress=progress, max_thumbnails=0
    )
    return [(label, probability) for _, label, probability in result.top(topk)]


def classify(
    model: nn.Module,
    path: str | os.PathLike[str] | VideoReader,
    *,
    views: str = "full",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    reader: str = "auto",
    max_thumbnails: int = 32,
) -> Prediction:
    """Like :func:`predict`, with everything that a report shows: all probabilities, sampled frames, timings.

    ``reader`` is that of ``open_video``. The model works in eval mode and gets its modes back.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    transform = protocol_transform(model, views)
    if device is not None:
        model.to(device)
    modality = transform.config["modality"]
    with open_source(path, reader, modality) as (video, opening):
        timed = _TimedReader(video, opening) if modality != "audio" else video
        start = time.perf_counter()
        clips = transform.views(timed)
        indices = transform.sample(timed)  # after reading, for a damaged video may turn out to have fewer frames
        decoding = opening if modality == "audio" else timed.seconds
        transforming = time.perf_counter() - start - (decoding - opening)
        facts = {key: getattr(video, key) for key in ("path", "width", "height", "fps")} | {"frames": len(video)}
    start = time.perf_counter()
    probabilities = view_probabilities(model, clips, transform, batch_size, progress)
    seconds = {"decode": decoding, "transform": transforming, "model": time.perf_counter() - start}
    cfg = model.pretrained_cfg
    return Prediction(
        labels=class_names(cfg, len(probabilities)),
        probabilities=probabilities,
        indices=indices,
        config=transform.config,
        model=model_facts(model),
        video=facts,
        seconds=seconds,
        device=str(next(model.parameters()).device),
        views=len(clips),
        **({} if modality == "audio" else _pictures(clips, indices, max_thumbnails)),
    )


# Sampling and reading ------------------------------------------------------------------------------------------------


class MiddleClip(ClipTransform):
    """The transform of ``views="fast"``: the clip in the middle of the video."""

    def sample(self, reader: VideoReader, rng: np.random.Generator | None = None) -> np.ndarray:
        indices = super().sample(reader, rng)
        return indices[len(indices) // 2][None]


def protocol_transform(model: nn.Module, views: str) -> ClipTransform:
    """The transform of the model's test protocol, or of its one-view short form ("fast").

    Raises ValueError for a model that is no classifier.
    """
    if views not in VIEWS:
        raise ValueError(f"views={views!r} is unknown: use 'full' or 'fast'.")
    if getattr(model, "task", "") == "localization":
        raise ValueError(
            f"{model.title} finds segments and does not label whole videos: see videozoo.localization for its output, "
            "or take a classifier (videozoo.list_models(task='recognition'))"
        )
    if getattr(model, "num_classes", 0) < 1 or not hasattr(model, "pretrained_cfg"):
        raise ValueError(
            f"{type(model).__name__} has no classifier, so it cannot predict labels: "
            "use videozoo.create_model(name) without features_only and with num_classes of at least 1."
        )
    if getattr(model, "task", "") == "detection":
        raise ValueError(
            f"{full_name(model.pretrained_cfg)} says what each person does, so it cannot predict labels of a video: "
            "call model(clips, boxes), or take a recogniser."
        )
    config = resolve_data_config(model=model)
    if config["modality"] == "audio":
        from .data.audio import AudioTransform

        return AudioTransform(config if views == "full" else config | {"clips": 1})
    if views == "full":
        return ClipTransform(config)
    # Spread frames become one set over the whole video; dense clips keep their places, and the middle one is taken.
    once = {"crops": 1, "clips": config["segments"], "twice_sample": False}
    return MiddleClip(config | once)


@contextmanager
def open_source(source: Any, reader: str, modality: str, num_threads: int = 0) -> Iterator[tuple[VideoReader, float]]:
    """The open video and the seconds that opening took; a reader that came open stays open."""
    if isinstance(source, (str, os.PathLike)):
        start = time.perf_counter()
        if modality == "audio":
            from .data.audio import load_sound

            yield load_sound(source), time.perf_counter() - start
        elif modality == "flow" and os.path.isfile(source):
            from .data.flow import FlowReader

            with open_video(source, reader=reader, num_threads=num_threads) as video:
                yield FlowReader(video), time.perf_counter() - start
        else:
            with open_video(source, reader=reader, modality=modality, num_threads=num_threads) as video:
                yield video, time.perf_counter() - start
    elif hasattr(source, "get") and hasattr(source, "__len__") and not isinstance(source, Mapping):
        yield source, 0.0
    else:
        raise TypeError(
            f"a video is a path or an open reader, got {type(source).__name__}: "
            "wrap frames in memory as videozoo.data.ArrayReader(frames)."
        )


class _TimedReader:
    """A reader that adds up the seconds that it spends on frames."""

    def __init__(self, reader: VideoReader, seconds: float) -> None:
        self.reader, self.seconds = reader, seconds

    def __len__(self) -> int:
        return len(self.reader)

    def get(self, indices: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        try:
            return self.reader.get(indices)
        finally:
            self.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


# Scores --------------------------------------------------------------------------------------------------------------


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every module has its own mode back (frozen parts stay frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def view_probabilities(
    model: nn.Module,
    views: ClipViews,
    transform: ClipTransform,
    batch_size: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Probabilities (classes,) of a video from all its views, float64; the model works in eval mode, where it is."""
    logits = _run(model, views, transform, batch_size, progress)
    return _probabilities(logits, transform.config["average"], bool(model.pretrained_cfg.get("multi_label")))


def _run(
    model: nn.Module, views: ClipViews, transform: ClipTransform, batch_size: int | None, progress: bool
) -> torch.Tensor:
    """Logits of every view (see ``view_logits``); only ``batch_size`` views are float at a time.

    Views that show the same, as those of a very short video do, go through the network once.
    """
    from tqdm import tqdm

    step = batch_size or default_batch_size(next(model.parameters()).device)
    distinct, same_as = distinct_views(views)
    logits = []
    with eval_mode(model), torch.inference_mode(), tqdm(total=len(distinct), unit="view", disable=not progress) as bar:
        for start in range(0, len(distinct), step):
            frames = torch.stack([views[i] for i in distinct[start : start + step]])
            logits.append(view_logits(model, frames, transform))
            bar.update(len(frames))
    return torch.cat(logits)[same_as]


def distinct_views(views: ClipViews) -> tuple[list[int], list[int]]:
    """Numbers of the views that differ in frames or crop, and for every view its place in that list."""
    if isinstance(views, torch.Tensor):  # spectrograms
        return [*range(len(views))], [*range(len(views))]
    clips = views.indices.reshape(len(views.indices), -1)
    _, first, place = np.unique(clips, axis=0, return_index=True, return_inverse=True)
    crops = range(len(views.boxes))
    distinct = [crop * len(clips) + int(i) for crop in crops for i in first]
    return distinct, [crop * len(first) + int(i) for crop in crops for i in place.reshape(-1)]


def default_batch_size(device: torch.device) -> int:
    """Views that go through the network at a time, unless the caller says otherwise."""
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


def view_logits(
    model: nn.Module, views: torch.Tensor, transform: ClipTransform, amp_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Logits of views as the transform gives them (uint8 (V, T, H, W, C)), float64 (V, windows, classes) on the CPU.

    There is one window a view, unless the head slides over the features and probabilities are averaged (see
    ``Recognizer.forward_windows``). ``amp_dtype`` turns autocast on. Scores that are no finite numbers: ValueError.
    """
    weight = next(model.parameters())
    clips = transform.normalize(views, device=weight.device).to(weight.dtype)
    windowed = transform.config["average"] == "prob" and getattr(model, "pool_window", 0)
    with torch.autocast(weight.device.type, amp_dtype, enabled=amp_dtype is not None):
        logits = model.forward_windows(clips) if windowed else model(clips)[:, None]
    if not logits.isfinite().all():
        raise ValueError("the model's scores are not finite numbers: check its weights, or use float32.")
    return logits.cpu().double()


def average_views(logits: torch.Tensor, average: str, multi_label: bool) -> torch.Tensor:
    """Scores (classes,) of a video from the logits (views, windows, classes): what published metrics are computed from.

    Their mean for ``average="score"``; the mean of their probabilities for "prob", the largest ones for "max", where a
    view's own probability is the mean over its windows.
    """
    if average == "score":
        return logits.flatten(0, 1).mean(0)
    if average == "prob":
        return _squash(logits.flatten(0, 1), multi_label).mean(0)
    if average == "max":
        return _squash(logits, multi_label).mean(1).amax(0)
    raise ValueError(f"average={average!r} is unknown: use 'prob', 'score' or 'max'.")


def _squash(logits: torch.Tensor, multi_label: bool) -> torch.Tensor:
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def _probabilities(logits: torch.Tensor, average: str, multi_label: bool) -> np.ndarray:
    """Probabilities (classes,) from the logits of all views, combined before or after they become probabilities."""
    scores = average_views(logits, average, multi_label)
    return (_squash(scores, multi_label) if average == "score" else scores).numpy()


# Facts ---------------------------------------------------------------------------------------------------------------


def class_names(cfg: Mapping[str, Any], count: int) -> list[str]:
    """Labels of ``count`` classes: the model's own list, the data set's, or "class 0", ... where neither fits."""
    names = catalog.label_names(cfg)
    return names if len(names) == count else [f"class {i}" for i in range(count)]


def full_name(cfg: Mapping[str, Any]) -> str:
    """Name and tag of the entry that a model was made from, or its architecture."""
    if not cfg.get("name"):
        return str(cfg.get("architecture", "model"))
    return f"{cfg['name']}.{cfg['tag']}" if cfg.get("tag") else cfg["name"]


def model_facts(model: nn.Module) -> dict[str, Any]:
    """The model's ``pretrained_cfg`` with ``full_name`` and ``params``."""
    cfg = model.pretrained_cfg
    return {**cfg, "full_name": full_name(cfg), "params": sum(p.numel() for p in model.parameters())}


def clip_count(config: Mapping[str, Any]) -> int:
    """Clips (or segment sets) that a resolved data config takes from a video long enough, for each crop."""
    groups = config["positions"] if config["sampling"] == "dense" else 2 if config["twice_sample"] else 1
    return groups * config["clips"] // config["segments"]


def describe_input(config: Mapping[str, Any]) -> str:
    """One network input in words: "32 frames, every 2nd, 256 x 256"."""
    frames, segments, size = config["num_frames"], config["segments"], f"{config['size']} x {config['size']}"
    if config["crops"] == 0:
        size = f"short side {config['resize']}"
    if config["modality"] == "feature":
        return f"{frames} vectors of {config['in_chans']} features"
    if config["modality"] == "audio":
        return f"log-mel spectrogram of the sound of {frames * segments} frames"
    if config["stack"]:
        return f"{segments} segments of {frames} flow fields, {size}"
    noun = "flow fields" if config["modality"] == "flow" else "frames"
    if segments > 1:
        share = {1: "the video", 2: "half of the video"}.get(config["clips"] // segments, "a part of the video")
        span = "64 frames" if config["sampling"] == "dense" else share
        return f"{segments * frames} {noun} spread over {span}, {size}"
    every = {1: "consecutive", 2: "every 2nd", 3: "every 3rd"}.get(config["stride"], f"every {config['stride']}th")
    return f"{'single' if frames == 1 else frames} {noun}, {every}, {size}"


def describe_protocol(config: Mapping[str, Any], clips: int | None = None) -> str:
    """The views and their averaging in words: "10 clips x 3 crops of 256, probabilities averaged".

    ``clips`` replaces the number that follows from the config, for a video that gave another one.
    """
    clips = clip_count(config) if clips is None else clips
    averaged = {"score": "scores averaged", "prob": "probabilities averaged", "max": "largest probabilities"}
    averaged = averaged[config["average"]]
    if config["modality"] == "feature":
        return "one pass over the features of the whole video"
    if config["modality"] == "audio":
        return f"{clips} clips of sound, {averaged}" if clips > 1 else "1 clip of sound"
    crops = f"{config['crops']} crops" if config["crops"] > 1 else "centre crop"
    crops += f" of {config['size']}"
    if config["crops"] == 0:
        crops = f"whole frames, short side {config['resize']}"
    if config["segments"] == 1:
        what = f"{clips} clip{'s' if clips > 1 else ''}"
    else:
        noun = "segments" if config["stack"] else "frames"
        count = config["segments"] * (1 if config["stack"] else config["num_frames"])
        what = f"{clips} x {count} {noun}" if clips > 1 else f"{count} {noun}"
    if clips * max(1, config["crops"]) == 1:
        return f"{what}, {crops}"
    return f"{what}{' x ' if config['crops'] > 1 else ', '}{crops}, {averaged}"


def _pictures(views: ClipViews, indices: np.ndarray, count: int) -> dict[str, Any]:
    """Fields of a Prediction for people to look at: crops, poster and at most ``count`` thumbnails, evenly chosen."""
    if count < 1:
        return {}
    numbers = np.unique(indices)  # frame numbers of the rows of views.frames
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int))
    height, width = views.frames.shape[1:3]
    return {
        "frame_size": (width, height),
        "boxes": list(dict.fromkeys(box for box, _ in views.boxes)),
        "poster": _colour(views.frames[len(numbers) // 2]),
        "thumbnails": [(int(numbers[row]), thumbnail(_colour(views.frames[row]))) for row in chosen],
    }


def _colour(frame: torch.Tensor) -> np.ndarray:
    """(H, W, 3) of a frame; the two components of optical flow become red and green around a mid grey."""
    picture = frame.numpy()
    if picture.shape[-1] == 2:
        picture = np.concatenate([picture, np.full_like(picture[..., :1], 128)], axis=-1)
    return picture


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A picture ``(H, W, 3)`` at most ``THUMBNAIL_HEIGHT`` pixels high."""
    from PIL import Image

    height, width = picture.shape[:2]
    scale = min(1.0, THUMBNAIL_HEIGHT / height)
    size = max(1, math.ceil(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def times(frames: Sequence[int] | np.ndarray, fps: float) -> list[float] | None:
    """Seconds into the video of frame numbers, None where the speed of the video is unknown."""
    return [float(frame) / fps for frame in frames] if fps > 0 else None
