"""From a video to one row of features for each window, in one pass and with a bounded amount of memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..checkpoint import weights_hash
from ..data import VideoReader, resolve_data_config
from ..data.windows import FramesChangedError, WindowTransform, window_centres
from ..evaluation.recognition import ignore_interrupts
from ..prediction import default_batch_size, eval_mode, full_name, open_source
from .storage import PART, Parts, check_run, feature_facts, write_feature_file, write_json

EVERY = 16  # frames from one window to the next: that of the published features
SPAN = 64  # frames over which a window of a network with a fixed number of segments is spread
Batch = tuple[np.ndarray, torch.Tensor]  # numbers of windows, and the windows, uint8 (N, T, H, W, C)


@dataclass(frozen=True)
class Features:
    """Features of one video."""

    values: np.ndarray
    """(W, C) float32."""
    centres: np.ndarray
    """(W,): the frames around which the windows lie."""
    times: np.ndarray
    """(W,): the same in seconds; in frames where the speed of the video is unknown."""
    video: dict[str, Any]
    """path, width, height, fps (0 if unknown) and frames."""


@dataclass(frozen=True)
class Plan:
    """How features are made: everything but the video and the weights."""

    transform: WindowTransform
    every: int
    first: int
    """The first frame around which a window lies."""
    logits: bool
    batch_size: int
    workers: int
    reader: str
    progress: bool


def plan_windows(
    model: nn.Module,
    *,
    every: int = EVERY,
    first: int | None = None,
    spacing: int | None = None,
    logits: bool = False,
    size: int | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    reader: str = "auto",
    progress: bool = False,
) -> Plan:
    """Check the arguments of :func:`extract_features` and decide what a window is."""
    check_model(model, logits)
    for name, value in {"every": every, "batch_size": batch_size, "spacing": spacing}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if first is not None and first < 0:
        raise ValueError(f"first={first} must be 0 or more.")
    config = resolve_data_config({"size": size}, model=model)
    frames, step = window_shape(model, config)
    transform = WindowTransform(config, frames, spacing or step)
    batch_size = batch_size or default_batch_size(next(model.parameters()).device)
    return Plan(transform, every, every // 2 if first is None else first, logits, batch_size, workers, reader, progress)


def check_model(model: nn.Module, logits: bool) -> None:
    """ValueError unless the model gives features (or scores) of windows of frames."""
    modality = getattr(model, "pretrained_cfg", {}).get("modality", "rgb")
    title = getattr(model, "title", type(model).__name__)
    if modality not in ("rgb", "flow") or not hasattr(model, "forward_head"):
        raise ValueError(f"{title} does not take frames: features are made by a recogniser of frames or flow.")
    if getattr(model, "task", "") == "detection":
        raise ValueError(f"{title} describes persons in boxes, not windows: take a recogniser.")
    if logits and (not model.num_classes or getattr(model, "task", "") == "localization"):
        raise ValueError(f"{title} has no scores of classes: leave logits out.")


def window_shape(model: nn.Module, config: dict[str, Any]) -> tuple[int, int]:
    """Frames of a window and the step between them.

    A dense clip is a window as it is, and so is a stack of flow fields. A network that averages over single frames
    (TSN) gets one; one that is tied to a number of segments gets as many frames, spread over 64.
    """
    if config["stack"] or config["segments"] == 1:
        return config["num_frames"], config["stride"]
    frames = getattr(model, "num_frames", None)
    return (frames, max(1, SPAN // frames)) if frames else (1, 1)


def extract_features(
    model: nn.Module,
    path: str | os.PathLike[str] | VideoReader,
    *,
    device: str | torch.device | None = None,
    **how: Any,
) -> Features:
    """Features of windows around every 16th frame of a video, one row each.

    Frames are resized as in the checkpoint's test, and the centre is cut out. Windows at the ends repeat the first or
    last frame.

    Args:
        path: video file, folder of images (for flow models ``x_*.jpg`` and ``y_*.jpg``), or an open reader.
        device: the model is moved there and stays there; None leaves it where it is.
        every: frames from one window to the next.
        first: frame around which the first one lies; None: the middle of the first ``every``.
        spacing: from one frame of a window to the next; None: as the model was tested (see ``window_shape``).
        logits: class scores before any softmax in place of pooled features.
        size: side of the cut in place of the checkpoint's.
        batch_size: windows in the network at a time; by default 1 on a CPU and 8 elsewhere.
        workers: processes that decode; 0 decodes in this one. An open reader needs 0.
        reader: as of ``open_video``.
        progress: show a bar on stderr.

    Raises:
        VideoError: the video cannot be read.
        ValueError: wrong argument, or a model without such features.
    """
    if device is not None:
        model.to(device)
    plan = plan_windows(model, **how)
    if plan.workers and not isinstance(path, str | os.PathLike):
        raise ValueError("workers open the video by its path: give a path, or leave workers at 0.")
    with open_source(path, plan.reader, plan.transform.config["modality"]) as (video, _):
        return _whole(model, video, plan)


def _whole(model: nn.Module, video: VideoReader, plan: Plan) -> Features:
    for _ in range(3):  # a damaged video may turn out to have fewer frames while it is read
        centres = window_centres(len(video), plan.every, plan.first)
        try:
            parts = [rows for _, rows in _rows(model, video, plan, centres, np.arange(len(centres)))]
        except FramesChangedError as error:
            changed, plan = error, replace(plan, workers=0)  # this process's reader has to count anew as well
            continue
        facts = {key: getattr(video, key) for key in ("path", "width", "height", "fps")} | {"frames": len(video)}
        return Features(np.concatenate(parts), centres, centres / (video.fps or 1.0), facts)
    raise changed


def write_features(
    model: nn.Module,
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Write :func:`extract_features` to a file ``.npy``, ``.csv`` or ``.safetensors``, with its facts beside it.

    Memory does not depend on the length of the video. A call that was interrupted, even killed, goes on from the parts
    in ``.NAME.parts``; if everything is there already nothing is done. Returned are the facts of the file: ``times``,
    ``centres``, ``video``, ``shape``, ``run`` (what decides the features).

    Raises:
        ValueError: as of :func:`extract_features`, or features of another run are in the place of the file.
    """
    out = Path(out)
    if out.suffix not in (".npy", ".csv", ".safetensors"):
        raise ValueError(f"{out} must end in .npy, .csv or .safetensors.")
    if device is not None:
        model.to(device)
    plan = plan_windows(model, **how)
    weights = weights_hash(model)
    with open_source(path, plan.reader, plan.transform.config["modality"]) as (video, _):
        for _ in range(3):
            try:
                return _write(model, video, path, out, plan, weights)
            except FramesChangedError as error:
                changed, plan = error, replace(plan, workers=0)
    raise changed


def _write(
    model: nn.Module, video: VideoReader, path: str | os.PathLike[str], out: Path, plan: Plan, weights: str
) -> dict[str, Any]:
    centres = window_centres(len(video), plan.every, plan.first)
    run = _run_facts(model, video, path, plan, weights)
    saved = feature_facts(out)
    if saved or out.exists():
        check_run(saved.get("run", {}), run, out)
    folder = out.with_name(f".{out.stem}.parts")
    if out.exists():
        shutil.rmtree(folder, ignore_errors=True)
        return saved
    parts = Parts(folder, run, len(centres))
    todo = parts.missing()
    try:
        _fill(model, video, plan, centres, parts, todo)
    except FramesChangedError:
        parts.remove()
        raise
    width = next(iter(parts)).shape[1]
    times = centres / (video.fps or 1.0)
    facts = {
        "model": full_name(getattr(model, "pretrained_cfg", {})),
        "output": "logits" if plan.logits else "features",
        "shape": [len(centres), width],
        "every": plan.every,
        "frames_per_window": plan.transform.frames,
        "spacing": plan.transform.spacing,
        "video": {key: getattr(video, key) for key in ("width", "height", "fps")}
        | {"path": os.fspath(path), "frames": len(video)},
        "times": [round(time, 6) for time in times.tolist()],
        "centres": centres.tolist(),
        "run": run,
    }
    write_json(out.with_suffix(".json"), facts)  # first, so that a file of features never stands without its facts
    write_feature_file(out, parts, (len(centres), width), times)
    parts.remove()
    return facts


def _run_facts(
    model: nn.Module, video: VideoReader, path: str | os.PathLike[str], plan: Plan, weights: str
) -> dict[str, Any]:
    """What decides the features; a run may go on where another one stopped only if all of it is the same."""
    keys = ("modality", "stack", "mean", "std", "value_range", "channel_order", "interpolation", "resize_backend")
    config = {key: plan.transform.config[key] for key in (*keys, "resize", "keep_ratio", "size", "crops")}
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    facts = {
        "weights": weights,
        "output": "logits" if plan.logits else "features",
        "window": [plan.every, plan.first, plan.transform.frames, plan.transform.spacing],
        "precision": str(next(model.parameters()).dtype),
        "pictures": config,
        "video": [len(video), video.width, video.height, size],
    }
    return json.loads(json.dumps(facts))  # as a file gives them back


def _fill(model: nn.Module, video: VideoReader, plan: Plan, centres: np.ndarray, parts: Parts, todo: list[int]) -> None:
    """Make the missing parts, each of which is written as soon as its last row is there."""
    numbers = np.concatenate([np.arange(len(centres))[parts.place(part)] for part in todo] or [np.zeros(0, np.int64)])
    open_parts: dict[int, dict[int, np.ndarray]] = {}
    for places, rows in _rows(model, video, plan, centres, numbers):
        for place, row in zip(places.tolist(), rows, strict=True):
            part = place // PART
            open_parts.setdefault(part, {})[place] = row
            where = parts.place(part)
            if len(open_parts[part]) == where.stop - where.start:
                done = open_parts.pop(part)
                parts.write(part, np.stack([done[number] for number in sorted(done)]))


# Windows through the network -----------------------------------------------------------------------------------------


def _rows(
    model: nn.Module, video: VideoReader, plan: Plan, centres: np.ndarray, numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of windows and their rows ``(n, C)`` float32, batch after batch; in order where no workers decode."""
    weight = next(model.parameters())
    if not len(numbers):
        return
    with (
        eval_mode(model),
        torch.inference_mode(),
        tqdm(total=len(centres), initial=len(centres) - len(numbers), unit="window", disable=not plan.progress) as bar,
    ):
        for places, windows in _batches(video, plan, centres, numbers):
            clips = plan.transform.normalize(windows, device=weight.device).to(weight.dtype)
            rows = model(clips) if plan.logits else model.forward_head(model.forward_features(clips), pre_logits=True)
            if not rows.isfinite().all():
                raise ValueError("the model's features are not finite numbers: check its weights, or use float32.")
            yield places, rows.float().cpu().numpy()
            bar.update(len(places))


def _batches(video: VideoReader, plan: Plan, centres: np.ndarray, numbers: np.ndarray) -> Iterator[Batch]:
    source = _WindowBatches(video.path if plan.workers else video, plan, centres, numbers)
    loader = torch.utils.data.DataLoader(
        source, batch_size=None, num_workers=plan.workers, worker_init_fn=ignore_interrupts, collate_fn=_as_it_is
    )
    for item in loader:
        if isinstance(item, Exception):
            raise item
        yield item


def _as_it_is(item: Any) -> Any:
    return item


class _WindowBatches(torch.utils.data.IterableDataset):
    """Batches of windows; each worker has an open video of its own and decodes whole parts of ``PART`` windows."""

    def __init__(self, source: Any, plan: Plan, centres: np.ndarray, numbers: np.ndarray) -> None:
        self.source, self.plan, self.centres, self.numbers = source, plan, centres, numbers

    def __iter__(self) -> Iterator[Batch | Exception]:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            yield from self._read(self.source, self.numbers)
            return
        mine = self.numbers[self.numbers // PART % worker.num_workers == worker.id]
        try:
            modality = self.plan.transform.config["modality"]
            with open_source(self.source, self.plan.reader, modality, num_threads=1) as (video, _):
                yield from self._read(video, mine)
        except (ValueError, OSError) as error:  # a loader would make another exception of it
            yield error

    def _read(self, video: VideoReader, numbers: np.ndarray) -> Iterator[Batch]:
        windows = self.plan.transform.stream(video, self.centres[numbers])
        for start in range(0, len(numbers), self.plan.batch_size):
            places = numbers[start : start + self.plan.batch_size]
            yield places, torch.stack(list(islice(windows, len(places))))
