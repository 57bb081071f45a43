"""Classifiers on a whole data set, by the test protocol of their checkpoint.

Each video is decoded once, in worker processes, and stays uint8; views are cut out, normalised and averaged on the
model's device. Where ``torch.distributed`` is initialised every process takes its share of the videos.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import catalog
from ..checkpoint import weights_hash
from ..data import ClipTransform, ClipViews
from ..data.audio import AudioTransform, load_sound
from ..data.datasets import Dataset
from ..data.official import class_key
from ..prediction import (
    average_views,
    class_names,
    default_batch_size,
    distinct_views,
    eval_mode,
    full_name,
    model_facts,
    protocol_transform,
    view_logits,
)
from .metrics import evaluate as compute_metrics
from .metrics import many_hot
from .processes import Scores, first_rank_first, rank, score_together, world_size
from .result import EvaluationResult, Failure
from .storage import ScoreStore

# What a damaged video may raise: VideoError and the errors of decoders among them. Anything else stops the run.
UNREADABLE = (ValueError, OSError, EOFError, LookupError, RuntimeError, MemoryError)
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_WORKERS = 8
PUBLISHED_NAMES = {  # (metric, key of its result): what published tables call it
    ("top_k_accuracy", "top1_acc"): "top1",
    ("top_k_accuracy", "top5_acc"): "top5",
    ("mean_average_precision", "mean_average_precision"): "mAP",
    ("mmit_mean_average_precision", "mean_average_precision"): "mmit_mAP",
}
Transform = ClipTransform | AudioTransform
Views = ClipViews | torch.Tensor  # frames uint8, spectrograms float32 (views, 1, T, F)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    views: str = "full",
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device | None = None,
    amp_dtype: str = "none",
    save_logits: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    weights: str = "",
    progress: bool = False,
) -> EvaluationResult:
    """Measure a classifier on a data set, by the protocol of its checkpoint (``model.pretrained_cfg``).

    A video that cannot be read is listed in the result and left out of the metrics; it does not stop the run. Where
    ``torch.distributed`` is initialised the processes share the videos, and all of them return the whole result.

    Args:
        dataset: as made by ``videozoo.data.load_dataset``.
        views: "full" is the published protocol, "fast" one clip from the middle of the video and the centre crop.
        batch_size: views in the network at a time, of one or several videos; by default 1 on a CPU and 8 elsewhere.
        workers: processes that read videos; by default none on a CPU, else one a core, at most 8.
        device: the model is moved there and stays there; None leaves it where it is.
        amp_dtype: "none", "bf16" or "fp16": autocast.
        save_logits: folder for the scores of each video. A run that was interrupted goes on from there, without
            computing them anew; the folder of another run (weights, protocol, precision, videos) is a ValueError.
        limit: measure so many videos only, drawn at random with ``seed``.
        weights: kept in the result.
        progress: show a bar with the remaining time on stderr.

    Raises:
        ValueError: wrong argument, a model that is no classifier of videos, or labels that do not fit it.
    """
    check_arguments(amp_dtype, batch_size, limit)
    transform = protocol_transform(model, views)
    check_modality(transform, dataset)
    labels = video_labels(dataset, model)
    if device is not None:
        model.to(device)
    names = video_names(dataset)
    chosen = choose_videos(len(dataset), limit, seed)
    with first_rank_first():
        store = _store(save_logits, model, names, transform, views, amp_dtype)

    def run(pending: list[int]) -> tuple[Scores, dict[int, str]]:
        loader = video_loader(_Videos(dataset, transform, pending), workers, next(model.parameters()).device)
        return _run(model, loader, transform, store, batch_size, AMP_DTYPES[amp_dtype], progress)

    scores, unread, resumed, seconds = score_together(chosen, store, run)
    measured = sorted(scores)
    table = np.stack([scores[n] for n in measured]) if measured else np.zeros((0, model.num_classes), np.float32)
    return EvaluationResult(
        model=model_facts(model),
        dataset=dataset_row(dataset),
        config=transform.config,
        metrics=dataset_metrics(dataset, table, measured),
        published=published_row(model),
        remark=remark_on(model, dataset, views, len(chosen)),
        videos=[names[n] for n in measured],
        labels=[labels[n] for n in measured],
        scores=table,
        class_names=_class_names(model, dataset),
        failures=[Failure(names[n], unread[n]) for n in sorted(unread)],
        resumed=resumed,
        seconds=seconds,
        device=str(next(model.parameters()).device),
        precision=precision_name(model, amp_dtype),
        processes=world_size(),
        weights=weights,
    )


def check_arguments(amp_dtype: str, batch_size: int | None, limit: int | None) -> None:
    """ValueError for an unknown ``amp_dtype`` and for counts below 1."""
    if amp_dtype not in AMP_DTYPES:
        raise ValueError(f"amp_dtype={amp_dtype!r} is unknown: use 'none', 'bf16' or 'fp16'.")
    for name, value in {"batch_size": batch_size, "limit": limit}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def check_modality(transform: Transform, dataset: Dataset) -> None:
    modality = transform.config["modality"]
    if dataset.modality != modality and modality != "audio":
        raise ValueError(
            f"the model takes {modality}, the data set is opened as {dataset.modality}: "
            f"use load_dataset(..., modality={modality!r})."
        )
    if modality == "flow" and dataset.kind == "videos":
        raise ValueError(
            f"{dataset.source} lists video files, a flow model is measured on folders of flow images: write them with "
            "videozoo.data.write_flow and list the folders."
        )


# Scoring -------------------------------------------------------------------------------------------------------------


class _Videos(torch.utils.data.Dataset):
    """The number of each video with its uint8 views, or with the reason why it cannot be read."""

    def __init__(self, dataset: Dataset, transform: Transform, numbers: Sequence[int]) -> None:
        self.dataset, self.transform, self.numbers = dataset, transform, numbers
        self.num_threads = 0  # of the decoder

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[int, Views | str]:
        number = self.numbers[place]
        try:
            if self.transform.config["modality"] == "audio":  # the published test has silence for videos without sound
                return number, self.transform.views(load_sound(self.dataset.path(number), missing_ok=True))
            with self.dataset.open(number, num_threads=self.num_threads) as reader:
                return number, self.transform.views(reader)
        except UNREADABLE as error:
            return number, reason_of(error)


def reason_of(error: Exception) -> str:
    """Why a video cannot be read, in words: of an ``UNREADABLE`` error."""
    return getattr(error, "reason", "") or str(error) or type(error).__name__


def video_loader(videos: Any, workers: int | None, device: torch.device) -> torch.utils.data.DataLoader:
    """What ``videos`` gives for each of its places, read by ``workers`` processes that leave Ctrl-C to this one.

    None: none for a model on a CPU, else one a core, at most 8. ``videos.num_threads`` is set to fit them.
    """
    if workers is None:
        workers = 0 if device.type == "cpu" else min(MAX_WORKERS, os.cpu_count() or 1)
    videos.num_threads = 1 if workers else 0
    workers = min(workers, len(videos))
    return torch.utils.data.DataLoader(
        videos, batch_size=None, num_workers=workers, collate_fn=_as_it_is, worker_init_fn=ignore_interrupts
    )


def _as_it_is(item: Any) -> Any:
    return item


def ignore_interrupts(worker: int) -> None:
    """Ctrl-C and schedulers stop all processes at once; the main one saves its scores and then ends its workers.

    A worker that is told to end does so without a word: its death by a signal would be an error in the main process,
    and one that did not listen would keep that from ending.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def _run(
    model: nn.Module,
    loader: Iterable[tuple[int, Views | str]],
    transform: Transform,
    store: ScoreStore,
    batch_size: int | None,
    amp_dtype: torch.dtype | None,
    progress: bool,
) -> tuple[Scores, dict[int, str]]:
    """Scores of the videos of ``loader``, and the reasons why others cannot be read; scores are stored on the way."""
    from tqdm import tqdm

    scores: Scores = {}
    unread: dict[int, str] = {}
    batch_size = batch_size or default_batch_size(next(model.parameters()).device)
    bar = tqdm(total=len(loader), unit="video", disable=not progress or rank() > 0, smoothing=0.05)

    def readable() -> Iterator[tuple[int, Views]]:
        for number, views in loader:
            if isinstance(views, str):
                unread[number] = views
                bar.update()
            else:
                yield number, views

    try:
        with bar, eval_mode(model), torch.inference_mode():
            for number, row in _scores(model, readable(), transform, batch_size, amp_dtype):
                scores[number] = row
                store.add(number, row)
                bar.update()
    finally:
        store.flush()
    return scores, unread


def _scores(
    model: nn.Module,
    videos: Iterable[tuple[int, Views]],
    transform: Transform,
    batch_size: int,
    amp_dtype: torch.dtype | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Averaged scores of each video, as soon as its last view is through; a batch may hold views of several videos."""
    average, multi_label = transform.config["average"], bool(model.pretrained_cfg.get("multi_label"))
    views = _single_views(videos, next(model.parameters()).device)
    logits: dict[int, list[torch.Tensor]] = defaultdict(list)
    while batch := list(islice(views, batch_size)):
        rows = view_logits(model, torch.stack([view for _, _, view in batch]), transform, amp_dtype)
        for (number, same_as, _), row in zip(batch, rows, strict=True):
            logits[number].append(row)
            if len(logits[number]) > max(same_as):
                scores = average_views(torch.stack(logits.pop(number))[same_as], average, multi_label)
                yield number, scores.float().numpy()


def _single_views(
    videos: Iterable[tuple[int, Views]], device: torch.device
) -> Iterator[tuple[int, list[int], torch.Tensor]]:
    """Number of the video, places of all its views among the distinct ones, and one of these, in order.

    Frames go to the device once, uncut; views that show the same go through the network once.
    """
    for number, views in videos:
        if isinstance(views, ClipViews):
            views.frames = views.frames.to(device)
        distinct, same_as = distinct_views(views)
        for place in distinct:
            yield number, same_as, views[place]


# What is measured ----------------------------------------------------------------------------------------------------


def video_names(dataset: Dataset) -> list[str]:
    """A name for each sample: its path, with the frames where a video has several, and a number where names repeat."""
    times = Counter(sample.path for sample in dataset)
    seen: Counter[str] = Counter()
    names = []
    for sample in dataset:
        is_part = sample.num_frames and (sample.start or times[sample.path] > 1)
        name = f"{sample.path}[{sample.start}:{sample.start + sample.num_frames}]" if is_part else sample.path
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def video_labels(dataset: Dataset, model: nn.Module) -> list[tuple[int, ...]]:
    """Classes of every video, as rows of the model's scores; ValueError if model and data set do not fit together."""
    check_classes(dataset, model)
    labels = [dataset.classes(number) for number in range(len(dataset))]
    if (-1,) in labels:
        raise ValueError(f"{dataset.source} has videos without label, such as a test set: choose a split with labels.")
    return labels


def check_classes(dataset: Any, model: nn.Module) -> None:
    """ValueError if the data set is empty, or its classes are not those of the model in the same order."""
    if not len(dataset):
        raise ValueError(f"{dataset.name}, split {dataset.split!r}, has no videos: check {dataset.source}.")
    if dataset.num_classes != model.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes, {dataset.name} has {dataset.num_classes}: "
            "choose a model of this data set, or name the data set that the model was made for."
        )
    own = model.pretrained_cfg.get("label_names") or []
    for index, pair in enumerate(zip(own, dataset.class_names, strict=False)):
        if class_key(pair[0]) != class_key(pair[1]):
            raise ValueError(
                f"class {index} is {pair[0]!r} in the model and {pair[1]!r} in {dataset.name}: "
                "the classes are in another order, so the numbers would be wrong."
            )


def choose_videos(count: int, limit: int | None, seed: int) -> list[int]:
    """Numbers of the videos that are measured, in order: all, or ``limit`` drawn at random."""
    if limit is None or limit >= count:
        return list(range(count))
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False)).tolist()


def _store(
    folder: str | os.PathLike[str] | None,
    model: nn.Module,
    names: list[str],
    transform: Transform,
    views: str,
    amp_dtype: str,
) -> ScoreStore:
    if folder is None:
        return ScoreStore(None, {}, names)
    fingerprint = {
        "weights": weights_hash(model),
        "protocol": json.dumps({"views": views, **transform.config}, sort_keys=True),
        "precision": precision_name(model, amp_dtype),
        "videos": hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest(),
    }
    return ScoreStore(folder, fingerprint, names, {"model": full_name(model.pretrained_cfg)})


def precision_name(model: nn.Module, amp_dtype: str) -> str:
    """Type of the weights in words, with that of autocast where it is on."""
    name = str(next(model.parameters()).dtype).removeprefix("torch.")
    return name if amp_dtype == "none" else f"{name}, autocast to {amp_dtype}"


def dataset_metrics(dataset: Dataset, scores: np.ndarray, measured: Sequence[int]) -> dict[str, float]:
    """The data set's metrics in percent, by the names of published tables; none if there are no scores.

    ``scores`` (videos, classes) are those of the samples with the numbers ``measured``.
    """
    labels = [dataset[number].label for number in measured]
    if dataset.multi_label and not dataset.categories:
        labels = many_hot(labels, dataset.num_classes)
    result = {}
    for name in dataset.metrics if len(scores) else ():
        values = compute_metrics(scores, labels, name, categories=dataset.categories or None)
        result |= {PUBLISHED_NAMES.get((name, key), key): 100 * value for key, value in values.items()}
    return result


def dataset_row(dataset: Any) -> dict[str, Any]:
    """What a result keeps of a data set: name, title, split and number of videos."""
    title = dataset.title or catalog.datasets().get(dataset.name, {}).get("title", dataset.name)
    return {"name": dataset.name, "title": title, "split": dataset.split, "videos": len(dataset)}


def _class_names(model: nn.Module, dataset: Dataset) -> list[str]:
    return list(dataset.class_names) or class_names(model.pretrained_cfg, model.num_classes)


def published_row(model: nn.Module) -> dict[str, Any]:
    """Published results under the model's own protocol."""
    rows = model.pretrained_cfg.get("metrics") or ()
    return next((dict(row) for row in rows if not row.get("protocol")), {})


def remark_on(model: nn.Module, dataset: Any, views: str, chosen: int) -> str:
    """In what a measurement differs from the one behind the published numbers, as far as that is known."""
    parts = []
    if views == "fast":
        parts.append("one view of each video, where the published test has more")
    if chosen < len(dataset):
        parts.append(f"{chosen} of {len(dataset)} videos, drawn at random")
    own = model.pretrained_cfg.get("dataset")
    if own and own != dataset.name:
        parts.append(f"another data set than that of the published numbers ({own})")
    return f"Not comparable with published numbers: {'; '.join(parts)}." if parts else ""
