"""Training of SSN: frames drawn from complete, incomplete and background proposals of a video."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import get_worker_info

from ..data import resolve_data_config
from ..data.datasets import Dataset
from ..data.localization import SSNProposal, draw_proposals, proposal_pools, regression_statistics, stage_scales
from ..data.sampling import proposal_clips
from ..data.windows import WindowTransform
from ..evaluation.localization import evaluate_detections
from ..evaluation.result import EvaluationResult
from ..localization import ssn_loss
from ..models.ssn import SSN, STAGES, ProposalPredictions
from .config import TrainConfig
from .examples import ExampleBatch, Examples, LocalizationTask

__all__ = ["ProposalExamples", "ProposalTask"]

CONTEXT_RATIO = 0.5  # length of the outer stages, as a share of the proposal's


class _OnProposals(nn.Module):
    """SSN as it is trained."""

    def __init__(self, model: SSN) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor, scales: torch.Tensor) -> ProposalPredictions:
        return self.model.forward_proposals(frames, scales)


class ProposalExamples(Examples):
    """Frames of 8 proposals of a video, uint8 ``(8, 9, H, W, C)``; targets: kinds, labels, regression, stage scales."""

    def __init__(self, data: Dataset, model: SSN, seed: int) -> None:
        super().__init__(data, seed)
        videos = [sample.extra["proposals"] for sample in data]
        self.pools = proposal_pools(videos)
        self.mean, deviation = regression_statistics(videos)
        self.deviation = np.where(deviation > 0, deviation, 1.0)
        self.numbers = {video.video: number for number, video in enumerate(videos)}
        self.transform = WindowTransform(resolve_data_config(model=model), 1)

    def read(self, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        drawn = draw_proposals(self.pools, self.data[number].extra["proposals"].video, rng)
        frames = torch.stack([self._frames(row, rng) for row in drawn])
        kinds = torch.tensor([0] + [1] * 6 + [2])
        labels = torch.tensor([row.label for row in drawn]) * (kinds < 2)
        regression = (np.array([row.regression for row in drawn]) - self.mean) / self.deviation
        scales = [stage_scales(row.start, row.end, self._total(row)) for row in drawn]
        return frames, (kinds, labels, torch.from_numpy(regression).float(), torch.tensor(scales, dtype=torch.float32))

    def _total(self, row: SSNProposal) -> int:
        return self.data[self.numbers[row.video]].extra["proposals"].num_frames

    def _frames(self, row: SSNProposal, rng: np.random.Generator) -> torch.Tensor:
        """Frames of the three stages of a proposal, uint8 ``(9, H, W, C)``."""
        with self.data.open(self.numbers[row.video], num_threads=1 if get_worker_info() else 0) as video:
            start, end = int(row.start), max(int(row.end), int(row.start) + 1)
            before, body, after = STAGES
            places = proposal_clips(
                self._total(row),
                [(start, end)],
                frames=1,
                body=body,
                context=(before, after),
                context_ratio=CONTEXT_RATIO,
                rng=rng,
            )[:, 0]
            numbers, rows = np.unique(np.minimum(places, len(video) - 1), return_inverse=True)
            found = self.transform.cropped(video, numbers)
        return torch.stack([found[int(number)] for number in numbers])[torch.from_numpy(rows)]


class ProposalTask(LocalizationTask):
    """SSN: 8 proposals of each video of a batch, with 9 frames each."""

    def __init__(self, model: SSN, train: Dataset, val: Any, config: TrainConfig, accelerator: Any) -> None:
        super().__init__(ProposalExamples(train, model, config.seed), val, accelerator, config.workers)
        self.transform = self.clips.transform

    def network(self, model: nn.Module) -> nn.Module:
        return _OnProposals(model)

    def inputs(self, batch: ExampleBatch) -> torch.Tensor:
        return self.transform.normalize(batch.input.flatten(0, 1), self.accelerator.device)  # (N * 8, C, 9, H, W)

    def loss(self, network: nn.Module, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        kinds, labels, regression, scales = (target.flatten(0, 1) for target in targets)
        return ssn_loss(self.run(network, x, scales), kinds, labels, regression)

    def validate(self, model: nn.Module) -> EvaluationResult:
        return evaluate_detections(model, self.val)
