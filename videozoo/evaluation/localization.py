"""Localisers on a whole data set: recall of proposals and precision of labelled segments, as published.

BMN and BSN are measured on files of features (ActivityNet), SSN on videos with lists of proposals (THUMOS14). Where
``torch.distributed`` is initialised every process takes its share of the videos.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..data import resolve_data_config
from ..data.activitynet import FeatureSet
from ..data.annotations import Sample
from ..data.datasets import Dataset
from ..data.localization import regression_statistics
from ..localization import feature_seconds, label_segments
from ..localization.chain import ProposalChain
from ..localization.video import chain_facts, fitted, frame_features, score_proposals
from ..prediction import model_facts
from .metrics.temporal import ANET_THRESHOLDS, average_recall, detection_map, thumos14_map
from .processes import all_gather, rank, world_size
from .recognition import UNREADABLE, choose_videos, dataset_row, precision_name, remark_on, video_loader
from .result import EvaluationResult, Failure

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

    run = _shared(work, chosen, progress)
    scores = _scores_of(data, run, class_scores)
    metrics, curve = _proposal_metrics(data, run.found)
    if class_scores is not None:
        metrics |= _labelled_metrics(data, run.found, class_scores[0], scores)
    return _result(
        chain_facts(chain),
        data,
        run,
        chosen,
        metrics={name: metrics[name] for name in sorted(metrics, key=lambda name: name not in FIRST_METRICS)},
        curve=curve,
        published=_published(first.pretrained_cfg, with_map=class_scores is not None),
        remark=_remark(first, data, chosen, run),
        network=first,
        weights=weights,
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
) -> dict[str, float]:
    """ActivityNet's mean average precision in percent, over the classes that the measured videos have."""
    truth = {number: data[number].extra["segments"] for number in found}
    known = {label for rows in truth.values() for _, _, label in rows}
    if not known:
        return {}
    if known.isdisjoint(names):
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
    return metrics | {"average_mAP": 100 * result["average_mAP"]}


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
    progress: bool = False,
) -> EvaluationResult:
    """Measure SSN on videos with a list of proposals (``load_dataset("thumos14", ...)``): mAP at each IoU.

    Arguments and failures as of :func:`~videozoo.evaluation.evaluate`; ``workers`` decode one video together.
    """
    _check(batch_size, limit)
    if device is not None:
        model.to(device)
    videos = [sample.extra["proposals"] for sample in data]
    stats = regression_statistics(videos)
    chosen = choose_videos(len(data), limit, seed)

    def work(numbers: Sequence[int], unread: dict[int, str]) -> Iterator[tuple[int, list[np.ndarray]]]:
        for number in numbers:
            try:
                with data.open(number) as video:
                    features = frame_features(model, video, batch_size=batch_size)
                    listed = fitted(videos[number], len(video))
            except UNREADABLE as error:
                unread[number] = getattr(error, "reason", "") or str(error) or type(error).__name__
                continue
            yield number, score_proposals(model, features.values, listed, stats)

    run = _shared(work, chosen, progress)
    truth = {number: _truth(videos[number]) for number in run.found}
    metrics = {}
    if run.found and any(truth.values()):
        metrics = {name: 100 * value for name, value in thumos14_map(truth, run.found).items()}
    return _result(
        model_facts(model),
        data,
        run,
        chosen,
        metrics=metrics,
        curve=None,
        published=_published(model.pretrained_cfg, with_map=True),
        remark=_remark(model, data, chosen, run),
        network=model,
        weights=weights,
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
    work: Callable[[Sequence[int], dict[int, str]], Iterator[tuple[int, Any]]], chosen: Sequence[int], progress: bool
) -> _Run:
    """What ``work`` finds in the chosen videos, shared out among the processes."""
    start, unread = time.monotonic(), {}
    mine = chosen[rank() :: world_size()]
    with tqdm(total=len(mine), unit="video", disable=not progress or rank() > 0) as bar:
        found = {}
        for number, value in work(mine, unread):
            found[number] = value
            bar.update(len(found) + len(unread) - bar.n)
    parts = all_gather((found, unread, time.monotonic() - start))
    found = {number: value for part in parts for number, value in part[0].items()}
    unread = {number: reason for part in parts for number, reason in part[1].items()}
    return _Run({number: found[number] for number in sorted(found)}, unread, sum(part[2] for part in parts))


def _published(cfg: Mapping[str, Any], *, with_map: bool) -> dict[str, Any]:
    """The published numbers of a localiser: recall and precision stand in rows of their own."""
    merged: dict[str, Any] = {}
    for row in cfg.get("metrics") or ():
        is_map = any(key.startswith("mAP") for key in row)
        if with_map or not is_map:
            merged |= {key: value for key, value in row.items() if key != "protocol" and key not in merged}
    return merged


def _remark(model: nn.Module, data: Any, chosen: Sequence[int], run: _Run) -> str:
    remark = remark_on(model, data, "full", len(chosen))
    if run.unread and not remark:
        return f"{len(run.unread)} of {len(chosen)} videos are left out."
    return remark


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
        resumed=0,
        seconds=run.seconds,
        device=str(next(network.parameters()).device),
        precision=precision_name(network, "none"),
        processes=world_size(),
        weights=weights,
        curve=curve,
    )
