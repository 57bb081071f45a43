"""Resizing of uint8 frames, above all OpenCV's bilinear rule to the byte.

Published accuracies of most video checkpoints were measured on frames resized by OpenCV, which neither rounds like
other libraries nor smooths before shrinking. `resize_bilinear_cv2` follows its integer arithmetic exactly:
11-bit weights, horizontal sum first, two truncating shifts. Where OpenCV is installed it does the work itself, several
times faster, once there is enough of it and if its version was seen to give the same bytes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["rescale_size", "resize_bilinear_cv2", "resize_frames"]

_ROWS_AT_ONCE = 64  # output rows worked on together: keeps the temporaries in the cache
_WORTH_LOADING_OPENCV = 256 * 2**20  # bytes of frames whose resizing takes as long as importing OpenCV
_resized_bytes = 0  # in this process


def rescale_size(width: int, height: int, scale: float | Sequence[int]) -> tuple[int, int]:
    """New `(width, height)` with the aspect kept.

    `scale` is a factor, or a pair of edge lengths in any order: the result is as large as fits the longer one on the
    long side and the shorter one on the short side; -1 is "unbounded", so `(-1, 256)` is the short side to 256.
    """
    if isinstance(scale, (int, float)):
        if scale <= 0:
            raise ValueError(f"resize factor {scale} must be positive.")
        factor = float(scale)
    else:
        edges = [float("inf") if edge == -1 else float(edge) for edge in scale]
        if len(edges) != 2 or min(edges) <= 0 or min(edges) == float("inf"):
            raise ValueError(f"resize scale {tuple(scale)} must be two edge lengths; one may be -1 (unbounded).")
        factor = min(max(edges) / max(width, height), min(edges) / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def resize_frames(
    frames: torch.Tensor, size: tuple[int, int], *, interpolation: str = "bilinear", backend: str = "cv2"
) -> torch.Tensor:
    """uint8 `(T, H, W, C)` to uint8 `(T, *size, C)`, `size` = (height, width). The same size returns the input itself.

    `backend`: "cv2" (exact OpenCV bytes; "bilinear" or "nearest"), "torch" (bilinear without antialiasing, rounded) or
    "torch_antialias" (as torchvision and PIL shrink images).
    """
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    if min(size) < 1:
        raise ValueError(f"frames of {frames.shape[2]}x{frames.shape[1]} cannot be resized to {size[1]}x{size[0]}.")
    if backend == "cv2" and interpolation == "bilinear":
        return torch.from_numpy(resize_bilinear_cv2(frames.numpy(), size))
    if backend == "cv2" and interpolation == "nearest":
        rows, cols = (_nearest_taps(n, m) for n, m in zip(frames.shape[1:3], size, strict=True))
        return frames[:, torch.from_numpy(rows)][:, :, torch.from_numpy(cols)]
    if backend in ("torch", "torch_antialias") and interpolation == "bilinear":
        out = torch.nn.functional.interpolate(
            frames.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=backend == "torch_antialias"
        )
        return out.permute(0, 2, 3, 1).contiguous()
    raise ValueError(
        f"resize_backend={backend!r} with interpolation={interpolation!r} is not offered: use 'cv2' with 'bilinear' or "
        "'nearest', or 'torch' or 'torch_antialias' with 'bilinear'."
    )


def resize_bilinear_cv2(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 `(T, H, W, C)` to uint8 `(T, *size, C)`, byte for byte what `cv2.resize` with INTER_LINEAR gives.

    `size` is (height, width). The same size returns the input itself, not a copy.
    """
    if frames.ndim != 4 or frames.dtype != np.uint8:
        raise ValueError(f"frames are uint8 (T, H, W, C), got {frames.dtype} {frames.shape}.")
    (height, width), (new_height, new_width) = frames.shape[1:3], size
    if (height, width) == (new_height, new_width):
        return frames
    global _resized_bytes
    _resized_bytes += frames.nbytes
    if ("cv2" in sys.modules or _resized_bytes > _WORTH_LOADING_OPENCV) and (cv2 := _opencv()):
        return _resize_by_opencv(cv2, frames, size)
    return _resize(frames, size)


@functools.cache
def _opencv() -> Any:
    """OpenCV, if it is installed and gives the bytes of our own arithmetic; builds for some processors do not."""
    try:
        import cv2
    except ImportError:
        return None
    frames = np.random.default_rng(0).integers(0, 256, (1, 90, 160, 3), np.uint8)
    sizes = ((45, 80), (64, 114), (33, 47), (113, 201), (90, 61))  # half, both smaller, both larger, one of the two
    agrees = all(np.array_equal(_resize_by_opencv(cv2, frames, size), _resize(frames, size)) for size in sizes)
    return cv2 if agrees else None


def _resize_by_opencv(cv2: Any, frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.empty((len(frames), *size, frames.shape[3]), np.uint8)
    for frame, resized in zip(frames, out, strict=True):
        resized[:] = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(resized.shape)
    return out


def _resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Our own arithmetic."""
    (height, width), (new_height, new_width) = frames.shape[1:3], size
    channels = frames.shape[3]
    row_taps, row_weights = _taps(height, new_height)
    col_taps, col_weights = _taps(width, new_width)
    outside = (col_taps[0] < 0) | (col_taps[0] >= width - 1)  # horizontally the border pixel gets all the weight,
    col_weights[:, outside] = np.array([[2048], [0]])  # vertically both taps are clamped and keep their weights
    col_taps = np.clip(col_taps, 0, width - 1)
    row_taps = np.clip(row_taps, 0, height - 1)

    channel = np.arange(channels)
    left, right = ((taps[:, None] * channels + channel).reshape(-1) for taps in col_taps)  # byte positions in a row
    left_weights, right_weights = (np.repeat(weights, channels) for weights in col_weights)
    out = np.empty((len(frames), new_height, new_width, channels), np.uint8)
    for frame, resized in zip(frames, out, strict=True):
        image, result = frame.reshape(height, -1), resized.reshape(new_height, -1)
        for start in range(0, new_height, _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            rows, inverse = np.unique(row_taps[:, block], return_inverse=True)
            top, bottom = inverse.reshape(2, -1)
            source = image[rows]
            sums = source.take(left, axis=1) * left_weights
            sums += source.take(right, axis=1) * right_weights
            sums >>= 4
            values = sums[top]
            values *= row_weights[0, block, None]
            values >>= 16
            lower = sums[bottom]
            lower *= row_weights[1, block, None]
            lower >>= 16
            values += lower
            values += 2
            values >>= 2
            result[block] = values
    return out


def _taps(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Both source positions, unclamped, and their 11-bit weights: two arrays (2, new_length)."""
    scale = 1 / (new_length / length)
    position = ((np.arange(new_length) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(position)
    fraction = position - low
    weights = np.stack([(1 - fraction) * 2048, fraction * 2048])
    return np.stack([low, low + 1]).astype(np.int64), np.rint(weights).astype(np.int32)


def _nearest_taps(length: int, new_length: int) -> np.ndarray:
    scale = 1 / (new_length / length)
    return np.minimum(np.floor(np.arange(new_length) * scale).astype(np.int64), length - 1)
