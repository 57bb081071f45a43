"""Which parameters learn, and how fast: groups for an optimiser, frozen stages, the probe of a new classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.recognizer import group_parameters
from .config import TrainConfig

__all__ = ["classifier_parameters", "freeze_stages", "make_optimizer", "parameter_groups", "scaled_lr", "set_probing"]

CONVOLUTIONS_AND_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


class Rate(NamedTuple):
    """How one parameter learns."""

    label: str
    lr_scale: float
    decays: bool


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    layer_decay: float = 1.0,
    head_lr_scale: float = 1.0,
    groups: str = "plain",
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser; each parameter that requires a gradient is in exactly one.

    Parameters of equal rate and decay share a group. Groups run from the input to the classifier, and the same model
    and settings always give the same groups in the same order, as saved states of an optimiser need it.

    Args:
        model: a model as ``create_model`` gives it, not wrapped or compiled.
        lr: learning rate of a group whose ``lr_scale`` is 1.
        weight_decay: of every parameter but those that ``model.no_weight_decay()`` names. With "plain", biases and
            norms decay too, as in most published trainings of video networks.
        layer_decay: a layer of ``group_matcher`` learns this much slower than the one above it (Clark et al., ICLR
            2020, arXiv:2003.10555); the classifier and what else is in its layer learn at the full rate.
        head_lr_scale: factor of the classifier's rate, the auxiliary one's as well.
        groups: "tsm" for the groups of the Temporal Shift Module's training (Lin et al., ICCV 2019,
            arXiv:1811.08383): biases learn twice as fast and do not decay, norms do not decay, the classifier's
            weight learns five times and its bias ten times as fast, the bias without decay.

    Returns:
        Dicts with ``params``, ``lr``, ``weight_decay``, ``lr_scale`` (``lr`` is the argument times this) and ``name``.

    Raises:
        ValueError: nothing learns; "tsm" together with other factors or on layers that it does not know.
    """
    if groups == "tsm":
        if layer_decay != 1 or head_lr_scale != 1:
            raise ValueError(
                f"groups='tsm' sets the rate of the classifier and of all layers itself: leave layer_decay and "
                f"head_lr_scale at 1 (they are {layer_decay:g} and {head_lr_scale:g}), or use groups='plain'."
            )
        rates = _tsm_rates(model)
    elif groups == "plain":
        rates = _plain_rates(model, layer_decay, head_lr_scale)
    else:
        raise ValueError(f"groups={groups!r} is unknown: use 'plain' or 'tsm'.")

    undecayed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    parameters = dict(model.named_parameters())
    merged: dict[tuple[float, float], tuple[dict[str, None], list[nn.Parameter]]] = {}  # labels as an ordered set
    for name, rate in rates.items():
        decay = weight_decay if rate.decays and name not in undecayed else 0.0
        if parameters[name].requires_grad:
            labels, members = merged.setdefault((rate.lr_scale, decay), ({}, []))
            labels[rate.label if decay or not weight_decay else f"{rate.label} without decay"] = None
            members.append(parameters[name])
    if not merged:
        raise ValueError(f"no parameter of {_title(model)} requires a gradient: freeze fewer stages.")
    return [
        {"params": members, "lr": lr * scale, "weight_decay": decay, "lr_scale": scale, "name": _joined(labels)}
        for (scale, decay), (labels, members) in merged.items()
    ]


def _joined(labels: Iterable[str]) -> str:
    labels = list(labels)
    return " and ".join(labels) if len(labels) <= 2 else f"{labels[0]} to {labels[-1]}"


def _plain_rates(model: nn.Module, layer_decay: float, head_lr_scale: float) -> dict[str, Rate]:
    """Rates by parameter name, from the input to the classifier."""
    heads = set(classifier_parameters(model))
    if layer_decay == 1:
        layers = [[name for name, _ in model.named_parameters()]]
    else:
        layers = _layers(model)
    rates = {}
    for depth, names in enumerate(layers):
        scale = layer_decay ** (len(layers) - 1 - depth)
        for name in sorted(names, key=lambda n: n in heads):
            if name in heads:
                rates[name] = Rate("classifier", head_lr_scale, True)
            else:
                rates[name] = Rate("layers" if len(layers) == 1 else f"layer {depth}", scale, True)
    return rates


def _tsm_rates(model: nn.Module) -> dict[str, Rate]:
    heads = set(classifier_parameters(model))
    body, head = {}, {}
    for prefix, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{kind}" if prefix else kind
            if not parameter.requires_grad:
                continue
            if name in heads:
                head[name] = Rate("classifier bias", 10.0, False) if kind == "bias" else Rate("classifier", 5.0, True)
            elif isinstance(module, NORMS):
                body[name] = Rate("norms", 1.0, False)
            elif isinstance(module, CONVOLUTIONS_AND_LINEAR):
                body[name] = Rate("biases", 2.0, False) if kind == "bias" else Rate("weights", 1.0, True)
            else:
                raise ValueError(
                    f"groups='tsm' knows the parameters of convolutions, linear layers and norms, {name} of "
                    f"{_title(model)} belongs to a {type(module).__name__}: use groups='plain'."
                )
    return body | head


def _title(model: nn.Module) -> str:
    return getattr(model, "title", type(model).__name__)


def _layers(model: nn.Module, coarse: bool = False) -> list[list[str]]:
    """Names of parameters, from the first layer (``coarse``: stage) to the classifier's."""
    if not hasattr(model, "group_matcher"):
        raise ValueError(
            f"{_title(model)} does not tell its layers, which layer_decay and freeze_stages go by: "
            "give it a method group_matcher, or leave both at their defaults."
        )
    return list(group_parameters(model, coarse).values())


def classifier_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the classifier, and of the auxiliary one where there is one (TPN); [] without one."""
    named = (getattr(model, "classifier", ""), getattr(model, "auxiliary_classifier", ""))
    prefixes = tuple(f"{name}." for name in named if isinstance(name, str) and name)
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)] if prefixes else []


def freeze_stages(model: nn.Module, count: int) -> None:
    """Stop the first ``count`` stages from learning; 1 = the stem, 2 = the stem and the first stage, ...

    Stages are the coarse groups of ``group_matcher``; a SlowFast network's hold the layers of both pathways. The
    statistics of their batch norms are kept as well where ``train_mode`` puts the model into training mode.

    Raises:
        ValueError: there are not so many stages before the classifier.
    """
    if not count:
        return
    *stages, _ = _layers(model, coarse=True)
    if not 0 <= count <= len(stages):
        raise ValueError(
            f"freeze_stages={count} is not possible: {_title(model)} has {len(stages)} stages before its classifier, "
            f"the stem counted, so use 0 to {len(stages)}."
        )
    for name in (name for names in stages[:count] for name in names):
        model.get_parameter(name).requires_grad_(False)


def set_probing(model: nn.Module, probing: bool) -> None:
    """True: only the classifier learns. False: each parameter requires a gradient as it did before the first True.

    The auxiliary classifier is one (TPN), the rest of its head is not. ``train_mode`` keeps the statistics of all batch
    norms of the trunk meanwhile. Optimiser groups hold what requires a gradient when they are made, and
    ``DistributedDataParallel`` synchronises that alone: make both anew after a change.

    Raises:
        ValueError: the model has no classifier.
    """
    before: dict[str, bool] | None = getattr(model, "learned_before_probe", None)
    if probing:
        heads = set(classifier_parameters(model))
        if not heads:
            raise ValueError(f"{_title(model)} has no classifier to learn: create it with num_classes of at least 1.")
        if before is None:
            model.learned_before_probe = {name: p.requires_grad for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in heads)
    elif before is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
        del model.learned_before_probe


def scaled_lr(config: TrainConfig, clips_per_step: int) -> float:
    """The learning rate for steps of ``clips_per_step`` clips, those of all processes and accumulated passes.

    Linear in their number (Goyal et al., 2017, arXiv:1706.02677) from ``config.lr`` at ``config.lr_batch``, unless
    ``config.scale_lr`` is False. ValueError if there is no clip.
    """
    if clips_per_step < 1:
        raise ValueError(f"clips_per_step={clips_per_step} must be at least 1.")
    return config.lr * clips_per_step / config.lr_batch if config.scale_lr else config.lr


def make_optimizer(model: nn.Module, config: TrainConfig, lr: float) -> torch.optim.Optimizer:
    """The optimiser of ``config`` over ``parameter_groups`` of the model, with learning rate ``lr`` (``scaled_lr``).

    ``config.momentum`` is SGD's momentum and beta1 of Adam and AdamW; their beta2 is 0.999. Weight decay is added to
    the gradient by SGD and Adam, and taken off the weights by AdamW.

    Raises:
        ValueError: Nesterov's momentum for another optimiser than SGD; see ``parameter_groups``.
    """
    groups = parameter_groups(
        model,
        lr,
        config.weight_decay,
        layer_decay=config.layer_decay,
        head_lr_scale=config.head_lr_scale,
        groups=config.groups,
    )
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"]) or None  # None: torch decides
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    if config.nesterov:
        raise ValueError(f"nesterov=True belongs to optimizer='sgd', not {config.optimizer!r}: leave it out.")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(groups, lr=lr, betas=(config.momentum, 0.999), fused=fused)
