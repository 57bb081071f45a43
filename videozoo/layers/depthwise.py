"""Depthwise 3-D convolution with a fast backward pass.

PyTorch's own gradients of this layer take ten times as long as its output, or more. Here, on a CPU, the gradient of
the input is a convolution with the kernel turned around, and the gradient of the weight comes from 2-D convolutions,
one for each frame of the kernel; on a CUDA device Triton kernels take all three parts (``depthwise_triton.py``). This
serves training alone: a layer in evaluation mode, or one that needs no gradient, runs ``conv3d`` and nothing else.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

BACKENDS = ("auto", "native", "own")
BACKEND_VARIABLE = "VIDEOZOO_DEPTHWISE"
CHANNELS_LAST = torch.channels_last_3d

TRITON_KERNELS = ((3, 3, 3), (5, 1, 1), (3, 1, 1))
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_MIN_ELEMENTS = 2**22  # of the input: smaller ones do not make up for starting the kernels


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with one filter a channel: ``(N, C, T, H, W)`` -> ``(N, C, T', H', W')``, same parameters.

    In training mode a CPU's output is in channels-last layout whatever the input's; a CUDA device keeps the input's.
    Second derivatives exist in evaluation mode only.

    Args:
        channels: C.
        kernel_size, stride, padding: in (time, height, width), or one number for all.
        backend: "native" for PyTorch's gradients, "own" for ours, "auto" for ours where they are faster: always on a
            CPU; on CUDA for large inputs and the kernels of `TRITON_KERNELS`. None: the environment variable
            VIDEOZOO_DEPTHWISE when the layer is made, or else "auto".

    Raises:
        ValueError: an unknown backend.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
        bias: bool = False,
        backend: str | None = None,
    ):
        super().__init__(channels, channels, kernel_size, stride, padding, groups=channels, bias=bias)
        self.backend = backend or os.environ.get(BACKEND_VARIABLE) or "auto"
        if self.backend not in BACKENDS:
            raise ValueError(
                f"{self.backend!r} is no backend of depthwise convolutions: set backend= or {BACKEND_VARIABLE} to one "
                f"of {', '.join(BACKENDS)}."
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and torch.is_grad_enabled() and self._is_ours(x)):
            return super().forward(x)
        y = depthwise_conv3d(x, self.weight, self.stride, self.padding)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None, None]

    def _is_ours(self, x: torch.Tensor) -> bool:
        if x.ndim != 5 or self.backend == "native" or not (x.requires_grad or self.weight.requires_grad):
            return False
        if x.device.type != "cuda":
            return x.device.type == "cpu"
        fits = self.kernel_size in TRITON_KERNELS and max(self.stride) <= 2 and x.shape[1:].numel() < 2**31
        large = x.numel() >= TRITON_MIN_ELEMENTS or self.backend == "own"
        return fits and large and _compute_dtype(x) in TRITON_DTYPES and _triton_runs()


def depthwise_conv3d(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    """Convolve each channel with its own filter; the operator ``torch.ops.videozoo.depthwise_conv3d`` under autocast.

    Args:
        x: ``(N, C, T, H, W)`` on a CPU or a CUDA device.
        weight: ``(C, 1, kt, kh, kw)``.
        stride, padding: in (time, height, width).
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x, weight = x.to(_compute_dtype(x)), weight.to(_compute_dtype(x))
    return torch.ops.videozoo.depthwise_conv3d(_laid_out(x), weight, list(stride), list(padding))


def _compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What autocast makes of the input of a convolution."""
    eligible = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if eligible else x.dtype


@functools.cache
def _triton_runs() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return version >= (3, 3) and torch.cuda.get_device_capability() >= (8, 0)  # the kernels keep sums in tuples


_triton_runs._dynamo_marked_constant = True  # as torch.compiler.assume_constant_result does, which imports the compiler


def _memory_format(x: torch.Tensor) -> torch.memory_format:
    """Layout of all that is computed from ``x``: a CPU is fast in channels-last alone."""
    if x.device.type == "cpu" or x.is_contiguous(memory_format=CHANNELS_LAST):
        return CHANNELS_LAST
    return torch.contiguous_format


def _laid_out(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=_memory_format(x))


def _empty(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Memory for clips of another size, laid out as what is computed from ``x``."""
    shape = (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_memory_format(x))


def _output_size(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    size, kernel = x.shape[2:], weight.shape[2:]
    return [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]


# The operators: opaque to torch.compile and torch.export, with autocast off inside.


@torch.library.custom_op(
    "videozoo::depthwise_conv3d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, int[] stride, int[] padding) -> Tensor",
)
def _forward(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
    x = _laid_out(x)
    if x.device.type == "cuda":
        from .depthwise_triton import convolve

        size = _output_size(x, weight, stride, padding)
        with torch.cuda.device_of(x):
            return convolve(x, weight, size, stride, padding)
    with torch.autocast("cpu", enabled=False):
        return _laid_out(F.conv3d(x, weight, None, stride, padding, 1, len(weight)))


@_forward.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
    return _empty(x, _output_size(x, weight, stride, padding))


@torch.library.custom_op(
    "videozoo::depthwise_conv3d_input_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor weight, SymInt[] size, int[] stride, int[] padding) -> Tensor",
)
def _input_gradient(
    grad: torch.Tensor, weight: torch.Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    grad = _laid_out(grad)
    if grad.device.type == "cuda":
        from .depthwise_triton import convolve

        with torch.cuda.device_of(grad):
            return convolve(grad, weight, size, stride, padding, transposed=True)
    with torch.autocast("cpu", enabled=False):
        return _turned_convolution(grad, weight, size, stride, padding)


@_input_gradient.register_fake
def _(
    grad: torch.Tensor, weight: torch.Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    return _empty(grad, size)


@torch.library.custom_op(
    "videozoo::depthwise_conv3d_weight_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, int[] kernel, int[] stride, int[] padding) -> Tensor",
)
def _weight_gradient(
    grad: torch.Tensor, x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    x = _laid_out(x)
    grad = grad.contiguous(memory_format=_memory_format(x))
    if x.device.type == "cuda":
        from .depthwise_triton import weight_gradient

        with torch.cuda.device_of(x):
            return weight_gradient(grad, x, kernel, stride, padding)
    with torch.autocast("cpu", enabled=False):
        taps = [_frame_tap_gradient(grad, x, tap, kernel, stride, padding) for tap in range(kernel[0])]
    return torch.stack(taps, dim=2).to(x.dtype)


@_weight_gradient.register_fake
def _(
    grad: torch.Tensor, x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    return x.new_empty((x.shape[1], 1, *kernel))


def _turned_convolution(
    grad: torch.Tensor, weight: torch.Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    """The transposed convolution of ``grad``, one for each residue of positions by the stride.

    Positions of the input whose distance to the padded start leaves the same remainder meet the same taps of the
    kernel, and are a convolution of ``grad`` with them, without stride.
    """
    out = None
    for phase in itertools.product(*(range(s) for s in stride)):
        taps = weight[:, :, phase[0] :: stride[0], phase[1] :: stride[1], phase[2] :: stride[2]]
        pads, kept, places = [], [], []
        for axis, (r, s, p, n) in enumerate(zip(phase, stride, padding, size, strict=True)):
            first = (r - p) % s  # input position
            count, taps_here = len(range(first, n, s)), taps.shape[2 + axis]
            before = taps_here - 1 - (first + p - r) // s  # zeros that this phase needs around grad
            after = (first + p - r) // s + count - grad.shape[2 + axis]
            pads.append(max(before, after, 0))
            kept.append(slice(pads[-1] - before, pads[-1] - before + count))
            places.append(slice(first, None, s))
        if max(stride) > 1 and out is None:
            out = _empty(grad, size)
            if any(s > k for s, k in zip(stride, weight.shape[2:], strict=True)):
                out.zero_()  # strides longer than the kernel leave gaps
        if not taps.numel() or any(part.stop == part.start for part in kept):
            continue
        part = F.conv3d(grad, taps.flip(2, 3, 4), None, 1, pads, 1, len(weight))[:, :, *kept]
        if out is None:
            return _laid_out(part)
        out[:, :, *places] = part
    return out


def _frame_tap_gradient(
    grad: torch.Tensor,
    x: torch.Tensor,
    tap: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """Gradient of one frame of the kernel, ``(C, 1, kh, kw)`` in float32 (float64 for such input).

    Samples are taken one by one: frames of one sample are a view that a 2-D convolution takes as it is.
    """
    channels, wide = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    total = torch.zeros((channels, 1, *kernel[1:]), dtype=wide)
    shift = tap - padding[0]
    first = max(0, -(shift // stride[0]))  # output frames whose input frame at this tap is inside the clip
    last = min(grad.shape[2], (x.shape[2] - 1 - shift) // stride[0] + 1)
    if last <= first:
        return total
    start = first * stride[0] + shift
    inputs = x[:, :, start : start + (last - first - 1) * stride[0] + 1 : stride[0]].transpose(1, 2)
    grads = grad[:, :, first:last].transpose(1, 2)  # (N, T', C, H', W')
    shape = x.new_empty((channels, 1, *kernel[1:]))  # of the weight; its values do not matter
    for frames, wanted in zip(inputs, grads, strict=True):
        total += torch.ops.aten.convolution_backward(
            wanted, frames, shape, None, stride[1:], padding[1:], [1, 1], False, [0, 0], channels, [False, True, False]
        )[1]
    return total


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, ctx.stride, ctx.padding = inputs
    ctx.size, ctx.kernel = x.shape[2:], weight.shape[2:]
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    of_input = of_weight = None
    if ctx.needs_input_grad[0]:
        of_input = _input_gradient(grad, weight, list(ctx.size), ctx.stride, ctx.padding)
    if ctx.needs_input_grad[1]:
        of_weight = _weight_gradient(grad, x, list(ctx.kernel), ctx.stride, ctx.padding)
    return of_input, of_weight, None, None


def _no_second_derivative(ctx: Any, grad: torch.Tensor) -> None:
    raise RuntimeError(
        "A depthwise convolution in training mode has no second derivatives: put the model in evaluation mode, or make "
        f"it with the environment variable {BACKEND_VARIABLE}=native."
    )


_forward.register_autograd(_backward, setup_context=_setup_context)
_input_gradient.register_autograd(_no_second_derivative)
_weight_gradient.register_autograd(_no_second_derivative)
