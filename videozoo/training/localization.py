"""Training of localisers: BMN and both networks of BSN on files of features; SSN is in ``ssn``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .. import catalog
from ..checkpoint import weights_hash
from ..data.activitynet import FeatureSet
from ..data.annotations import Sample
from ..data.datasets import Dataset
from ..evaluation.localization import evaluate_proposals
from ..evaluation.recognition import UNREADABLE
from ..evaluation.result import EvaluationResult
from ..factory import create_model
from ..localization import (
    BMN_NMS,
    BSN_NMS,
    bmn_loss,
    bmn_targets,
    candidates,
    describe_candidates,
    match_candidates,
    pem_loss,
    tem_loss,
    tem_targets,
)
from ..localization.chain import ProposalChain
from ..localization.proposals import TRAIN_CANDIDATES
from ..models.bmn import BMN
from ..models.bsn import BoundaryScores, ProposalEvaluation, TemporalEvaluation
from ..models.ssn import SSN
from ..prediction import eval_mode
from .config import TrainConfig
from .examples import Examples, LocalizationTask
from .ssn import ProposalTask

__all__ = ["CandidateSet", "find_candidates", "make_localization_task", "prepare_localizer"]

NOT_FOR_LOCALIZERS = {  # settings that classes, clips or augmentation of recognisers are behind
    "probe_epochs": 0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "class_balanced": False,
    "precise_bn": 0,
    "groups": "plain",
}


# BMN and BSN's first network -----------------------------------------------------------------------------------------


class FeatureExamples(Examples):
    """Features of a video and the targets of its segments."""

    def __init__(self, data: FeatureSet, model: nn.Module, seed: int) -> None:
        super().__init__(data, seed)
        self.width, self.make_targets = model.in_chans, bmn_targets if isinstance(model, BMN) else tem_targets
        self.positions = ProposalChain((model,), {}).positions

    def read(self, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        features = self.data.features(number, self.width, self.positions)
        targets = self.make_targets(self.data[number].extra["normalized"], self.positions)
        return torch.from_numpy(features), tuple(torch.from_numpy(part) for part in vars(targets).values())


class FeatureTask(LocalizationTask):
    """BMN, and BSN's first network, whose candidates are validated by their boundary scores alone."""

    def __init__(self, model: nn.Module, train: FeatureSet, val: Any, config: TrainConfig, accelerator: Any) -> None:
        super().__init__(FeatureExamples(train, model, config.seed), val, accelerator, config.workers)
        self.is_bmn = isinstance(model, BMN)

    def loss(self, network: nn.Module, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        return (bmn_loss if self.is_bmn else tem_loss)(self.run(network, x), *targets)

    def validate(self, model: nn.Module) -> EvaluationResult:
        chain = ProposalChain((model,), BMN_NMS if self.is_bmn else BSN_NMS)
        return evaluate_proposals(chain, self.val, workers=self.workers)


# BSN's second network ------------------------------------------------------------------------------------------------


@dataclass
class CandidateSet:
    """Candidates that BSN's first network has found in the videos of a data set: what its second one learns from."""

    data: FeatureSet
    proposer: nn.Module
    """The first network."""
    descriptions: dict[int, np.ndarray] = field(default_factory=dict)
    """(K, 32) float32 by number of the video; empty where they are not looked at, as in validation."""
    overlaps: dict[int, np.ndarray] = field(default_factory=dict)
    """(K,) float32: IoU with the best true segment."""
    unread: dict[int, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the videos with their segments, and of the first network's weights."""
        return f"{self.data.digest} {weights_hash(self.proposer)[:16]}"

    def __getattr__(self, name: str) -> Any:
        if name in ("name", "split", "title", "source", "samples", "root"):
            return getattr(self.data, name)
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        return self.data[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.data)


def find_candidates(proposer: nn.Module, data: FeatureSet, *, progress: bool = False) -> CandidateSet:
    """Let BSN's first network find the candidates of all videos, the 500 best of each.

    Raises:
        ValueError: ``proposer`` is no such network, or not one video can be read.
    """
    if not isinstance(proposer, TemporalEvaluation):
        raise ValueError(f"{getattr(proposer, 'title', 'the model')} is not the first network of BSN (bsn_tem_...).")
    chain = ProposalChain((proposer,), BSN_NMS)
    weight = next(proposer.parameters())
    found = CandidateSet(data, proposer)
    for number in tqdm(range(len(data)), unit="video", desc="candidates", disable=not progress):
        try:
            features = data.features(number, chain.in_chans, chain.positions)
        except UNREADABLE as error:
            found.unread[number] = str(error) or type(error).__name__
            continue
        with eval_mode(proposer), torch.inference_mode():
            output = proposer(torch.from_numpy(features).to(weight)[None])
        scores = BoundaryScores(*(part[0].float().cpu().numpy() for part in output))
        rows = candidates(scores.start, scores.end)[:TRAIN_CANDIDATES]
        found.descriptions[number] = describe_candidates(rows, scores.action).astype(np.float32)
        overlap, _ = match_candidates(rows, data[number].extra["normalized"])
        found.overlaps[number] = np.nan_to_num(overlap).astype(np.float32)
    if not found.descriptions:
        raise ValueError(f"no features of {data.source} can be read; the first: {next(iter(found.unread.values()))}")
    return found


class CandidateExamples(Examples):
    """Descriptions ``(32, 500)`` of a video's candidates, their IoUs, and which of the 500 there are."""

    data: CandidateSet

    def read(self, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        if number in self.data.unread:
            raise ValueError(self.data.unread[number])
        rows, overlap = self.data.descriptions[number], self.data.overlaps[number]
        x = torch.zeros(rows.shape[1], TRAIN_CANDIDATES)
        iou, mask = torch.zeros(TRAIN_CANDIDATES), torch.zeros(TRAIN_CANDIDATES, dtype=torch.bool)
        x[:, : len(rows)], iou[: len(rows)], mask[: len(rows)] = (
            torch.from_numpy(rows).T,
            torch.from_numpy(overlap),
            True,
        )
        return x, (iou, mask)


class CandidateTask(LocalizationTask):
    """BSN's second network; validated together with the first one."""

    def __init__(self, model: nn.Module, train: CandidateSet, val: Any, config: TrainConfig, accelerator: Any) -> None:
        super().__init__(CandidateExamples(train, config.seed), val, accelerator, config.workers)

    def loss(self, network: nn.Module, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        return pem_loss(self.run(network, x).confidence, *targets)

    def validate(self, model: nn.Module) -> EvaluationResult:
        proposer = self.val.proposer.to(next(model.parameters()).device)
        return evaluate_proposals(ProposalChain((proposer, model), BSN_NMS), self.val.data, workers=self.workers)


# Making them ---------------------------------------------------------------------------------------------------------

TASKS = {
    BMN: (FeatureTask, FeatureSet),
    TemporalEvaluation: (FeatureTask, FeatureSet),
    ProposalEvaluation: (CandidateTask, CandidateSet),
    SSN: (ProposalTask, Dataset),
}


def make_localization_task(
    model: nn.Module, train: Any, val: Any, config: TrainConfig, accelerator: Any
) -> LocalizationTask:
    """The task of a localiser.

    Raises:
        ValueError: data of another kind, or settings that only recognisers have.
    """
    task, kind = TASKS[type(model)]
    for data in (train, *([] if val is None else [val])):
        if not isinstance(data, kind):
            raise ValueError(f"{model.title} is trained on a {kind.__name__}, got a {type(data).__name__}.")
    for key, neutral in NOT_FOR_LOCALIZERS.items():
        if getattr(config, key) != neutral:
            raise ValueError(
                f"{key}={getattr(config, key)} is for recognisers, {model.title} finds segments: set it to {neutral}, "
                "or begin with its recipe (videozoo finetune --list-recipes)."
            )
    if config.data or config.input:
        raise ValueError(f"{model.title} is trained without augmentation: leave data and input empty.")
    return task(model, train, val, config, accelerator)


def prepare_localizer(
    name: str,
    train: Any,
    config: TrainConfig | None = None,
    *,
    pretrained: bool = True,
    checkpoint_path: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A localiser to be trained on ``train``, on published weights or random ones; SSN with heads for its classes.

    ``config.init="imagenet"`` starts SSN's trunk from ImageNet weights, "scratch" any network from random ones; what is
    random is drawn with ``config.seed``. ``kwargs`` go to ``create_model``.
    """
    config, entry = config or TrainConfig(), catalog.find_entry(name)
    if config.init == "imagenet":
        kwargs["init"] = config.init
    if config.init or checkpoint_path is not None:
        pretrained = False
    if config.dropout is not None:
        kwargs["drop_rate"] = config.dropout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(
            name, pretrained=pretrained, checkpoint_path=checkpoint_path, cache_dir=cache_dir, **kwargs
        )
        if isinstance(model, SSN) and model.num_classes != train.num_classes:
            model.reset_classifier(train.num_classes)
    if type(model) not in TASKS:
        raise ValueError(f"{name} finds no segments: take one of videozoo.list_models(task='localization').")
    origin = (entry.full_name if entry else name) if pretrained else os.path.basename(checkpoint_path or "")
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "num_classes": model.num_classes,
        "name": "",
        "tag": "",
        "dataset": train.name if train.name in catalog.datasets() else "",
        "labels": "",
        "label_names": list(getattr(train, "class_names", ())) or None,
        "metrics": (),
        "pretrain": "in1k" if config.init == "imagenet" else origin,
        **dict.fromkeys(("resolution", "origin_url", "notes", "description"), ""),
    }
    model.has_published_weights = False
    return model
