"""Batch norms in training: which keep their statistics, which learn, and statistics computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["freeze_norm_parameters", "input_norms", "precise_batch_norm", "train_mode"]

MODES = ("none", "statistics", "partial", "all")


def freeze_norm_parameters(model: nn.Module, freeze_bn: str = "none") -> None:
    """Stop the batch norms from learning scale and shift: "partial" all but the input's, "all" every one.

    To be called once, before the optimiser is made. "partial" is the training of TSN (Wang et al., ECCV 2016,
    arXiv:1608.00859), "all" that of CSN with frozen norms; the other modes let them learn. ValueError for an unknown
    mode.
    """
    for norm in _kept_norms(model, freeze_bn):
        if freeze_bn != "statistics":
            norm.requires_grad_(False)


def train_mode(model: nn.Module, freeze_bn: str = "none") -> None:
    """Put ``model`` into training mode, but for the batch norms that keep their running statistics.

    Those normalise by their running statistics as in evaluation: every norm whose scale and shift both do not learn (of
    frozen stages, of the trunk while a new classifier is probed), and by ``freeze_bn``: "none" no other, "statistics"
    and "all" every one, "partial" all but the input's. Dropout is not touched. To be called where ``model.train()``
    would be: after each validation.

    Raises:
        ValueError: an unknown mode, or one whose norms still learn: ``freeze_norm_parameters`` was not called.
    """
    kept = _kept_norms(model, freeze_bn)
    if freeze_bn in ("partial", "all") and any(p.requires_grad for norm in kept for p in norm.parameters()):
        raise ValueError(
            f"freeze_bn={freeze_bn!r}, but norms still learn: call freeze_norm_parameters(model, {freeze_bn!r}) before "
            "the optimiser is made."
        )
    model.train()
    for norm in kept:
        norm.eval()
    for norm in _batch_norms(model).values():
        affine = list(norm.parameters(recurse=False))
        if affine and not any(parameter.requires_grad for parameter in affine):
            norm.eval()


def _batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def _kept_norms(model: nn.Module, freeze_bn: str) -> list[nn.Module]:
    """The norms whose statistics the mode keeps."""
    if freeze_bn not in MODES:
        raise ValueError(f"freeze_bn={freeze_bn!r} is unknown: use {' or '.join(map(repr, MODES))}.")
    if freeze_bn == "none":
        return []
    learning = input_norms(model) if freeze_bn == "partial" else []
    return [norm for name, norm in _batch_norms(model).items() if name not in learning]


def input_norms(model: nn.Module) -> list[str]:
    """Names of the batch norms that "partial" lets learn: the first one after each first convolution.

    In a network with one input that is the first norm in module order, as in MMAction2's ``partial_bn``: the stem's
    (``bn1``), in R(2+1)D the one between the two parts of the first convolution. SlowFast has one in each pathway. A
    network without norms, as C3D, has none.
    """
    norms = list(_batch_norms(model))
    found = []
    for conv in getattr(model, "first_conv", ("",)):
        inside = conv.rpartition(".")[0]  # the module that holds the convolution, and its norm somewhere after it
        first = next((name for name in norms if not inside or name.startswith(f"{inside}.")), None)
        if first is not None and first not in found:
            found.append(first)
    return found


class _Moments:
    """Sums over all values that a batch norm has seen: their number, the values, their squares; in float64."""

    def __init__(self, norm: nn.Module):
        mean = norm.running_mean
        self.dtype = torch.float32 if mean.device.type == "mps" else torch.float64
        self.sums = torch.zeros(1 + 2 * len(mean), dtype=self.dtype, device=mean.device)

    def add_batch(self, norm: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        """Forward hook of a norm whose momentum is 1: its running statistics are those of this batch."""
        count = inputs[0].numel() // inputs[0].shape[1]
        mean = norm.running_mean.to(self.dtype)
        variance = norm.running_var.to(self.dtype) * ((count - 1) / count)  # torch keeps the unbiased one
        self.sums += torch.cat((mean.new_tensor([count]), count * mean, count * (variance + mean.square())))

    def write(self, norm: nn.Module) -> None:
        """Make them the running statistics of ``norm``."""
        count, total, squares = self.sums[0], *self.sums[1:].chunk(2)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0) * (count / (count - 1))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


@contextmanager
def _recording(model: nn.Module, norms: dict[nn.Module, _Moments]) -> Iterator[None]:
    """Evaluation mode but for ``norms``, whose batches are counted into their moments; then all modes as before."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = {norm: norm.momentum for norm in norms}
    hooks = [norm.register_forward_hook(moments.add_batch) for norm, moments in norms.items()]
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


@torch.no_grad()
def precise_batch_norm(model: nn.Module, batches: Iterable[torch.Tensor], count: int) -> int:
    """Compute running means and variances anew, over all values in ``count`` batches (Wu and Johnson, 2021,
    arXiv:2105.07576), in place of averages that follow the last steps.

    Only norms in training mode are changed: those that ``train_mode`` let run. During the pass, dropout is off and each
    batch is normalised by itself, as in training; afterwards all modes are as before. In distributed training every
    process brings its own batches, and all get the statistics of the whole.

    Args:
        model: the network after ``train_mode``, not compiled.
        batches: clips as the model takes them, ``(N, C, T, H, W)`` on its device; no more than ``count`` are drawn.
        count: batches, of each process.

    Returns:
        How many batches were used; 0 if no norm is in training mode.

    Raises:
        ValueError: the model is in evaluation mode, or there is no batch.
    """
    if not model.training:
        raise ValueError(
            "precise_batch_norm changes the norms that are in training mode, and the model is in evaluation mode: "
            "call train_mode(model, freeze_bn) first."
        )
    running = [norm for norm in _batch_norms(model).values() if norm.training and norm.track_running_stats]
    if not running:
        return 0
    norms = {norm: _Moments(norm) for norm in running}
    used = 0
    with _recording(model, norms):
        for clips in islice(batches, count):
            model(clips)
            used += 1
    if not used:
        raise ValueError(f"precise_batch_norm needs at least one batch, got none (count={count}).")
    for norm, moments in norms.items():
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(moments.sums)
        if moments.sums[0] > 1:  # a layer that forward does not use, as TPN's auxiliary head, has seen nothing
            moments.write(norm)
    return used
