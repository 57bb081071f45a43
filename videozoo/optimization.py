"""Faster inference with the same numbers out: batch norms folded into convolutions, fused operations, half precision.

What may be folded is stated by the networks themselves: a module with ``conv_norms`` names the convolutions and norms
that it calls by ``layers.conv_norm`` and nowhere else. Nothing is traced, so nothing can be paired wrongly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import ConvChain
from .layers import channels_last as to_channels_last

__all__ = ["deoptimize", "optimize"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FUSED_ACTIVATIONS = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0]), nn.SiLU: ("swish", [])}
UNFUSED = ("none", [])

Network = TypeVar("Network", bound=nn.Module)


def optimize(
    model: Network,
    dtype: torch.dtype | None = None,
    compile: bool | dict[str, Any] = False,
    channels_last: bool | None = None,
    reversible: bool = True,
) -> Network:
    """Make inference faster, in place, until :func:`deoptimize`; in float32 outputs agree within rounding (1e-5).

    Batch norms are folded into the convolutions before them. On a CPU convolution, sum with the shortcut and
    activation become one operation of oneDNN with weights in its own order, where PyTorch has it.

    The model keeps its parameters and ``state_dict``; the folded weights are a second copy of those of the
    convolutions, unless ``reversible`` is False. There are no gradients, and hooks on the folded layers are not
    called. Blocks inside a stage write over the output of the block before them, so clone what a hook on such a block
    is to keep. Outputs, ``forward_features`` and ``forward_intermediates`` are not affected.

    Args:
        model: a network of videozoo in eval mode, already on its device.
        dtype: ``torch.bfloat16`` or ``torch.float16`` computes in half precision, whatever the input's; scores then
            differ in the third digit. None: the model's own.
        compile: also ``torch.compile`` the model, which takes minutes at the first call; a dict holds arguments of
            ``torch.compile``. It takes the place of the fused operations of oneDNN.
        channels_last: memory layout of the input on other devices than a CPU, where it is always channels last.
            None: as the model had it.
        reversible: False gives up the weights that were folded (as parameters they become NaN), which saves the memory
            of the second copy; ``deoptimize``, saving and loading of weights are then errors.

    Returns:
        ``model``.

    Raises:
        ValueError: the model is in train mode, is optimised already, has nothing to fold, or the CPU cannot do dtype.
    """
    _check(model, dtype)
    device = next(model.parameters()).device
    state = _State(getattr(model, "channels_last", False), reversible)
    compute = dtype or next(model.parameters()).dtype
    fused = device.type == "cpu" and not compile and _has_fused_convolution(compute)
    for conv, norm, overwrite in _conv_norms(model):
        last = conv.last_conv if isinstance(conv, ConvChain) else conv
        folded = _FoldedConv(last, norm, compute, overwrite, fused)
        conv.folded = _FoldedChain(conv, folded) if isinstance(conv, ConvChain) else folded
        state.folded.append(conv)
        state.kept.update(map(id, folded.sources))
        if not reversible:
            last.weight.data = last.weight.new_full((), float("nan")).expand(last.weight.shape)
    if not state.folded:
        raise ValueError(f"{type(model).__name__} has no layers to fold: videozoo.optimize is for videozoo's networks.")
    if dtype is not None:
        state.cast(model, dtype)
    if channels_last is not None:
        model.channels_last = channels_last
    if not reversible:
        model.register_state_dict_pre_hook(_refuse_weights)
        model.register_load_state_dict_pre_hook(_refuse_weights)
    model.optimization = state
    if compile:
        model.compile(**(compile if isinstance(compile, dict) else {}))
    return model


def deoptimize(model: Network) -> Network:
    """Undo :func:`optimize`: the model has its own layers back, with the very weights that it had. Returns ``model``.

    Raises:
        ValueError: the model is not optimised, or was so with ``reversible=False``.
    """
    state = model.__dict__.get("optimization")
    if state is None:
        raise ValueError(f"{type(model).__name__} is not optimised: call videozoo.optimize(model) first.")
    if not state.reversible:
        _refuse_weights(model)
    del model.optimization
    for conv in state.folded:
        del conv.folded
    for owner, name, tensor in state.replaced:
        if name in owner._parameters:
            owner._parameters[name].data = tensor
        else:
            owner._buffers[name] = tensor
    model.channels_last = state.channels_last
    model._compiled_call_impl = None
    return model


@dataclass
class _State:
    """What deoptimize needs."""

    channels_last: bool
    reversible: bool
    folded: list[nn.Module] = field(default_factory=list)
    """Modules with an attribute ``folded``."""
    kept: set[int] = field(default_factory=set)
    """Identities of parameters and buffers that nothing reads any more."""
    replaced: list[tuple[nn.Module, str, torch.Tensor]] = field(default_factory=list)
    """Owner, name and original of parameters and buffers in another dtype."""

    def cast(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Give all floating-point tensors that are still in use another dtype."""
        for module in model.modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or id(tensor) in self.kept or not tensor.is_floating_point():
                    continue
                if self.reversible:
                    self.replaced.append((module, name, tensor.data))
                if isinstance(tensor, nn.Parameter):
                    tensor.data = tensor.data.to(dtype)
                else:
                    module._buffers[name] = tensor.to(dtype)


def _refuse_weights(model: nn.Module, *_: Any) -> None:
    """ValueError, also in the place of giving or taking a state dict."""
    raise ValueError(
        f"{type(model).__name__} gave its weights up in videozoo.optimize(model, reversible=False): create it anew."
    )


def _check(model: nn.Module, dtype: torch.dtype | None) -> None:
    """ValueError unless the model can be optimised for this dtype."""
    name = type(model).__name__
    if hasattr(model, "optimization"):
        raise ValueError(f"{name} is optimised already: call videozoo.deoptimize(model) before optimising it anew.")
    if any(module.training for module in model.modules()):
        raise ValueError(f"{name} is in train mode: call model.eval() first, optimised models are for inference.")
    if dtype is None:
        return
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype} is not offered: use torch.bfloat16, torch.float16 or torch.float32.")
    on_cpu = next(model.parameters()).device.type == "cpu"
    if dtype == torch.float16 and on_cpu and not _has_fused_convolution(dtype):
        raise ValueError("this CPU has no convolutions in float16: use torch.bfloat16.")


def _has_fused_convolution(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch and this CPU have oneDNN's fused convolution for ``dtype``."""
    ops = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(ops, name) for name in names):
        return False
    if dtype == torch.float32:
        return True
    supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return dtype in supported and hasattr(ops, supported[dtype]) and getattr(ops, supported[dtype])()


def _conv_norms(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None, bool]]:
    """Convolutions with the norms to fold into them, and whether they may write over the shortcut that they add.

    They may if it is a projection or what the block before them in the same sequence gave: nobody else reads that.
    """
    sequences = [module for module in model.modules() if isinstance(module, nn.Sequential)]
    followers = {id(block) for sequence in sequences for block in list(sequence)[1:]}
    for module in model.modules():
        for conv_name, norm_name in getattr(module, "conv_norms", ()):
            conv = module.get_submodule(conv_name)
            norm = None if norm_name is None else module.get_submodule(norm_name)
            if isinstance(norm, nn.Identity):
                norm = None
            if norm is None or (isinstance(norm, _BatchNorm) and norm.running_mean is not None):
                yield conv, norm, getattr(module, "downsample", None) is not None or id(module) in followers


def _fold(conv: nn.Module, norm: _BatchNorm | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (channels last) and bias of the one convolution that does the work of both, computed in float64."""
    weight = conv.weight.detach()
    scale = torch.ones(len(weight), dtype=torch.float64, device=weight.device)
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight.detach().double()
        bias = (bias - norm.running_mean.double()) * scale
        if norm.affine:
            bias = bias + norm.bias.detach().double()
    folded = to_channels_last(torch.empty_like(weight, dtype=dtype))
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    for start in range(0, len(weight), 64):  # a part at a time: float64 takes room
        part = slice(start, start + 64)
        folded[part] = weight[part] * scale[part]
    return folded, bias.to(dtype)


class _FoldedConv:
    """``act(norm(conv(x)) + residual)`` by folded weights."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None, dtype: torch.dtype, overwrite: bool, fused: bool):
        self.conv = conv
        self.sources = [*conv.parameters(), *([] if norm is None else [*norm.parameters(), *norm.buffers()])]
        self.versions = [tensor._version for tensor in self.sources]
        self.dtype, self.overwrite, self.fused = dtype, overwrite, fused
        self.weight, self.bias = _fold(conv, norm, dtype)
        self.args = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.packed_for: torch.Size | None = None  # shape of the input that the order of the weights is made for

    def __call__(
        self, x: torch.Tensor, act: nn.Module | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.check()
        x = x.to(self.dtype)
        if self.fused:
            return self.run_fused(to_channels_last(x), act, residual)
        padding, stride, dilation, groups = self.args
        convolve = F.conv3d if x.ndim == 5 else F.conv2d
        out = convolve(x, self.weight, self.bias, stride, padding, dilation, groups)
        return _finish(out, act, residual)

    def run_fused(self, x: torch.Tensor, act: nn.Module | None, residual: torch.Tensor | None) -> torch.Tensor:
        """All in one operation of oneDNN where it can do that."""
        ops = torch.ops.mkldnn
        attr, scalars = FUSED_ACTIVATIONS.get(type(act), UNFUSED)
        weight = self.packed_weight(x.shape)
        if residual is None:
            out = ops._convolution_pointwise(x, weight, self.bias, *self.args, attr, scalars, "")
            return out if attr != "none" else _finish(out, act)
        if self.overwrite and attr in ("none", "relu"):
            activation = (None, [], None) if attr == "none" else (attr, scalars, "")
            out = to_channels_last(residual.to(self.dtype))
            ops._convolution_pointwise_.binary(out, x, weight, self.bias, *self.args, "add", 1.0, *activation)
            return out if attr != "none" else _finish(out, act)
        return _finish(ops._convolution_pointwise(x, weight, self.bias, *self.args, "none", [], ""), act, residual)

    def packed_weight(self, shape: torch.Size) -> torch.Tensor:
        """The weight in the order that oneDNN wants for inputs of this shape; in another, some are ten times slower."""
        if shape == self.packed_for:
            return self.weight
        dense = self.weight.to_dense() if self.weight.is_mkldnn else self.weight
        weight = torch.ops.mkldnn._reorder_convolution_weight(dense, *self.args, shape)
        self.weight, self.packed_for = weight, shape
        return weight

    def __deepcopy__(self, memo: dict[int, Any]) -> _FoldedConv:
        """The same folded weights, which never change, for the copies of the layers."""
        other = copy.copy(self)
        other.conv, other.sources = copy.deepcopy((self.conv, self.sources), memo)
        other.versions = [tensor._version for tensor in other.sources]
        return other

    def check(self) -> None:
        """RuntimeError if the layers that were folded have changed since."""
        moved = self.conv.weight.device != self.bias.device
        if moved or self.conv.training or [tensor._version for tensor in self.sources] != self.versions:
            raise RuntimeError(
                "the model went into train mode, to another device or got other weights after videozoo.optimize: "
                "call videozoo.deoptimize(model) first, and optimise it again afterwards"
            )


class _FoldedChain:
    """A folded convolution with what comes before it in its chain."""

    def __init__(self, chain: ConvChain, last: _FoldedConv):
        self.chain, self.last = chain, last

    def __call__(
        self, x: torch.Tensor, act: nn.Module | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.last(self.chain.lead(x), act, residual)


def _finish(out: torch.Tensor, act: nn.Module | None, residual: torch.Tensor | None = None) -> torch.Tensor:
    """Add the residual and apply the activation."""
    if residual is not None:
        out += residual
    return out if act is None else act(out)
