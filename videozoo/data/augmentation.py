"""Random changes of colours and contents for training, with one draw for all frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["erase", "jitter_colors", "rand_augment"]

MAGNITUDES = 31  # steps of RandAugment, from 0


def jitter_colors(frames: torch.Tensor, amount: Sequence[float], rng: np.random.Generator) -> torch.Tensor:
    """Random brightness, contrast, saturation (factors within 1 +- amount) and hue (shift within +- amount <= 0.5).

    uint8 RGB `(T, H, W, 3)` in and out, one draw for all frames.
    """
    from torchvision.transforms import functional as F

    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    images = frames.permute(0, 3, 1, 2)
    for step, spread, middle in zip(steps, amount, (1, 1, 1, 0), strict=True):
        if spread:
            images = step(images, rng.uniform(max(0.0, 1 - spread) if middle else -spread, middle + spread))
    return images.permute(0, 2, 3, 1)


def rand_augment(frames: torch.Tensor, amount: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
    """torchvision's RandAugment with `amount` = (operations, magnitude of 0..30): uint8 RGB `(T, H, W, 3)` in and out.

    All frames go through the same operations. Places that shearing and shifting uncover become black.
    """
    from torchvision.transforms import RandAugment

    images = frames.permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        images = RandAugment(num_ops=amount[0], magnitude=amount[1])(images)
    return images.permute(0, 2, 3, 1)


def erase(frames: torch.Tensor, box: tuple[int, int, int, int], rng: np.random.Generator) -> torch.Tensor:
    """uint8 `(T, H, W, C)` with noise in `box` (x, y, width, height), which is the same in all frames."""
    x, y, w, h = box
    frames = frames.clone()
    noise = rng.integers(256, size=(len(frames), h, w, frames.shape[3]), dtype=np.uint8)
    frames[:, y : y + h, x : x + w] = torch.from_numpy(noise)
    return frames
