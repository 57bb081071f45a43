"""Triton kernels of the depthwise 3-D convolution: its output, and the gradients of its input and of its weight.

The layer moves far more bytes than it computes, so all kernels read their input once: a program keeps a tile of places
and channels, walks along time, and multiplies each frame that it loads into all output frames that the frame touches,
kept in registers. Neighbouring tiles overlap by the kernel's border, which the caches serve. Sums are in float32.

Tensors are ``(N, C, T, H, W)``, dense, channels-last or contiguous; kernels, strides and paddings are (time, height,
width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

CONVOLVE_WARPS, CORRELATE_WARPS = 8, 4
ELEMENTS = 1024  # of a tile; more of them a thread, and registers would spill
SUMS = 16384  # that a program of `_correlate` keeps, 128 a thread: one for each tap of each element
FRAMES = 16  # of the output, a program of `_convolve`
PROGRAMS = 1024  # of `_correlate`, about; each leaves a partial sum of the weight's gradient


@triton.jit
def _convolve(
    source, weight, output, frames_in, height_in, width_in, frames_out, height_out, width_out,
    C: tl.constexpr, KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    TRANSPOSED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Output of the convolution; TRANSPOSED: the gradient of its input, with that of its output as ``source``.

    A step takes ST frames of the source (TRANSPOSED: one) and finishes one output frame. Transposed, output frames of
    one residue by ST meet every ST-th frame of the kernel, and a program has frames of one residue.
    """
    LAGS: tl.constexpr = (KT + ST - 1) // ST  # output frames that a step touches
    PHASES: tl.constexpr = ST if TRANSPOSED else 1
    LOADS: tl.constexpr = 1 if TRANSPOSED else ST
    blocks_c = tl.cdiv(C, BLOCK_C)
    blocks_w = tl.cdiv(width_out, BLOCK_W)
    tile = tl.program_id(0) // blocks_c
    place = tl.arange(0, BLOCK_H * BLOCK_W)
    h = ((tile // blocks_w) * BLOCK_H + place // BLOCK_W)[:, None]
    w = ((tile % blocks_w) * BLOCK_W + place % BLOCK_W)[:, None]
    c = ((tl.program_id(0) % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    phase = tl.program_id(1) % PHASES
    first = (tl.program_id(1) // PHASES) * BLOCK_T + (PT // ST if TRANSPOSED else 0)
    clip = tl.program_id(2).to(tl.int64) * C
    source += clip * frames_in * height_in * width_in
    output += clip * frames_out * height_out * width_out
    inside_out = (h < height_out) & (w < width_out) & (c < C)

    sums = ()
    for _ in tl.static_range(LAGS):
        sums = sums + (tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32),)
    for i in range(BLOCK_T + LAGS - 1):
        step = tl.full((1, 1), first - LAGS + 1 + i, tl.int32)
        for load in tl.static_range(LOADS):
            t = step if TRANSPOSED else (step + LAGS - 1) * ST + load - PT
            for kh in tl.static_range(KH):
                for kw in tl.static_range(KW):
                    if TRANSPOSED:
                        y, x = (h + PH - kh) // SH, (w + PW - kw) // SW
                        inside = (h + PH - kh >= 0) & (w + PW - kw >= 0)
                        inside = inside & ((h + PH - kh) % SH == 0) & ((w + PW - kw) % SW == 0)
                    else:
                        y, x = h * SH + kh - PH, w * SW + kw - PW
                        inside = (y >= 0) & (x >= 0)
                    inside = inside & (y < height_in) & (x < width_in) & (t >= 0) & (t < frames_in) & (c < C)
                    if CHANNELS_LAST:
                        offset = ((t * height_in + y) * width_in + x) * C + c
                    else:
                        offset = ((c * frames_in + t) * height_in + y) * width_in + x
                    values = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
                    touched = ()
                    for lag in tl.static_range(LAGS):
                        kt = phase + ST * (LAGS - 1 - lag) if TRANSPOSED else load + ST * lag
                        factor = tl.load(weight + ((kt * KH + kh) * KW + kw) * C + c, mask=c < C, other=0.0)
                        touched = touched + (sums[lag] + values * factor.to(tl.float32),)
                    sums = touched
        t_out = step * ST + phase - PT if TRANSPOSED else step
        if CHANNELS_LAST:
            offset = ((t_out * height_out + h) * width_out + w) * C + c
        else:
            offset = ((c * frames_out + t_out) * height_out + h) * width_out + w
        finished = (step >= first) & (t_out >= 0) & (t_out < frames_out)
        tl.store(output + offset, sums[LAGS - 1].to(output.dtype.element_ty), mask=inside_out & finished)
        shifted = (tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32),)
        for lag in tl.static_range(LAGS - 1):
            shifted = shifted + (sums[lag],)
        sums = shifted


@triton.jit
def _correlate(
    grad, source, partial, clips, frames_in, height_in, width_in, frames_out, height_out, width_out,
    C: tl.constexpr, KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Partial sums of the weight's gradient, ``(programs, KT * KH * KW, C)`` float32, over every n-th tile."""
    LAGS: tl.constexpr = (KT + ST - 1) // ST  # gradient frames that meet the frames of a step
    blocks_w = tl.cdiv(width_out, BLOCK_W)
    blocks_hw = tl.cdiv(height_out, BLOCK_H) * blocks_w
    place = tl.arange(0, BLOCK_H * BLOCK_W)
    c = (tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]

    sums = ()
    for _ in tl.static_range(KT * KH * KW):
        sums = sums + (tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32),)
    for tile in range(tl.program_id(1), clips * blocks_hw, tl.num_programs(1)):
        clip = (tile // blocks_hw).to(tl.int64) * C
        grad_clip = grad + clip * frames_out * height_out * width_out
        source_clip = source + clip * frames_in * height_in * width_in
        h = (((tile % blocks_hw) // blocks_w) * BLOCK_H + place // BLOCK_W)[:, None]
        w = (((tile % blocks_hw) % blocks_w) * BLOCK_W + place % BLOCK_W)[:, None]
        inside_out = (h < height_out) & (w < width_out) & (c < C)
        grads = ()
        for _ in tl.static_range(LAGS):
            grads = grads + (tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32),)
        for i in range(frames_out + LAGS - 1):
            step = tl.full((1, 1), i, tl.int32)
            if CHANNELS_LAST:
                offset = ((step * height_out + h) * width_out + w) * C + c
            else:
                offset = ((c * frames_out + step) * height_out + h) * width_out + w
            newest = tl.load(grad_clip + offset, mask=inside_out & (step < frames_out), other=0.0)
            latest = (newest.to(tl.float32),)
            for lag in tl.static_range(LAGS - 1):
                latest = latest + (grads[lag],)
            grads = latest
            for load in tl.static_range(ST):
                t = step * ST + load - PT
                taps = ()
                for kh in tl.static_range(KH):
                    for kw in tl.static_range(KW):
                        y, x = h * SH + kh - PH, w * SW + kw - PW
                        inside = (y >= 0) & (x >= 0) & (y < height_in) & (x < width_in) & (c < C)
                        if CHANNELS_LAST:
                            offset = ((t * height_in + y) * width_in + x) * C + c
                        else:
                            offset = ((c * frames_in + t) * height_in + y) * width_in + x
                        values = tl.load(source_clip + offset, mask=inside & (t >= 0) & (t < frames_in), other=0.0)
                        taps = taps + (values.to(tl.float32),)
                added = ()
                for kt in tl.static_range(KT):
                    for tap in tl.static_range(KH * KW):
                        if kt % ST == load:
                            added = added + (sums[kt * KH * KW + tap] + taps[tap] * grads[kt // ST],)
                        else:
                            added = added + (sums[kt * KH * KW + tap],)
                sums = added
    for tap in tl.static_range(KT * KH * KW):
        row = tl.program_id(1) * KT * KH * KW + tap
        total = tl.sum(sums[tap], 0)[None, :]
        tl.store(partial + row * C + c, total, mask=c < C)


def convolve(
    source: torch.Tensor,
    weight: torch.Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    transposed: bool = False,
) -> torch.Tensor:
    """Depthwise convolution of ``source``, ``(N, C, T, H, W)`` with ``weight``, ``(C, 1, kt, kh, kw)``.

    Args:
        size: (T, H, W) of the output.
        transposed: ``source`` is the gradient of the convolution's output, and the result that of its input.
    """
    clips, channels, *size_in = source.shape
    last = source.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if last else torch.contiguous_format
    output = torch.empty((clips, channels, *size), dtype=source.dtype, device=source.device, memory_format=layout)
    if not output.numel():
        return output
    phases = stride[0] if transposed else 1
    steps = (size[0] - 1 + padding[0]) // phases + 1 - padding[0] // phases if transposed else size[0]
    block_h, block_w, block_c = _tile(size, channels, ELEMENTS, last)
    whole = F.pad(weight, (0, 0, 0, 0, 0, -weight.shape[2] % stride[0]))  # every step has as many frames of the kernel
    taps = whole.flatten(1).t().contiguous()  # (kt * kh * kw, C)
    block_t = min(FRAMES, triton.next_power_of_2(steps))
    tiles = triton.cdiv(size[1], block_h) * triton.cdiv(size[2], block_w) * triton.cdiv(channels, block_c)
    _convolve[(tiles, triton.cdiv(steps, block_t) * phases, clips)](
        source, taps, output, *size_in, *size,
        channels, *weight.shape[2:], *stride, *padding, transposed, last, block_t, block_h, block_w, block_c,
        num_warps=CONVOLVE_WARPS,
    )  # fmt: skip
    return output


def weight_gradient(
    grad: torch.Tensor, source: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    """Gradient of the weight, ``(C, 1, kt, kh, kw)``, from that of the output and the input, both in one layout.

    Every program sums its tiles, and the sums are added in a fixed order: equal inputs give equal bits.
    """
    clips, channels, *size_in = source.shape
    size, taps = grad.shape[2:], math.prod(kernel)
    last = source.is_contiguous(memory_format=torch.channels_last_3d)
    block_h, block_w, block_c = _tile(size, channels, min(ELEMENTS, SUMS // triton.next_power_of_2(taps)), last)
    blocks_c = triton.cdiv(channels, block_c)
    tiles = clips * triton.cdiv(size[1], block_h) * triton.cdiv(size[2], block_w)
    splits = min(tiles, triton.cdiv(PROGRAMS, blocks_c))
    partial = source.new_empty((splits, taps, channels), dtype=torch.float32)
    if grad.numel():
        _correlate[(blocks_c, splits)](
            grad, source, partial, clips, *size_in, *size,
            channels, *kernel, *stride, *padding, last, block_h, block_w, block_c,
            num_warps=CORRELATE_WARPS,
        )  # fmt: skip
    return partial.sum(0).t().reshape(channels, 1, *kernel).to(source.dtype).contiguous()


def _tile(size: Sequence[int], channels: int, elements: int, channels_last: bool) -> tuple[int, int, int]:
    """Height, width and channels of a program's tile of the output, wide where memory is dense."""
    block_c = min(32, triton.next_power_of_2(channels)) if channels_last else 1
    places = max(1, elements // block_c)
    block_w = min(8 if channels_last else 32, places, triton.next_power_of_2(size[2]))
    return min(places // block_w, triton.next_power_of_2(size[1])), block_w, block_c
