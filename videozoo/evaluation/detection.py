"""Detectors on a whole data set: AVA's mean average precision, and that of frames and tubes of JHMDB and UCF101-24.

Worker processes read and scale clips, which stay uint8; clips of the same size go through the network together. Where
``torch.distributed`` is initialised every process takes its share of the key frames.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from ..checkpoint import weights_hash
from ..data import resolve_data_config
from ..data.ava import ACTIONS, EVALUATED, KeyFrame, KeyFrameTransform, open_clip
from ..data.detection import KeyFrames
from ..detection.boxes import split_by_clip
from ..detection.stream import check_detector
from ..prediction import default_batch_size, eval_mode, full_name, model_facts
from .metrics.ava import AVAResult, Boxes, ava_map, make_boxes
from .processes import Scores, first_rank_first, rank, score_together, world_size
from .recognition import (
    AMP_DTYPES,
    UNREADABLE,
    check_arguments,
    check_classes,
    choose_videos,
    dataset_row,
    precision_name,
    published_row,
    reason_of,
    remark_on,
    video_loader,
)
from .result import ClassResult, EvaluationResult, Failure
from .storage import ScoreStore
from .tubes import tube_metrics

Clip = tuple[int, torch.Tensor, torch.Tensor]  # number of the key frame, uint8 frames, boxes in their pixels


def evaluate_detector(
    model: nn.Module,
    data: KeyFrames,
    *,
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
    """Measure a detector on the key frames of a data set, as :func:`~videozoo.evaluation.evaluate` does classifiers.

    The clips are those of the model's test protocol, but without its random shifts of frames: they do not repeat. A
    clip that cannot be read is listed in the result and left out of the metrics. ``save_logits`` keeps probabilities.

    Raises:
        ValueError: wrong argument, a model that is no detector, or classes that do not fit it.
    """
    check_detector(model)
    check_arguments(amp_dtype, batch_size, limit)
    check_classes(data, model)
    if device is not None:
        model.to(device)
    transform = KeyFrameTransform(resolve_data_config(model=model))
    names = [f"{frame.video},{frame.second:04d}" for frame in data]
    chosen = choose_videos(len(data), limit, seed)
    with first_rank_first():
        store = _store(save_logits, model, data, names, transform, amp_dtype)

    def run(pending: list[int]) -> tuple[Scores, dict[int, str]]:
        clips = _Clips(data, transform, pending)
        return _run(model, clips, workers, store, batch_size, AMP_DTYPES[amp_dtype], progress)

    scores, unread, resumed, seconds = score_together(chosen, store, run)
    measured = sorted(scores)
    metrics, per_class = key_frame_metrics(data, [(data[n], scores[n]) for n in measured])
    return EvaluationResult(
        model=model_facts(model),
        dataset=dataset_row(data),
        config=transform.config,
        metrics=metrics,
        published=published_row(model),
        remark=remark_on(model, data, "full", len(chosen)),
        videos=[names[n] for n in measured],
        labels=[],
        scores=np.zeros((0, model.num_classes), np.float32),
        class_names=data.class_names,
        failures=[Failure(names[n], unread[n]) for n in sorted(unread)],
        resumed=resumed,
        seconds=seconds,
        device=str(next(model.parameters()).device),
        precision=precision_name(model, amp_dtype),
        processes=world_size(),
        weights=weights,
        per_class=per_class,
        unit="key frame",
    )


def _store(
    folder: str | os.PathLike[str] | None,
    model: nn.Module,
    data: KeyFrames,
    names: list[str],
    transform: KeyFrameTransform,
    amp_dtype: str,
) -> ScoreStore:
    if folder is None:
        return ScoreStore(None, {}, names)
    boxes = hashlib.sha256()
    for name, frame in zip(names, data, strict=True):
        boxes.update(f"{name}\n".encode("utf-8", "surrogateescape") + frame.proposals.tobytes())
    fingerprint = {
        "weights": weights_hash(model),
        "protocol": json.dumps(transform.config, sort_keys=True),
        "precision": precision_name(model, amp_dtype),
        "key frames and proposals": boxes.hexdigest(),
    }
    return ScoreStore(folder, fingerprint, names, {"model": full_name(model.pretrained_cfg)})


# Scoring -------------------------------------------------------------------------------------------------------------


class _Clips(torch.utils.data.Dataset):
    """The number of each key frame with its clip and boxes, or with the reason why it cannot be read."""

    def __init__(self, data: KeyFrames, transform: KeyFrameTransform, numbers: Sequence[int]) -> None:
        self.data, self.transform, self.numbers = data, transform, numbers
        self.num_threads = 0  # of the decoder

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Clip | tuple[int, str]:
        number = self.numbers[place]
        frame = self.data[number]
        if not len(frame.proposals):
            return number, torch.zeros(0), torch.zeros(0, 4)
        try:
            return number, *open_clip(frame, self.transform, frame.proposals, num_threads=self.num_threads)
        except UNREADABLE as error:
            return number, reason_of(error)


def _run(
    model: nn.Module,
    clips: _Clips,
    workers: int | None,
    store: ScoreStore,
    batch_size: int | None,
    amp_dtype: torch.dtype | None,
    progress: bool,
) -> tuple[Scores, dict[int, str]]:
    """Scores of the key frames, and the reasons why others cannot be read; scores are stored on the way."""
    from tqdm import tqdm

    device = next(model.parameters()).device
    scores: Scores = {}
    unread: dict[int, str] = {}
    loader = video_loader(clips, workers, device)
    bar = tqdm(total=len(clips), unit="key frame", disable=not progress or rank() > 0, smoothing=0.05)

    def readable() -> Iterator[Clip]:
        for number, *clip in loader:
            if len(clip) == 2:
                yield number, *clip
            else:
                unread[number] = clip[0]
                bar.update()

    try:
        with bar, eval_mode(model), torch.inference_mode():
            for batch in _batches(readable(), batch_size or default_batch_size(device)):
                for number, rows in _scores(model, batch, clips.transform, amp_dtype):
                    scores[number] = rows
                    store.add(number, rows)
                    bar.update()
    finally:
        store.flush()
    return scores, unread


def _batches(clips: Iterable[Clip], size: int) -> Iterator[list[Clip]]:
    """Up to ``size`` clips one after the other that are of the same shape."""
    batch: list[Clip] = []
    for clip in clips:
        if batch and clip[1].shape != batch[0][1].shape:
            yield batch
            batch = []
        batch.append(clip)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _scores(
    model: nn.Module, batch: Sequence[Clip], transform: KeyFrameTransform, amp_dtype: torch.dtype | None
) -> Iterator[tuple[int, np.ndarray]]:
    weight = next(model.parameters())
    numbers, frames, boxes = zip(*batch, strict=True)
    if not frames[0].numel():  # nobody was found
        yield from ((number, np.zeros((0, model.num_classes), np.float32)) for number in numbers)
        return
    clips = transform.normalize(torch.stack(frames), weight.device).to(weight.dtype)
    with torch.autocast(weight.device.type, amp_dtype, enabled=amp_dtype is not None):
        logits = model(clips, [rows.to(weight.device) for rows in boxes])
    if not logits.isfinite().all():
        raise ValueError("the model's scores are not finite numbers: check its weights, or use float32.")
    for number, rows in zip(numbers, split_by_clip(logits.float().sigmoid().cpu(), boxes), strict=True):
        yield number, rows.numpy()


# What is measured ----------------------------------------------------------------------------------------------------


def key_frame_metrics(
    data: KeyFrames, scored: Sequence[tuple[KeyFrame, np.ndarray]]
) -> tuple[dict[str, float], list[ClassResult]]:
    """Metrics in percent by the names of published tables, and the average precision of every class that counts."""
    if not scored:
        return {}, []
    if data.tubes:
        metrics, per_class, positives = tube_metrics(data, scored)
    else:
        result = evaluate_key_frames(scored, classes=data.classes, evaluated=data.evaluated)
        metrics, per_class, positives = {"mAP": result.mean}, result.per_class, result.positives
    names = dict(zip(data.classes, data.class_names, strict=True))
    rows = [ClassResult(names[c], _percent(per_class[c]), positives[c]) for c in data.classes if c in per_class]
    return {key: 100 * value for key, value in metrics.items() if not np.isnan(value)}, rows


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else 100 * value


def evaluate_key_frames(
    scored: Iterable[tuple[KeyFrame, np.ndarray]],
    *,
    excluded: Collection[tuple[str, int]] = (),
    classes: Sequence[int] = ACTIONS,
    evaluated: Collection[int] = EVALUATED,
) -> AVAResult:
    """AVA's mean average precision of scored key frames; see :func:`~videozoo.evaluation.metrics.ava.ava_map`.

    ``classes`` are the ids of the columns of labels and scores. Unlike the published evaluation, boxes and scores are
    not rounded to three decimals, so that ties do not decide.
    """
    numbers, wanted = np.asarray(classes), set(evaluated) & set(classes)
    counted = np.flatnonzero(np.isin(numbers, list(wanted)))  # columns
    keys: list[tuple[str, int]] = []
    found: list[tuple[np.ndarray, ...]] = []
    truth: list[tuple[np.ndarray, ...]] = []
    for place, (frame, scores) in enumerate(scored):
        keys.append((frame.video, frame.second))
        boxes, table = frame.proposals[:, :4], scores[:, counted]
        found.append(
            (
                np.full(table.size, place),
                np.repeat(boxes, len(counted), axis=0),
                np.tile(numbers[counted], len(boxes)),
                table.reshape(-1),
            )
        )
        rows, columns = np.nonzero(frame.labels)
        truth.append((np.full(len(rows), place), frame.boxes[rows], numbers[columns], np.ones(len(rows))))
    if not keys:
        raise ValueError("there is no key frame to evaluate: look at the annotations.")
    return ava_map((keys, _joined(found)), (keys, _joined(truth)), wanted, excluded)


def _joined(parts: Sequence[tuple[np.ndarray, ...]]) -> Boxes:
    return make_boxes(*(np.concatenate(column) for column in zip(*parts, strict=True)))
