"""One clip of the camera-motion data set: a virtual camera's view of a picture, things that move in front of it, and
what lens, sensor and encoder add.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from .pictures import Picture, read_picture
from .virtual_camera import CameraPath, Views, camera_path, place, sample_views

__all__ = ["Clip", "film", "write_clip"]


@dataclass(frozen=True)
class Clip:
    """What a clip shows; the rest of it follows from `seed`."""

    file: str
    """Relative to the data set's folder."""
    split: str
    motion: str
    picture: str
    speed: float
    """Mean speed of the motion: frame widths or heights a second, natural logarithm of the size, or radians."""
    fps: float
    frames: int
    width: int
    height: int
    plays: bool
    """The picture is a video that goes on while the camera moves."""
    objects: int
    """Things that move by themselves in front of it."""
    seed: tuple[int, ...]


def film(clip: Clip, picture: Picture, others: Sequence[Picture]) -> np.ndarray:
    """The frames of a clip, uint8 `(T, H, W, 3)`; `others` lend the things in front of `picture`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rng = np.random.default_rng(clip.seed)
        sharp = _expose(clip, picture, others, rng)
        frames = _develop(sharp, clip.fps, rng)
    finally:
        torch.set_num_threads(threads)
    return frames.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _expose(clip: Clip, picture: Picture, others: Sequence[Picture], rng: np.random.Generator) -> torch.Tensor:
    """What falls on the sensor, 0 to 255, float `(T, 3, H, W)`: the mean over moments while the shutter is open."""
    size = clip.width, clip.height
    times, moments = _moments(clip, rng)
    shake = 0.0 if rng.random() < 0.3 else math.exp(rng.uniform(math.log(4e-4), math.log(3e-3)))
    still = min(0.3, 8 / clip.fps)
    path = camera_path(clip.motion, times, clip.speed, size, rng, still=still, shake=shake)
    source = _source(clip, picture, rng)
    tilted = rng.normal(0, 0.05) if rng.random() < 0.8 else rng.uniform(-math.pi, math.pi)
    views = place(path, size, source[0], rng, angle=tilted)
    blur = rng.uniform(1.0, 2.2) if rng.random() < 0.25 else 1.0
    if len(source) == 1:
        seen = sample_views(torch.from_numpy(source[0].copy()), views, size, blur)
    else:
        shown = _playing(times[::moments], len(source), rng)
        parts = [views[i * moments : (i + 1) * moments] for i in range(clip.frames)]
        images = (torch.from_numpy(source[number].copy()) for number in shown)
        seen = torch.cat([sample_views(image, part, size, blur) for image, part in zip(images, parts, strict=True)])
    for _ in range(clip.objects):
        _put_object(seen, times, size, others[rng.integers(len(others))], rng)
    return seen.view(clip.frames, moments, *seen.shape[1:]).mean(1) if moments > 1 else seen


def _moments(clip: Clip, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Times in seconds of all moments, and how many belong to a frame: more where motion blurs more."""
    reach = {"pan": clip.width, "tilt": clip.height, "static": 0}.get(clip.motion.split()[0], clip.width / 2)
    shutter = rng.uniform(0.2, 0.6) if rng.random() < 0.6 else 0.0
    count = int(np.clip(round(clip.speed * reach / clip.fps * shutter) + 1, 1, 5))
    offsets = np.arange(count) / count * shutter
    return ((np.arange(clip.frames)[:, None] + offsets) / clip.fps).ravel(), count


def _source(clip: Clip, picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """`(1, H, W, 3)`, or the frames of a video that plays; half of them mirrored."""
    pixels = read_picture(picture)
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    if not clip.plays:
        pixels = pixels[[rng.integers(len(pixels))]]
    return pixels[:, :, ::-1] if rng.random() < 0.5 else pixels


def _playing(times: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `count` frames, filmed at 25 a second, is shown at each time; to and fro where they are too few."""
    period = max(2 * (count - 1), 1)
    place = (times * 25 * rng.uniform(0.5, 1.1) + rng.integers(period)).astype(int) % period
    return np.where(place < count, place, period - place)


# Things in front of the picture --------------------------------------------------------------------------------------


def _put_object(
    seen: torch.Tensor, times: np.ndarray, size: tuple[int, int], picture: Picture, rng: np.random.Generator
) -> None:
    """A rounded piece of another picture, at most a quarter of the frame, on a way of its own, onto `(N, 3, h, w)`."""
    diameter = min(size) * math.exp(rng.uniform(math.log(0.15), math.log(0.55)))
    piece = _cut_out(picture, max(8, round(diameter)), rng)
    x, y, growth, angle = _own_way(times, size, rng)
    inverse = CameraPath(np.zeros_like(x), np.zeros_like(x), 1 / growth, -angle).views().matrix
    position = np.stack([x, y], 1)
    half = piece.shape[0] / 2
    for number in range(len(seen)):  # a window around the piece, and nothing where it is out of sight
        reach = half * growth[number] * 1.05 + 1
        low = np.maximum(np.floor(position[number] - reach), 0).astype(int)
        high = np.minimum(np.ceil(position[number] + reach), size).astype(int)
        if (high - low < 1).any():
            continue
        window = (int(high[0] - low[0]), int(high[1] - low[1]))
        centre = half + inverse[number] @ ((low + high) / 2 - position[number])
        pixels = sample_views(piece, Views(inverse[[number]], centre[None]), window)[0]
        target = seen[number, :, low[1] : high[1], low[0] : high[0]]
        target.mul_(1 - pixels[3:]).add_(pixels[:3])


def _cut_out(picture: Picture, side: int, rng: np.random.Generator) -> torch.Tensor:
    """A rounded piece, colours 0 to 255 times opacity, and opacity 0 to 1: float `(side, side, 4)`."""
    from PIL import Image

    pixels = read_picture(picture)
    pixels = pixels if pixels.ndim == 3 else pixels[rng.integers(len(pixels))]
    height, width = pixels.shape[:2]
    cut = int(min(height, width) * rng.uniform(0.25, 0.9))
    left, top = rng.integers(width - cut + 1), rng.integers(height - cut + 1)
    image = Image.fromarray(pixels[top : top + cut, left : left + cut]).resize((side, side), Image.Resampling.BILINEAR)
    across = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(across, across * rng.uniform(1.0, 1.8))
    direction = np.arctan2(y, x)
    edge = 0.72
    for wave in range(2, 5):
        edge = edge + rng.uniform(-0.07, 0.07) * np.sin(wave * direction + rng.uniform(0, 2 * math.pi))
    opacity = ((edge - np.hypot(x, y)) / rng.uniform(0.04, 0.25) + 0.5).clip(0, 1)[..., None]
    return torch.from_numpy(np.concatenate([np.asarray(image) * opacity, opacity], 2).astype(np.float32))


def _own_way(times: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Position in frame pixels, size as a multiple and angle in radians of something that moves by itself: `(N,)` each.

    It crosses the frame, sways about a place, or stays where it is in the frame, as something followed or a sign does.
    """
    side, end = min(size), float(times[-1])
    x, y = (rng.uniform(0.15, 0.85) * length for length in size)
    growth, angle = np.ones_like(times), np.full_like(times, rng.uniform(-math.pi, math.pi))
    kind = rng.choice(3, p=(0.5, 0.3, 0.2))
    if kind == 0:
        speed, heading = math.exp(rng.uniform(math.log(0.05), 0)), rng.uniform(0, 2 * math.pi)
        way = side * speed * (times - end / 2)
        x, y = x + way * math.cos(heading), y + way * math.sin(heading)
        growth = np.exp(rng.normal(0, 0.15) * (times - end / 2))
        angle = angle + rng.normal(0, 0.4) * times
    elif kind == 1:
        rate, phase = rng.uniform(0.3, 2.0), rng.uniform(0, 2 * math.pi, 3)
        swing = [np.sin(2 * math.pi * rate * times + p) for p in phase]
        x, y = x + side * rng.uniform(0, 0.2) * swing[0], y + side * rng.uniform(0, 0.2) * swing[1]
        angle = angle + rng.uniform(0, 0.4) * swing[2]
    return x + 0 * times, y + 0 * times, growth, angle


# Lens, sensor, file --------------------------------------------------------------------------------------------------


def _develop(frames: torch.Tensor, fps: float, rng: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast, colour, flicker, vignette, noise and bars, on `(T, 3, H, W)` of 0 to 255, in place."""
    count, _, height, width = frames.shape
    times = np.arange(count) / fps
    contrast, brightness = math.exp(rng.normal(0, 0.18)), rng.normal(0, 14)
    if rng.random() < 0.08:
        frames = frames.mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    gain = contrast * np.exp(rng.normal(0, 0.05, 3))[None] * np.ones((count, 1))
    if rng.random() < 0.3:  # the exposure follows, or lamps flicker
        drift, flicker = rng.normal(0, 0.1) * times, rng.uniform(0, 0.06) * np.sin(rng.uniform(3, 40) * times)
        gain = gain * np.exp(drift + flicker)[:, None]
    frames = frames.sub_(110).mul_(_tensor(gain)[:, :, None, None]).add_(110 + brightness)
    if rng.random() < 0.3:
        x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        frames = frames.mul_(_tensor(1 - rng.uniform(0.1, 0.5) * (x**2 + y**2) / 2))
    if rng.random() < 0.6:
        noise = rng.standard_normal((count, 1, height, width), np.float32)
        frames = frames.add_(torch.from_numpy(noise), alpha=math.exp(rng.uniform(math.log(0.7), math.log(9))))
    if rng.random() < 0.06:
        bar = int(rng.uniform(0.06, 0.14) * min(height, width))
        along = frames if rng.random() < 0.6 else frames.transpose(2, 3)
        along[:, :, :bar], along[:, :, -bar:] = 0, 0
    return frames


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


def write_clip(frames: np.ndarray, target: Path, fps: float, *, crf: int = 23, codec: str = "libx264") -> None:
    """Writes uint8 `(T, H, W, 3)` of even sides as an mp4 without sound, under a hidden name until it is complete.

    `crf` from 0, lossless, to 51; for `codec` "mpeg4" it is turned into a quantiser of about that quality.
    """
    import av

    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(part, "w", format="mp4") as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.codec_context.thread_count = 1
            if codec == "mpeg4":
                quantiser = max(2, (crf - 12) // 2)
                stream.options = {"qmin": str(quantiser), "qmax": str(quantiser)}
            else:
                stream.options = {"crf": str(crf), "preset": "superfast"}
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
