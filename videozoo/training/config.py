"""The settings of a training run, as one flat dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..names import nearest_names

__all__ = ["TrainConfig"]

CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "groups": ("plain", "tsm"),
    "schedule": ("cosine", "step", "constant"),
    "freeze_bn": ("none", "statistics", "partial", "all"),
    "precision": ("no", "bf16", "fp16"),
    "val_views": ("full", "fast"),
    "logger": ("csv", "tensorboard"),
}


def setting(default: Any, text: str) -> Any:
    """A field with its explanation, which is also the help of its option on the command line."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """How a recogniser is trained; the defaults fine-tune published weights on a data set of some hundred videos.

    A recipe (`videozoo.training.recipe`) is a `TrainConfig` with the numbers of a published checkpoint's training.
    Unknown keys and values out of range are errors.
    """

    epochs: int = setting(20, "passes over the training videos, those of probe_epochs among them")
    probe_epochs: int = setting(
        2, "first epochs, in which only the classifier learns, so that a new one does not disturb the trained layers"
    )
    batch_size: int = setting(8, "clips of one process in one forward pass")
    accumulate: int = setting(1, "forward passes whose gradients make one step")

    optimizer: str = setting("sgd", "sgd, adam or adamw")
    lr: float = setting(
        0.01, "learning rate for lr_batch clips a step, summed over processes; scaled linearly to the real number"
    )
    lr_batch: int = setting(64, "clips a step that lr is meant for")
    scale_lr: bool = setting(True, "false takes lr as it is")
    momentum: float = setting(0.9, "of SGD; the first beta of Adam")
    nesterov: bool = setting(False, "Nesterov momentum")
    weight_decay: float = setting(1e-4, "of all parameters but those that the model excludes")
    layer_decay: float = setting(
        1.0, "each layer, counted from the classifier down, learns this much slower than the one above it"
    )
    head_lr_scale: float = setting(1.0, "the classifier's learning rate as a multiple")
    groups: str = setting(
        "plain", "'tsm': the parameter groups of TSM's training (biases twice, classifier five and ten times as fast)"
    )
    clip_grad: float = setting(40.0, "largest norm of all gradients; 0 = no limit")

    schedule: str = setting("cosine", "how the learning rate falls: cosine, step or constant")
    milestones: tuple[int, ...] = setting(
        (), "epochs after which schedule 'step' multiplies the learning rate by gamma"
    )
    gamma: float = setting(0.1, "factor of each milestone")
    min_lr_ratio: float = setting(0.0, "where 'cosine' ends, as a share of the learning rate")
    warmup_epochs: float = setting(0.0, "epochs of a linear warm-up")
    warmup_ratio: float = setting(0.1, "share of the learning rate that the linear warm-up starts from")

    label_smoothing: float = setting(0.0, "share of each label that is spread over all classes")
    mixup: float = setting(0.0, "parameter of mixup's Beta distribution; 0 = no mixup")
    cutmix: float = setting(0.0, "the same of cutmix. With both, each batch draws one of them")
    mix_prob: float = setting(1.0, "share of the batches that are mixed")
    loss_weight: float = setting(1.0, "factor of the loss")
    repeats: int = setting(
        1,
        "repeated augmentation: clips of each video in a batch. An epoch still sees as many clips as there are videos",
    )
    class_balanced: bool = setting(False, "draw videos so that all classes are equally frequent")
    input: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "what one input is and how it is tested, where it differs from the model: num_frames, stride, "
            "sampling, size, resize, keep_ratio, segments, clips, crops, average"
        },
    )
    data: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"help": "training augmentation: train_crop, area, aspect, scales, hflip, color_jitter, ..."},
    )

    init: str = setting(
        "",
        "in place of the entry's weights, 'imagenet': torchvision's of images, inflated over time; "
        "'scratch': freshly drawn ones; for a detector also the NAME of a recogniser with its trunk",
    )
    freeze_stages: int = setting(0, "stages that never learn, counted from the input; 1 = the stem")
    freeze_bn: str = setting(
        "none",
        "'statistics': batch norms keep their running means and variances; 'all': they are frozen, weight and bias "
        "too; 'partial': so are all but the first",
    )
    precise_bn: int = setting(
        0, "batches from which the running statistics are computed anew before each validation; 0 = not"
    )
    sync_bn: bool = setting(False, "on several GPUs, batch norms see the clips of all of them")
    dropout: float | None = setting(None, "dropout before the classifier in place of the model's own")
    ema: float = setting(
        0.0, "decay of the moving average of the weights, which is what is validated and kept; 0 = none"
    )

    precision: str = setting("no", "autocast: no, bf16 or fp16")
    compile: bool = setting(False, "torch.compile the network")
    channels_last: bool = setting(False, "clips and weights in channels-last layout on a GPU too, as they are on a CPU")
    grad_checkpointing: bool = setting(
        False, "compute the activations of each block again in the backward pass: less memory, more time"
    )
    workers: int = setting(
        0, "processes that decode videos, of each training process; 0 = decode in the training process"
    )
    val_views: str = setting("full", "views of a validation video: full = the whole test protocol, or fast = one view")
    patience: int = setting(0, "stop after so many epochs without a better validation; 0 = never")
    checkpoint_every: int = setting(
        0, "steps between checkpoints within an epoch, beside the one after each epoch; 0 = none"
    )
    seed: int = setting(0, "of all random draws")
    logger: str = setting("csv", "csv, or tensorboard as well")

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r} is unknown: use {' or '.join(map(repr, allowed))}.")
        for key, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key}={value} must be a finite number.")
        for key in ("epochs", "batch_size", "accumulate", "lr_batch", "repeats"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 1.")
        at_least_0 = ("probe_epochs", "lr", "weight_decay", "clip_grad", "warmup_epochs", "mixup", "cutmix", "repeats")
        for key in (*at_least_0, "freeze_stages", "precise_bn", "workers", "patience", "checkpoint_every"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} must be 0 or more.")
        for key in ("label_smoothing", "mix_prob", "ema", "layer_decay", "warmup_ratio", "min_lr_ratio"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)} must be between 0 and 1.")
        if self.ema and self.precise_bn:
            raise ValueError("ema averages the statistics of batch norms as well: leave precise_bn at 0.")
        if self.schedule == "step" and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={self.milestones} must be increasing epochs.")

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with other values; None means unchanged. TypeError with near matches for an unknown key."""
        changes = {key: value for key, value in changes.items() if value is not None}
        known = {f.name for f in fields(self)}
        for key in changes:
            if key not in known:
                raise TypeError(
                    f"training has no setting {key!r}: did you mean {' or '.join(nearest_names(key, known))}?"
                )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self) | {"milestones": list(self.milestones)}
