"""Localisers on a whole data set: recall of proposals and precision of labelled segments, as published.

BMN and BSN are measured on files of features (ActivityNet), SSN on videos with lists of proposals (THUMOS14). Where
``torch.distributed`` is initialised every process takes its share of the videos.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..checkpoint import weights_hash
from ..data import resolve_data_config
from ..data.activitynet import FeatureSet
from ..data.annotations import Sample
from ..data.datasets import Dataset
from ..data.localization import regression_statistics
from ..data.regions import ProposalVideo
from ..localization import feature_seconds, label_segments
from ..localization.chain import ProposalChain
from ..localization.video import chain_facts, fitted, frame_features, score_proposals, scored_detections
from ..prediction import class_names, full_name, model_facts
from .metrics.temporal import (
    ANET_THRESHOLDS,
    THUMOS14_THRESHOLDS,
    average_recall,
    detection_map,
    thumos14_precision,
)
from .processes import all_gather, first_rank_first, rank, share_out, world_size
from .recognition import UNREADABLE, choose_videos, dataset_row, precision_name, remark_on, video_loader
from .result import ClassResult, EvaluationResult, Failure
from .storage import ScoreStore

AVERAGE_NUMBERS = (1, 5, 10, 100)  # proposals a video
MAP_THRESHOLDS = (0.5, 0.75, 0.95)
FIRST_METRICS = ("AUC", "AR@100", "average_mAP")  # what reports begin with, and training looks at
CPU_BATCH, GPU_BATCH = 4, 32  # videos in the network at a time
ClassScores = tuple[Sequence[str], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class _Run:
    """What all processes have found."""

    found: dict[int, Any]
    unread: dict[int, str]
    resumed: int
    seconds: float


# BMN and BSN ---------------------------------------------------------------------------------------------------------


def evaluate_proposals(
    chain: ProposalChain,
    data: FeatureSet,
    *,
    class_scores: ClassScores | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device | None = None,
    limit: int | None = None,
    seed: int = 0,
    weights: str = "",
    progress: bool = False,
) -> EvaluationResult:
    """Measure BMN or BSN: AR@AN and AUC, and with ``class_scores`` the mean average precision of labelled segments.

    A video whose features are missing or cannot be used is listed in the result and left out; files of videos without
    annotation are not looked at. Arguments as of :func:`~videozoo.evaluation.evaluate`.

    Args:
        class_scores: names of classes, and each video's scores by its name with or without ``v_``: see
            ``read_class_scores``.
        batch_size: videos in the network at a time; by default 4 on a CPU and 32 elsewhere.

    Raises:
        ValueError: wrong argument, or class scores of other classes than the annotations'.
    """
    _check(batch_size, limit)
    if device is not None:
        chain.to(device)
    first = chain.networks[0]
    place = next(first.parameters()).device
    size = batch_size or (CPU_BATCH if place.type == "cpu" else GPU_BATCH)
    chosen = choose_videos(len(data), limit, seed)

    def work(numbers: Sequence[int], unread: dict[int, str]) -> Iterator[tuple[int, np.ndarray]]:
        loader = video_loader(_FeatureFiles(data, chain, numbers), workers, place)
        for batch in _batches(loader, size, unread):
            spans = [_covered(data[number]) for number, _ in batch]
            yield from zip(
                (number for number, _ in batch),
                chain.proposals(np.stack([features for _, features in batch]), spans),
                strict=True,
            )

    run = _shared(work, chosen, progress, ScoreStore(None, {}, []))
    scores = _scores_of(data, run, class_scores)
    metrics, curve = _proposal_metrics(data, run.found)
    per_class = None
    if class_scores is not None:
        labelled, per_class = _labelled_metrics(data, run.found, class_scores[0], scores)
        metrics |= labelled
    return _result(
        chain_facts(chain),
        data,
        run,
        chosen,
        metrics={name: metrics[name] for name in sorted(metrics, key=lambda name: name not in FIRST_METRICS)},
        curve=curve,
        published=_published(first.pretrained_cfg, with_map=class_scores is not None),
        remark=" ".join([*_remarks(first, data, chosen, run), *_unfindable(data, run.found)]),
        network=first,
        weights=weights,
        per_class=per_class,
    )


class _FeatureFiles:
    """The number of each video with its features, or with the reason why there are none."""

    def __init__(self, data: FeatureSet, chain: ProposalChain, numbers: Sequence[int]) -> None:
        self.data, self.numbers = data, numbers
        self.width, self.positions = chain.in_chans, chain.positions
        self.num_threads = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[int, np.ndarray | str]:
        number = self.numbers[place]
        try:
            return number, self.data.features(number, self.width, self.positions)
        except UNREADABLE as error:
            return number, str(error) or type(error).__name__


def _batches(
    items: Iterable[tuple[int, Any]], size: int, unread: dict[int, str]
) -> Iterator[list[tuple[int, np.ndarray]]]:
    batch: list[tuple[int, np.ndarray]] = []
    for number, value in items:
        if isinstance(value, str):
            unread[number] = value
            continue
        batch.append((number, np.asarray(value)))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _covered(sample: Sample) -> float:
    """Seconds that the features of a video stand for; all of it where it is shorter than one of their steps."""
    return feature_seconds(sample.extra["seconds"], sample.num_frames) or sample.extra["seconds"]


def _name(sample: Sample) -> str:
    """The name of a video in results: without ``v_``."""
    return sample.path.removeprefix("v_")


def _proposal_metrics(
    data: FeatureSet, found: Mapping[int, np.ndarray]
) -> tuple[dict[str, float], list[tuple[float, float]] | None]:
    """AR@AN and AUC in percent, and points (average number of proposals, recall in percent)."""
    truth = {number: [row[:2] for row in data[number].extra["segments"]] for number in found}
    if not any(truth.values()) or not sum(map(len, found.values())):
        return {}, None
    recall = average_recall(truth, found, max_avg_proposals=AVERAGE_NUMBERS[-1])
    metrics = {"AUC": recall.auc} | {name: 100 * value for name, value in recall.at(*AVERAGE_NUMBERS).items()}
    curve = zip(recall.proposals_per_video.tolist(), (100 * recall.average_recall).tolist(), strict=True)
    return metrics, list(curve)


def _scores_of(data: FeatureSet, run: _Run, class_scores: ClassScores | None) -> dict[int, np.ndarray]:
    """The class scores of each video; those without are failures from here on."""
    scores: dict[int, np.ndarray] = {}
    for number in list(run.found) if class_scores else ():
        sample = data[number]
        row = next((class_scores[1][key] for key in (_name(sample), sample.path) if key in class_scores[1]), None)
        if row is None:
            run.unread[number] = "there are no class scores of it"
            del run.found[number]
        else:
            scores[number] = row
    return scores


def _labelled_metrics(
    data: FeatureSet, found: Mapping[int, np.ndarray], names: Sequence[str], scores: Mapping[int, np.ndarray]
) -> tuple[dict[str, float], list[ClassResult] | None]:
    """ActivityNet's mean average precision in percent, over the classes that the measured videos have."""
    truth = {number: data[number].extra["segments"] for number in found}
    known = Counter(label for rows in truth.values() for _, _, label in rows)
    if not known:
        return {}, None
    if known.keys().isdisjoint(names):
        raise ValueError(
            f"no class of the class scores ({names[0]!r}, ...) is in the annotations ({min(known)!r}, ...): "
            "they belong to another data set."
        )
    detections = {
        number: [row for row in label_segments(rows, scores[number], names) if row[3] in known]
        for number, rows in found.items()
    }
    result = detection_map(truth, detections)
    at = dict(zip((round(threshold, 2) for threshold in ANET_THRESHOLDS), result["mAP"].tolist(), strict=True))
    metrics = {f"mAP@{threshold:.2f}": 100 * at[threshold] for threshold in MAP_THRESHOLDS}
    values = dict(zip(result["labels"], result["ap"].mean(0).tolist(), strict=True))
    rows = [ClassResult(str(label), 100 * values[label], known[label]) for label in sorted(known, key=str)]
    return metrics | {"average_mAP": 100 * result["average_mAP"]}, rows


# SSN -----------------------------------------------------------------------------------------------------------------


def evaluate_detections(
    model: nn.Module,
    data: Dataset,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device | None = None,
    limit: int | None = None,
    seed: int = 0,
    weights: str = "",
    save_logits: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> EvaluationResult:
    """Measure SSN on videos with a list of proposals (``load_dataset("thumos14", ...)``): mAP at each IoU.

    Classes without a segment in the measured videos are left out of the means. Arguments and failures as of
    :func:`~videozoo.evaluation.evaluate`; ``save_logits`` keeps what the network says of each proposal.

    Raises:
        ValueError: wrong argument, a list with labels that the model does not have, or without a good proposal.
    """
    _check(batch_size, limit)
    if device is not None:
        model.to(device)
    videos = [sample.extra["proposals"] for sample in data]
    _check_labels(videos, model.num_classes)
    stats = regression_statistics(videos)
    chosen = choose_videos(len(data), limit, seed)
    with first_rank_first():
        store = _store(save_logits, model, videos)

    def work(numbers: Sequence[int], unread: dict[int, str]) -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            try:
                with data.open(number) as video:
                    listed = fitted(videos[number], len(video))
                    features = frame_features(model, video, batch_size=batch_size)
            except UNREADABLE as error:
                unread[number] = getattr(error, "reason", "") or str(error) or type(error).__name__
                continue
            yield number, score_proposals(model, features.values, listed)

    run = _shared(work, chosen, progress, store)
    found = {number: scored_detections(scores, stats) for number, scores in run.found.items()}
    names = class_names(model.pretrained_cfg, model.num_classes)
    metrics, per_class = _detection_metrics({number: _truth(videos[number]) for number in found}, found, names)
    missing = len(names) - len(per_class)
    return _result(
        model_facts(model),
        data,
        run,
        chosen,
        metrics=metrics,
        curve=None,
        published=_published(model.pretrained_cfg, with_map=True),
        remark=" ".join(
            _remarks(model, data, chosen, run)
            + [f"{missing} of {len(names)} classes have no segment here and are left out."] * (missing > 0)
        ),
        network=model,
        weights=weights,
        per_class=per_class or None,
    )


def _check_labels(videos: Sequence[ProposalVideo], classes: int) -> None:
    for video in videos:
        for label, start, end in video.ground_truth:
            if not 1 <= label <= classes:
                raise ValueError(
                    f"the segment {start:g} to {end:g} of {video.video} has the label {label}, the model has {classes} "
                    "classes from 1 on: take the list that belongs to it."
                )


def _store(folder: str | os.PathLike[str] | None, model: nn.Module, videos: Sequence[ProposalVideo]) -> ScoreStore:
    names = [video.video for video in videos]
    if folder is None:
        return ScoreStore(None, {}, names)
    fingerprint = {
        "weights": weights_hash(model),
        "protocol": json.dumps(resolve_data_config(model=model), sort_keys=True),
        "precision": precision_name(model, "none"),
        "list of proposals": hashlib.sha256(repr(videos).encode("utf-8", "replace")).hexdigest(),
    }
    return ScoreStore(folder, fingerprint, names, {"model": full_name(model.pretrained_cfg)})


def _detection_metrics(
    truth: Mapping[int, Mapping[int, Sequence[tuple[float, float]]]],
    found: Mapping[int, Sequence[np.ndarray]],
    names: Sequence[str],
) -> tuple[dict[str, float], list[ClassResult]]:
    """THUMOS14's mean average precision in percent over the classes that occur, and what each of them gets."""
    known = Counter(label for of in truth.values() for label, rows in of.items() for _ in rows)
    if not known:
        return {}, []
    table = 100 * thumos14_precision(truth, found)[sorted(known)]
    rows = zip(sorted(known), table.mean(1).tolist(), strict=True)
    means = zip(THUMOS14_THRESHOLDS, table.mean(0).tolist(), strict=True)
    return (
        {f"mAP@{threshold:.2f}": value for threshold, value in means},
        [ClassResult(names[label], value, known[label]) for label, value in rows],
    )


def _truth(video: Any) -> dict[int, list[tuple[float, float]]]:
    """Segments of each class from 0, as fractions."""
    truth: dict[int, list[tuple[float, float]]] = {}
    for label, start, end in video.ground_truth:
        truth.setdefault(label - 1, []).append((start / video.num_frames, end / video.num_frames))
    return truth


# Both ----------------------------------------------------------------------------------------------------------------


def _check(batch_size: int | None, limit: int | None) -> None:
    for name, value in {"batch_size": batch_size, "limit": limit}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def _shared(
    work: Callable[[Sequence[int], dict[int, str]], Iterator[tuple[int, Any]]],
    chosen: Sequence[int],
    progress: bool,
    store: ScoreStore,
) -> _Run:
    """What ``work`` finds in the chosen videos, shared out among the processes; what is stored is not looked for."""
    saved, earlier = store.read()
    stored = len(saved)
    mine, saved = share_out(chosen, saved)
    start, unread, found = time.monotonic(), {}, {}
    try:
        with tqdm(total=len(mine), unit="video", disable=not progress or rank() > 0) as bar:
            for number, value in work(mine, unread):
                found[number] = value
                store.add(number, value)
                bar.update(len(found) + len(unread) - bar.n)
    finally:
        store.flush()
    seconds = time.monotonic() - start + earlier * len(saved) / max(stored, 1)
    parts = all_gather((saved | found, unread, len(saved), seconds))
    found = {number: value for part in parts for number, value in part[0].items()}
    unread = {number: reason for part in parts for number, reason in part[1].items()}
    resumed, seconds = (sum(part[place] for part in parts) for place in (2, 3))
    return _Run({number: found[number] for number in sorted(found)}, unread, resumed, seconds)


def _published(cfg: Mapping[str, Any], *, with_map: bool) -> dict[str, Any]:
    """The published numbers of a localiser: recall and precision stand in rows of their own."""
    merged: dict[str, Any] = {}
    for row in cfg.get("metrics") or ():
        is_map = any(key.startswith("mAP") for key in row)
        if with_map or not is_map:
            merged |= {key: value for key, value in row.items() if key != "protocol" and key not in merged}
    return merged


def _remarks(model: nn.Module, data: Any, chosen: Sequence[int], run: _Run) -> list[str]:
    remark = remark_on(model, data, "full", len(chosen))
    return [remark] * bool(remark) + [f"{len(run.unread)} of {len(chosen)} videos are left out."] * bool(run.unread)


def _unfindable(data: FeatureSet, found: Mapping[int, Any]) -> list[str]:
    """A sentence on annotated segments that no proposal can be, if there are any."""
    rows = [(row, data[number].extra["seconds"]) for number in found for row in data[number].extra["segments"]]
    if found and not rows:
        return ["No video has an annotated segment: there is nothing to measure."]
    wrong = sum(not max(start, 0) < min(end, seconds) for (start, end, _), seconds in rows)
    return [f"{wrong} of {len(rows)} annotated segments have no length or lie outside their video."] * (wrong > 0)


def _result(
    facts: dict[str, Any],
    data: Any,
    run: _Run,
    chosen: Sequence[int],
    *,
    metrics: dict[str, float],
    curve: list[tuple[float, float]] | None,
    published: dict[str, Any],
    remark: str,
    network: nn.Module,
    weights: str,
    per_class: list[ClassResult] | None,
) -> EvaluationResult:
    return EvaluationResult(
        model=facts,
        dataset=dataset_row(data),
        config=resolve_data_config(model=network),
        metrics=metrics,
        published=published,
        remark=remark,
        videos=[os.fspath(data[number].path) for number in run.found],
        labels=[],
        scores=np.zeros((0, 0), np.float32),
        class_names=[],
        failures=[Failure(os.fspath(data[number].path), run.unread[number]) for number in sorted(run.unread)],
        resumed=run.resumed,
        seconds=run.seconds,
        device=str(next(network.parameters()).device),
        precision=precision_name(network, "none"),
        processes=world_size(),
        weights=weights,
        per_class=per_class,
        curve=curve,
    )
