"""A camera that moves over a picture: paths for nine kinds of motion, and frames as such a camera would take them.

Directions are those of the camera. It pans left: what it sees moves to the right. It tilts up: what it sees moves down.
It rolls clockwise, as seen from behind it: what it sees turns counter-clockwise.

Coordinates are continuous, x to the right and y down, with the first pixel's centre at (0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["MOTIONS", "CameraPath", "Views", "camera_path", "place", "render", "sample_views"]

MOTIONS = (
    "static",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "zoom in",
    "zoom out",
    "roll clockwise",
    "roll counterclockwise",
)
_BACKWARD = ("pan left", "tilt up", "zoom in", "roll counterclockwise")
_EDGE = 2.0  # pixels of the picture that stay out of sight
_FINE = 0.6  # picture pixels in a frame pixel: the camera goes no closer where the picture is large enough
_ENOUGH = 6e-4  # detail that makes a motion visible


@dataclass(frozen=True)
class CameraPath:
    """Where a camera looks, in terms of its first view; arrays `(N,)` over time."""

    x: np.ndarray
    """Frame pixels to the right."""
    y: np.ndarray
    """Frame pixels down."""
    size: np.ndarray
    """Of the view, as a multiple: less is zoomed in."""
    angle: np.ndarray
    """Radians clockwise."""

    def views(self, scale: float = 1.0, origin: tuple[float, float] = (0.0, 0.0), angle: float = 0.0) -> Views:
        """The views with a first one that is centred at `origin` of the picture, turned clockwise by `angle`, and has
        `scale` picture pixels in a frame pixel.
        """
        shift = scale * _rotation(np.float64(angle)) @ np.stack([self.x, self.y])[..., None].transpose(1, 0, 2)
        matrix = (scale * self.size)[:, None, None] * _rotation(self.angle + angle)
        return Views(matrix, shift[..., 0] + np.asarray(origin))


@dataclass(frozen=True)
class Views:
    """Maps from frames to a picture: `matrix @ (offset from the frame's centre) + centre`; `(N, 2, 2)`, `(N, 2)`."""

    matrix: np.ndarray
    centre: np.ndarray

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, part: Any) -> Views:
        return Views(self.matrix[part], self.centre[part])

    @property
    def scale(self) -> np.ndarray:
        """Picture pixels in a frame pixel, `(N,)`."""
        return np.sqrt(np.abs(np.linalg.det(self.matrix)))

    def boxes(self, size: tuple[int, int]) -> np.ndarray:
        """Left, top, right, bottom of what frames of `size` (width, height) see, `(N, 4)`."""
        reach = np.abs(self.matrix) @ (np.asarray(size) / 2)
        return np.concatenate([self.centre - reach, self.centre + reach], 1)


def _rotation(angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


# Paths ---------------------------------------------------------------------------------------------------------------


def camera_path(
    motion: str,
    times: np.ndarray,
    speed: float,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    still: float = 0.0,
    shake: float = 0.0,
) -> CameraPath:
    """A path of one of `MOTIONS` at `times` in seconds, `(N,)`, increasing.

    Args:
        speed: the mean one while the camera moves: frame widths a second (pan), frame heights (tilt), natural logarithm
            of the size (zoom) or radians (roll).
        size: width and height of the frame in pixels.
        still: the longest time, in seconds, that it may stand still at the beginning or the end.
        shake: of a hand, as a share of the frame's short side: slow and irregular, no larger than this in any axis.
    """
    way = speed * _progress(times, rng, still)
    none, sign = np.zeros_like(times), -1.0 if motion in _BACKWARD else 1.0
    aside = rng.uniform(-1 / 3, 1 / 3) * (rng.random() < 0.5)
    fixed = rng.uniform(-0.2, 0.2, 2) * size  # the point that a zoom or roll keeps in place
    kind = motion.split()[0]
    if kind == "pan":
        x, y, log_size, angle = sign * way * size[0], aside * way * size[0], none, none
    elif kind == "tilt":
        x, y, log_size, angle = aside * way * size[1], sign * way * size[1], none, none
    elif kind == "zoom":
        left = 1 - np.exp(sign * way)
        x, y, log_size, angle = left * fixed[0], left * fixed[1], sign * way, none
    elif kind == "roll":
        turned = _rotation(sign * way) @ fixed
        x, y, log_size, angle = fixed[0] - turned[:, 0], fixed[1] - turned[:, 1], none, sign * way
    elif motion == "static":
        x, y, log_size, angle = none, none, none, none
    else:
        raise ValueError(f"there is no motion {motion!r}: use one of {', '.join(MOTIONS)}.")
    hand = [shake * _wander(times, rng) for _ in range(4)]
    side = min(size)
    return CameraPath(x + side * hand[0], y + side * hand[1], np.exp(log_size + hand[2]), angle + hand[3])


def _progress(times: np.ndarray, rng: np.random.Generator, still: float) -> np.ndarray:
    """Seconds of motion at the mean speed, `(N,)`: even, faster and slower, with a short rest at one end or none."""
    end = float(times[-1])
    rest = min(rng.uniform(0, still), end / 4) if rng.random() < 0.4 else 0.0
    u = np.linspace(0, 1, 257)
    phase = rng.uniform(0, 2 * math.pi)
    shapes = (1 + 0 * u, 0.4 + u, 1.4 - u, 0.5 + np.sin(math.pi * u), 1 + 0.35 * np.sin(2 * math.pi * u + phase))
    speed = shapes[rng.choice(5, p=(0.4, 0.15, 0.15, 0.15, 0.15))]
    done = np.concatenate([[0], np.cumsum(speed[1:] + speed[:-1])])
    begin = rest if rng.random() < 0.5 else 0.0
    moving = max(end - rest, 1e-6)
    return moving * np.interp((times - begin) / moving, u, done / done[-1])


def _wander(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth irregular curve within -1 to 1 that begins at 0, `(N,)`."""
    rates, phases = rng.uniform(0.3, 2.5, 3), rng.uniform(0, 2 * math.pi, 3)
    waves = np.sin(2 * math.pi * np.outer(times, rates) + phases) - np.sin(phases)
    return waves @ (rng.dirichlet(np.ones(3)) / 2)


def place(
    path: CameraPath,
    size: tuple[int, int],
    picture: np.ndarray,
    rng: np.random.Generator,
    *,
    angle: float = 0.0,
    tries: int = 8,
) -> Views:
    """Lays a path somewhere into a picture `(H, W, 3)`, at a random distance, where there is something to see.

    That is the first of some places with enough detail in its first, middle and last view, or the best of them.
    """
    height, width = picture.shape[:2]
    boxes = path.views(angle=angle).boxes(size)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    room = np.array([width, height]) - 2 * _EDGE
    largest = float((room / (high - low)).min())
    detail = _Detail(picture)
    best, best_views = -1.0, None
    for _ in range(tries):
        closer = min(rng.random(2)) * math.log(largest / min(largest, _FINE))
        scale = largest * math.exp(-closer)
        origin = _EDGE - scale * low + rng.random(2) * (room - scale * (high - low))
        views = path.views(scale, tuple(origin), angle)
        seen = detail(views[[0, len(views) // 2, -1]], size).min()
        if seen > best:
            best, best_views = seen, views
        if seen > _ENOUGH:
            break
    return best_views


class _Detail:
    """How much a motion changes the brightness (0 to 1) along the direction in which it changes least: mean square of
    the step from one frame pixel to the next, the smaller eigenvalue of the structure tensor.
    """

    def __init__(self, picture: np.ndarray) -> None:
        self.step = max(1, min(picture.shape[:2]) // 128)
        grey = picture[:: self.step, :: self.step].mean(-1, dtype=np.float32) / 255
        dy, dx = np.gradient(grey)
        sums = np.stack([dx * dx, dy * dy, dx * dy]).cumsum(1, dtype=np.float64).cumsum(2)
        self.sums = np.pad(sums, ((0, 0), (1, 0), (1, 0)))

    def __call__(self, views: Views, size: tuple[int, int]) -> np.ndarray:
        """`(N,)`; the views are taken as upright boxes."""
        left, top, right, bottom = (views.boxes(size) / self.step).round().astype(int).T
        height, width = (edge - 1 for edge in self.sums.shape[1:])
        left, right = left.clip(0, width - 1), right.clip(1, width)
        top, bottom = top.clip(0, height - 1), bottom.clip(1, height)
        s = self.sums
        xx, yy, xy = s[:, bottom, right] - s[:, top, right] - s[:, bottom, left] + s[:, top, left]
        area = np.maximum((right - left) * (bottom - top), 1)
        least = ((xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)) / area
        return least * np.minimum(views.scale / self.step, 1) ** 2


# Frames --------------------------------------------------------------------------------------------------------------


def render(picture: np.ndarray, path: CameraPath, size: tuple[int, int], **placed: Any) -> np.ndarray:
    """Sharp frames of a still picture `(H, W, 3)` along a path, uint8 `(N, h, w, 3)`; `placed` as in `path.views`.

    The first view's centre is that of the picture unless `origin` says otherwise.
    """
    placed.setdefault("origin", (picture.shape[1] / 2, picture.shape[0] / 2))
    frames = sample_views(torch.from_numpy(np.array(picture)), path.views(**placed), size)
    return frames.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()


def sample_views(picture: torch.Tensor, views: Views, size: tuple[int, int], blur: float = 1.0) -> torch.Tensor:
    """What the views see of a picture `(H, W, C)`, uint8 or float, as float `(N, C, h, w)`; beyond its edges it goes on
    as at the edge.

    The picture is brought to the resolution of the closest view first (`blur` times coarser), and for views from
    farther away a pyramid of halves is blended, so that nothing aliases.
    """
    boxes = views.boxes(size)
    low = np.floor(boxes[:, :2].min(0) - _EDGE).astype(int)
    high = np.ceil(boxes[:, 2:].max(0) + _EDGE).astype(int)
    height, width = picture.shape[:2]
    (left, top), (right, bottom) = low.clip(0, (width - 2, height - 2)), high.clip(2, (width, height))
    part = picture[top:bottom, left:right]
    nearest = float(views.scale.min())
    level = _reduce(part, max(1.0, nearest * blur))
    factor = np.array([level.shape[2] / part.shape[1], level.shape[1] / part.shape[0]])
    matrix, centre = views.matrix * factor[:, None], (views.centre - (left, top)) * factor
    coarseness = np.log2(np.maximum(views.scale * factor.max(), 1.0))
    depth = math.ceil(coarseness.max() - 0.3)
    if not depth:
        return _gather(level, matrix, centre, size)
    out = torch.zeros(len(views), level.shape[0], size[1], size[0])
    for number in range(depth + 1):
        weight = (1 - np.abs(coarseness.clip(max=depth) - number)).clip(0)
        rows = np.flatnonzero(weight)
        if len(rows):
            pixels = _gather(level, matrix[rows] / 2**number, centre[rows] / 2**number, size)
            out[rows] += pixels.mul_(torch.from_numpy(np.float32(weight[rows]))[:, None, None, None])
        level = F.avg_pool2d(F.pad(level[None], (0, level.shape[2] % 2, 0, level.shape[1] % 2), "replicate"), 2)[0]
    return out


def _reduce(part: torch.Tensor, factor: float) -> torch.Tensor:
    """`(H, W, C)` as float `(C, h, w)`, smaller by about `factor`."""
    level = part.permute(2, 0, 1)
    if factor > 1.05:
        shape = [max(2, round(side / factor)) for side in level.shape[1:]]
        level = F.interpolate(level[None], size=shape, mode="bilinear", antialias=True)[0]
    return level.float().contiguous()


def _gather(level: torch.Tensor, matrix: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear samples of `(C, H, W)`: float `(N, C, h, w)`."""
    sides = np.array([level.shape[2], level.shape[1]])
    matrix, centre = matrix * 2 / sides[:, None], 2 * centre / sides - 1  # into -1 to 1 across the picture
    across, down = (np.arange(side) + 0.5 - side / 2 for side in size)
    lines = torch.from_numpy(np.float32(matrix[:, None, :, 1] * down[:, None] + centre[:, None]))  # (N, h, 2)
    steps = torch.from_numpy(np.float32(matrix[:, None, :, 0] * across[:, None]))  # (N, w, 2)
    out = torch.empty(len(matrix), level.shape[0], size[1], size[0])
    for row in range(len(matrix)):  # one by one: what is in the processor's cache is fast
        grid = lines[row, None, :, None] + steps[row]
        out[row] = F.grid_sample(level[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return out
