"""Training: a run that can be interrupted (``finetune``), its pieces, and the settings of the published trainings."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .averaging import ema_model
    from .clips import Batch, ClipBatches, TrainingClips, collate, training_loader
    from .config import TrainConfig
    from .loop import Step, TrainingError, training_steps
    from .mixing import Mixer, clip_loss
    from .normalization import freeze_norm_parameters, precise_batch_norm, train_mode
    from .parameters import freeze_stages, make_optimizer, parameter_groups, scaled_lr, set_probing
    from .preparation import prepare_model
    from .recipes import Recipe, describe, find_recipe, list_recipes, recipe, recipe_for
    from .run import TrainingResult, finetune
    from .schedules import learning_rate_factor

_HOMES = {
    "clips": ("Batch", "ClipBatches", "TrainingClips", "collate", "training_loader"),
    "config": ("TrainConfig",),
    "averaging": ("ema_model",),
    "preparation": ("prepare_model",),
    "recipes": ("Recipe", "describe", "find_recipe", "list_recipes", "recipe", "recipe_for"),
    "run": ("TrainingResult", "finetune"),
    "loop": ("Step", "TrainingError", "training_steps"),
    "mixing": ("Mixer", "clip_loss"),
    "normalization": ("freeze_norm_parameters", "precise_batch_norm", "train_mode"),
    "parameters": ("freeze_stages", "make_optimizer", "parameter_groups", "scaled_lr", "set_probing"),
    "schedules": ("learning_rate_factor",),
}

__all__ = [
    "Batch",
    "ClipBatches",
    "Mixer",
    "Recipe",
    "Step",
    "TrainConfig",
    "TrainingClips",
    "TrainingError",
    "TrainingResult",
    "clip_loss",
    "collate",
    "describe",
    "ema_model",
    "find_recipe",
    "finetune",
    "freeze_norm_parameters",
    "freeze_stages",
    "learning_rate_factor",
    "list_recipes",
    "make_optimizer",
    "parameter_groups",
    "precise_batch_norm",
    "prepare_model",
    "recipe",
    "recipe_for",
    "scaled_lr",
    "set_probing",
    "train_mode",
    "training_loader",
    "training_steps",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
