"""What is trained: all in which recognisers and other networks differ, so that one run and one loop serve them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..data import create_transform
from ..data.datasets import Dataset
from ..evaluation.recognition import evaluate
from ..evaluation.result import EvaluationResult
from .clips import Batch, Clip, TrainingClips, collate
from .config import TrainConfig
from .mixing import Mixer, clip_loss

__all__ = ["ClipTask", "Task", "make_task"]

AUXILIARY_WEIGHT = 0.5  # of the loss of a classifier that only training uses


class Task(Protocol):
    """What a run asks of the thing that it trains."""

    clips: Any
    """A map from keys of ``ClipBatches`` to what one video gives in one epoch."""
    noun: str
    """What a step counts, in the plural: "clips"."""

    def collate(self, items: Sequence[Any]) -> Any:
        """Items of ``clips`` as a batch, which has ``unread``, a length, and ``pin_memory``."""
        ...

    def network(self, model: nn.Module) -> nn.Module:
        """What the processes share: a module whose ``forward`` is all that ``losses`` needs of the model."""
        ...

    def losses(self, network: nn.Module, batch: Any, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch: the loss that is shown, and the one that gradients are taken of."""
        ...

    def inputs(self, batch: Any) -> torch.Tensor:
        """What the model is given of a batch, on its device."""
        ...

    def validate(self, model: nn.Module) -> EvaluationResult:
        """The model on the validation videos; the first metric decides which epoch is the best."""
        ...


class WithAuxiliary(nn.Module):
    """Logits of all classifiers that training uses: clips ``(N, C, T, H, W)`` -> tuple of ``(N, num_classes)``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if getattr(self.model, "auxiliary_classifier", ""):
            return self.model.forward_auxiliary(clips)
        return (self.model(clips),)


class ClipTask:
    """Recognisers: clips and the classes of their videos."""

    noun = "clips"

    def __init__(self, model: nn.Module, train: Dataset, val: Dataset | None, config: TrainConfig, accelerator: Any):
        self.train, self.val, self.config, self.accelerator = train, val, config, accelerator
        self.transform = create_transform(model, is_training=True, **config.data)
        self.clips = TrainingClips(train, self.transform, seed=config.seed)
        self.mixer = Mixer(config, model.num_classes)

    def collate(self, items: Sequence[Clip]) -> Batch:
        return collate(items)

    def network(self, model: nn.Module) -> nn.Module:
        return WithAuxiliary(model)

    def losses(self, network: nn.Module, batch: Batch, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        clips, targets = self.mixer(self.inputs(batch), batch.targets.to(self.accelerator.device), rng)
        with self.accelerator.autocast():
            outputs = network(clips)
        main, *auxiliary = (clip_loss(logits, targets, self.config, self.train.multi_label) for logits in outputs)
        return main, main + AUXILIARY_WEIGHT * sum(auxiliary)

    def inputs(self, batch: Batch) -> torch.Tensor:
        return self.transform.normalize(batch.frames, self.accelerator.device)

    def validate(self, model: nn.Module) -> EvaluationResult:
        config = self.config
        return evaluate(
            model,
            self.val,
            views=config.val_views,
            workers=config.workers,
            amp_dtype="none" if config.precision == "no" else config.precision,
        )


def make_task(model: nn.Module, train: Any, val: Any, config: TrainConfig, accelerator: Any) -> Task:
    """The task of a model."""
    if getattr(model, "task", "") == "localization":
        from .localization import make_localization_task

        return make_localization_task(model, train, val, config, accelerator)
    if getattr(model, "task", "") == "detection":
        from .persons import make_person_task

        return make_person_task(model, train, val, config, accelerator)
    return ClipTask(model, train, val, config, accelerator)
