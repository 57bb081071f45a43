"""From uint8 frames to network inputs: resize, crops, flip, normalisation, and the transform of a checkpoint.

The functions act on whole clips, uint8 tensors `(T, H, W, C)`, with one random draw for all frames, and match the
evaluation pipeline that published numbers come from to the byte. Frames stay uint8 until `ClipTransform.normalize`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .augmentation import MAGNITUDES, erase, jitter_colors, rand_augment
from .config import resolve_data_config
from .reader import ArrayReader, VideoError, VideoReader, open_video
from .resize import rescale_size, resize_frames
from .sampling import sample_views

__all__ = [
    "ClipTransform",
    "ClipViews",
    "center_crop",
    "create_transform",
    "crop_boxes",
    "flip",
    "multi_scale_crop",
    "normalize",
    "random_resized_crop",
    "resize",
    "ten_crop",
    "three_crop",
]

Box = tuple[int, int, int, int]  # x, y, width, height
TRAIN_CROPS = ("random_resized_crop", "multi_scale_crop", "center")
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of random erasing: share of the picture, width to height
_GRIDS = {  # crop positions of `multi_scale_crop` in quarters of the free space, (x, y)
    5: ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    13: (
        (0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3),
    ),
}  # fmt: skip


def resize(
    frames: torch.Tensor,
    scale: float | Sequence[int],
    *,
    keep_ratio: bool = True,
    interpolation: str = "bilinear",
    backend: str = "cv2",
) -> torch.Tensor:
    """Resize uint8 `(T, H, W, C)`.

    `scale` is a factor or `(width, height)`; with `keep_ratio` the pair is the frame to fit into, in any order, -1 for
    unbounded (see `rescale_size`), without it the exact new size.
    """
    width, height = resized_size(frames.shape[2], frames.shape[1], scale, keep_ratio)
    return resize_frames(frames, (height, width), interpolation=interpolation, backend=backend)


def resized_size(width: int, height: int, scale: float | Sequence[int], keep_ratio: bool = True) -> tuple[int, int]:
    """New `(width, height)` by the rule of `resize`."""
    return rescale_size(width, height, scale) if keep_ratio else (scale[0], scale[1])


def crop_boxes(height: int, width: int, size: int | tuple[int, int], crops: int) -> list[tuple[Box, bool]]:
    """The boxes `(x, y, w, h)` of a 1-, 3- or 10-crop test and whether each is mirrored, in the published order.

    0 crops: the whole frame, whatever its size.
    `size` is a side or (width, height). 1: centre. 3: left, right, middle along the longer side, for which the shorter
    one must equal the crop. 10: four corners and the centre, each followed by its mirror image. Where the free space is
    not divisible the outer crops end up to 3 pixels short of the border.
    """
    if crops == 0:
        return [((0, 0, width, height), False)]
    w, h = (size, size) if isinstance(size, int) else size
    if w > width or h > height:
        raise ValueError(
            f"a crop of {w}x{h} (width x height) does not fit in frames of {width}x{height}: "
            "resize the frames to a larger size first, or choose a smaller crop."
        )
    if crops == 1:
        return [(((width - w) // 2, (height - h) // 2, w, h), False)]
    if crops == 3:
        if w != width and h != height:
            raise ValueError(
                f"three crops of {w}x{h} (width x height) need frames with one side equal to the crop, got "
                f"{width}x{height}: resize the short side to the crop size first."
            )
        x, y = (width - w) // 2, (height - h) // 2
        return [((step * x, step * y, w, h), False) for step in (0, 2, 1)]
    if crops == 10:
        x, y = (width - w) // 4, (height - h) // 4
        places = [(i * x, j * y, w, h) for i, j in _GRIDS[5]]
        return [(box, mirrored) for box in places for mirrored in (False, True)]
    raise ValueError(f"crops={crops} is not offered: use 1, 3, 10, or 0 for whole frames.")


def crop(frames: torch.Tensor, box: Box) -> torch.Tensor:
    """The part `box` = (x, y, width, height) of `(T, H, W, C)`, a view without a copy."""
    x, y, w, h = box
    return frames[:, y : y + h, x : x + w]


def _test_crops(
    frames: torch.Tensor, size: int | tuple[int, int], crops: int, is_flow: bool = False
) -> list[torch.Tensor]:
    boxes = crop_boxes(frames.shape[1], frames.shape[2], size, crops)
    return [flip(crop(frames, box), is_flow=is_flow) if mirrored else crop(frames, box) for box, mirrored in boxes]


def center_crop(frames: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """The centre of `(T, H, W, C)`; `size` is a side or (width, height). A crop that does not fit is a ValueError."""
    return _test_crops(frames, size, 1)[0]


def three_crop(frames: torch.Tensor, size: int | tuple[int, int]) -> list[torch.Tensor]:
    """Left, right, middle (top, bottom, middle of portrait frames); see `crop_boxes`."""
    return _test_crops(frames, size, 3)


def ten_crop(frames: torch.Tensor, size: int | tuple[int, int], *, is_flow: bool = False) -> list[torch.Tensor]:
    """Four corners and the centre, each followed by its mirror image; see `crop_boxes`."""
    return _test_crops(frames, size, 10, is_flow)


def flip(frames: torch.Tensor, *, vertical: bool = False, is_flow: bool = False) -> torch.Tensor:
    """Mirror `(T, H, W, C)` left to right, or top to bottom. Mirrored x flow (even channels) becomes 255 - value."""
    flipped = frames.flip(1 if vertical else 2)
    if is_flow and not vertical:
        flipped[..., 0::2] = 255 - flipped[..., 0::2]
    return flipped


def multi_scale_sizes(
    height: int, width: int, size: int | tuple[int, int], scales: Sequence[float], gap: int
) -> list[tuple[int, int]]:
    """All crop sizes (width, height) that `multi_scale_crop` draws from; a size may occur more than once."""
    target = (size, size) if isinstance(size, int) else tuple(size)
    sides = [int(min(height, width) * scale) for scale in scales]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= gap]
    return [tuple(t if abs(s - t) < 3 else s for s, t in zip(pair, target, strict=True)) for pair in pairs]


def multi_scale_crop(
    height: int,
    width: int,
    size: int | tuple[int, int],
    rng: np.random.Generator,
    *,
    scales: Sequence[float] = (1.0,),
    gap: int = 1,
    positions: int = 5,
) -> Box:
    """A random box `(x, y, w, h)`: sides are the short side times two of `scales` at most `gap` apart in the list.

    It lies at one of 5 (corners, centre) or 13 fixed places. A side within 2 pixels of the final `size` is set to it.
    """
    if positions not in _GRIDS:
        raise ValueError(f"positions={positions} is not offered: use 5 or 13.")
    sizes = multi_scale_sizes(height, width, size, scales, gap)
    w, h = sizes[rng.integers(len(sizes))]
    if w > width or h > height:
        raise ValueError(f"a crop of {w}x{h} does not fit in frames of {width}x{height}: resize them larger first.")
    x, y = _GRIDS[positions][rng.integers(positions)]
    return x * ((width - w) // 4), y * ((height - h) // 4), w, h


def random_resized_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A random box `(x, y, w, h)` of a share `area` of the frame and an aspect ratio within `aspect`.

    The first of ten draws that fits; the largest centred square if none does.
    """
    if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"area={area} must be a range within 0..1 and aspect={aspect} a range above 0.")
    ratios = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), size=10))
    areas = rng.uniform(*area, size=10) * height * width
    widths, heights = np.rint(np.sqrt(areas * ratios)).astype(int), np.rint(np.sqrt(areas / ratios)).astype(int)
    fits = np.flatnonzero((widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height))
    if len(fits):
        w, h = int(widths[fits[0]]), int(heights[fits[0]])
        return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


def normalize(
    frames: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    value_range: tuple[float, float] = (0, 1),
    channel_order: str = "rgb",
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """uint8 `(V, T, H, W, C)` to float32 `(V, C, T, H, W)` on `device`: `(x - mean) / std`.

    0..255 become `value_range` first. "bgr" swaps the channels before mean and std apply, so these are in BGR order.
    Where frames have more channels than `mean` (stacked flow), mean and std repeat. The bytes travel to the device.
    """
    channels = frames.shape[-1]
    if channels % len(mean) or len(mean) != len(std):
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} values, which do not fit {channels} channels.")
    low, high = value_range
    repeats = channels // len(mean)
    spread = 1 / torch.tensor(list(std) * repeats, dtype=torch.float64)
    scale = spread * (high - low) / 255
    bias = (low - torch.tensor(list(mean) * repeats, dtype=torch.float64)) * spread
    x = frames.to(device).permute(0, 4, 1, 2, 3)
    if channel_order == "bgr":
        x = x.flip(1)
    shape = (1, channels, 1, 1, 1)
    x = x.to(torch.float32, memory_format=torch.contiguous_format)
    return x.mul_(scale.to(x).view(shape)).add_(bias.to(x).view(shape))


def normalize_by(
    config: Mapping[str, Any], frames: torch.Tensor, device: torch.device | str | None = None
) -> torch.Tensor:
    """`normalize` with the values of a data config."""
    names = ("mean", "std", "value_range", "channel_order")
    return normalize(frames, device=device, **{name: config[name] for name in names})


class ClipViews(Sequence[torch.Tensor]):
    """The uint8 views of one video, cut out on demand from its distinct frames, which are decoded and resized once.

    `views[i]` is `(T, H, W, C)`, `views[a:b]` is `(b - a, T, H, W, C)`. Crop is the outer index: all clips of the first
    crop come first. `frames` holds the distinct frames `(N, H, W, C)`, `indices` the rows of it that each clip shows.
    """

    def __init__(
        self, frames: torch.Tensor, indices: np.ndarray, boxes: Sequence[tuple[Box, bool]], *, is_flow: bool = False
    ) -> None:
        self.frames = frames
        self.indices = indices  # (clips, T) or, where the fields of a segment are stacked as channels, (clips, T, k)
        self.boxes = list(boxes)
        self.is_flow = is_flow

    def __len__(self) -> int:
        return len(self.boxes) * len(self.indices)

    def __getitem__(self, item: int | slice) -> torch.Tensor:
        if isinstance(item, slice):
            picked = [self[i] for i in range(*item.indices(len(self)))]
            return torch.stack(picked) if picked else self[0][None][:0]
        if not -len(self) <= item < len(self):
            raise IndexError(f"view {item} of {len(self)}")
        crop_number, clip_number = divmod(item % len(self), len(self.indices))
        box, mirrored = self.boxes[crop_number]
        view = gather_frames(crop(self.frames, box), self.indices[clip_number])
        return flip(view, is_flow=self.is_flow) if mirrored else view

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))


def gather_frames(frames: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
    """Rows `indices` of `(N, H, W, C)`: `(T, H, W, C)`, for indices (T, k) `(T, H, W, k * C)`."""
    picked = frames[torch.from_numpy(indices)]
    if indices.ndim == 1:
        return picked
    steps, k, height, width, channels = picked.shape
    return picked.permute(0, 2, 3, 1, 4).reshape(steps, height, width, k * channels)


class ClipTransform:
    """Video in, network input out, as a data config says (`resolve_data_config`); made by `create_transform`.

    Called with a `VideoReader` or a path it samples the frames itself and returns float32 `(views, C, T, H, W)`, crop
    as the outer index of views, or for training `(C, T, H, W)`. Called with frames that were sampled already, uint8
    `(T, H, W, C)` as tensor, array or list of PIL images, it takes them as one clip and returns `(crops, C, T, H, W)`,
    or for training `(C, T, H, W)`. Videos with fewer frames than a clip spans repeat their frames.

    `resize_backend="decoder"` is the fast mode: the reader scales frames while it decodes, which is not equal in every
    byte to the published protocols. Frames that come from elsewhere, and crops of training clips, are resized as with
    "cv2".

    Training draws come from `rng`; without it from a generator seeded by torch, so `torch.manual_seed` and the worker
    seeds of a DataLoader govern them. Where left and right differ, set `hflip=0`, or take `training_clip`, which tells
    whether it has mirrored the clip.
    """

    def __init__(self, config: Mapping[str, Any], is_training: bool = False) -> None:
        if config["modality"] not in ("rgb", "flow"):
            raise ValueError(f"modality={config['modality']!r} has no frame transform: only 'rgb' and 'flow' have.")
        if is_training:
            _check_training(config)
        self.config = dict(config)
        self.is_training = is_training

    def __call__(self, source: Any, rng: np.random.Generator | None = None) -> torch.Tensor:
        if self.is_training:
            return self.normalize(self.training_clip(source, rng)[0][None])[0]
        if isinstance(source, (str, os.PathLike)):
            with open_video(source, modality=self.config["modality"]) as reader:
                return self(reader)
        return self.normalize(self._views(*self._source_frames(source))[:])

    def training_clip(self, source: Any, rng: np.random.Generator | None = None) -> tuple[torch.Tensor, bool]:
        """An augmented clip that only lacks `normalize`: uint8 `(T, H, W, C)`, and whether it shows the mirror image.

        `source` is what the transform is called with. Clips `(N, T, H, W, C)` can so travel as bytes and be normalised
        as one batch on the device.
        """
        if not self.is_training:
            raise ValueError("a test transform makes no training clips: create it with is_training=True.")
        rng = rng or np.random.default_rng(torch.randint(2**63 - 1, ()).item())
        if isinstance(source, (str, os.PathLike)):
            with open_video(source, modality=self.config["modality"]) as reader:
                return self.training_clip(reader, rng)
        return self._training_clip(*self._source_frames(source, rng), rng)

    def _source_frames(self, source: Any, rng: np.random.Generator | None = None) -> tuple[torch.Tensor, np.ndarray]:
        if _is_reader(source):
            return self._sampled_frames(source, rng)
        reader = ArrayReader(_as_frames(source))
        return self._distinct_frames(reader, self._whole_clip(len(reader)))

    def sample(self, reader: VideoReader, rng: np.random.Generator | None = None) -> np.ndarray:
        """Frame numbers of the clips of one crop, `(views, T)`, for stacked flow `(views, T, k)`.

        A training transform needs `rng` and gives one view.
        """
        if self.is_training and rng is None:
            raise ValueError("a training transform samples at random: pass rng=numpy.random.default_rng(seed).")
        return sample_views(len(reader), self.config, rng if self.is_training else None)

    def views(self, reader: VideoReader) -> ClipViews:
        """All views of the test protocol as uint8, not yet normalised; cheap in memory (see `ClipViews`)."""
        if self.is_training:
            raise ValueError("a training transform has no fixed views: call it, or create it with is_training=False.")
        return self._views(*self._sampled_frames(reader))

    def resized(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 `(T, H, W, C)` in the size that views are cut from; frames that have it come back as they are."""
        return self._resize(frames)

    def normalize(self, frames: torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
        """uint8 views `(V, T, H, W, C)` to float32 `(V, C, T, H, W)` on `device`."""
        return normalize_by(self.config, frames, device)

    def _views(self, frames: torch.Tensor, rows: np.ndarray) -> ClipViews:
        boxes = crop_boxes(frames.shape[1], frames.shape[2], self.config["size"], self.config["crops"])
        return ClipViews(frames, rows, boxes, is_flow=self.config["modality"] == "flow")

    def _sampled_frames(
        self, reader: VideoReader, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        count, loaded = len(reader), None
        try:
            loaded = self._distinct_frames(reader, self.sample(reader, rng))
        except (VideoError, IndexError):
            if len(reader) == count:
                raise
        if loaded is None or len(reader) != count:  # frames turned out not to decode, and the reader counted anew
            loaded = self._distinct_frames(reader, self.sample(reader, rng))
        return loaded

    def _distinct_frames(self, reader: VideoReader, indices: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Every frame that occurs, decoded and resized once `(N, H, W, C)`, and `indices` as rows of it."""
        distinct, rows = np.unique(indices, return_inverse=True)
        with self._scaling(reader):
            parts = [self._resize(torch.from_numpy(part)) for part in _read_in_chunks(reader, distinct)]
        frames = parts[0] if len(parts) == 1 else torch.cat(parts)
        self._check_channels(frames)
        return frames, rows.reshape(indices.shape)

    def _check_channels(self, frames: torch.Tensor) -> None:
        expected = 2 if self.config["modality"] == "flow" else 3
        if frames.shape[-1] != expected:
            raise ValueError(
                f"{self.config['modality']} frames are uint8 (T, H, W, {expected}), got {frames.shape[-1]} channels in "
                f"{frames.shape[2]}x{frames.shape[1]} frames."
            )

    def _resize(self, frames: torch.Tensor, exact: int | None = None) -> torch.Tensor:
        cfg = self.config
        backend = "cv2" if cfg["resize_backend"] == "decoder" else cfg["resize_backend"]
        kind = {"interpolation": cfg["interpolation"], "backend": backend}
        if exact is not None:
            return resize(frames, (exact, exact), keep_ratio=False, **kind)
        if cfg["resize"] is None:
            return frames
        return resize(frames, **self._resize_rule(), **kind)

    def _resize_rule(self) -> dict[str, Any]:
        """The arguments of `resize` that say which size frames get."""
        scale, keep_ratio = self.config["resize"], self.config["keep_ratio"]
        return {"scale": (-1, scale)} if isinstance(scale, int) else {"scale": scale, "keep_ratio": keep_ratio}

    @contextmanager
    def _scaling(self, reader: VideoReader) -> Iterator[None]:
        """With the "decoder" backend frames come scaled from readers that can do so, within the block."""
        is_fast = self.config["resize_backend"] == "decoder" and self.config["resize"] is not None
        if not is_fast or not hasattr(reader, "scale_to"):
            yield
            return
        reader.scale_to(*resized_size(reader.width, reader.height, **self._resize_rule()))
        try:
            yield
        finally:
            reader.scale_to(reader.width, reader.height)

    def _whole_clip(self, count: int) -> np.ndarray:
        """Indices (1, T) or (1, T, k) of frames that are one clip already."""
        per_step = self.config["num_frames"] if self.config["stack"] else 1
        if count == 0 or count % per_step:
            raise ValueError(f"got {count} frames for one clip: give a positive multiple of {per_step}.")
        indices = np.arange(count)[None]
        return indices.reshape(1, -1, per_step) if self.config["stack"] else indices

    def _training_clip(
        self, frames: torch.Tensor, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, bool]:
        cfg = self.config
        is_flow = cfg["modality"] == "flow"
        box = self._training_box(frames.shape[1], frames.shape[2], rng)
        frames = self._resize(crop(frames, box), exact=cfg["size"])
        mirrored = bool(rng.random() < cfg["hflip"])
        if mirrored:
            frames = flip(frames, is_flow=is_flow)
        if cfg["color_jitter"] and not is_flow:
            frames = jitter_colors(frames, cfg["color_jitter"], rng)
        if cfg["rand_augment"]:
            frames = rand_augment(frames, cfg["rand_augment"], rng)
        if cfg["erasing"] and rng.random() < cfg["erasing"]:
            box = random_resized_crop(*frames.shape[1:3], rng, area=ERASED_AREA, aspect=ERASED_ASPECT)
            frames = erase(frames, box, rng)
        return gather_frames(frames, rows[0]), mirrored

    def _training_box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        cfg = self.config
        if cfg["train_crop"] == "random_resized_crop":
            return random_resized_crop(height, width, rng, area=cfg["area"], aspect=cfg["aspect"])
        if cfg["train_crop"] == "multi_scale_crop":
            return multi_scale_crop(
                height,
                width,
                cfg["size"],
                rng,
                scales=cfg["scales"],
                gap=cfg["max_scale_gap"],
                positions=cfg["fixed_crops"],
            )
        return crop_boxes(height, width, min(height, width), 1)[0][0]

    def __repr__(self) -> str:
        cfg = self.config
        resized = f"short side {cfg['resize']}" if isinstance(cfg["resize"], int) else cfg["resize"]
        shape = f"{cfg['num_frames']}x{cfg['stride']}, {cfg['clips']} clips, {cfg['segments']} per view"
        crops = f"{cfg['train_crop']} to {cfg['size']}" if self.is_training else f"{cfg['crops']} x {cfg['size']}"
        lines = [
            f"modality={cfg['modality']}{' stacked' if cfg['stack'] else ''}, is_training={self.is_training}",
            f"sample={cfg['sampling']} {shape}{', twice' if cfg['twice_sample'] else ''}",
            f"resize={resized} ({cfg['resize_backend']} {cfg['interpolation']})",
            f"crop={crops}" + (f", hflip={cfg['hflip']}" if self.is_training else ""),
            f"normalize=mean {tuple(cfg['mean'])}, std {tuple(cfg['std'])} of {cfg['channel_order']} "
            f"in {cfg['value_range'][0]}..{cfg['value_range'][1]}",
        ]
        return "ClipTransform(\n  " + "\n  ".join(lines) + "\n)"


def create_transform(model_or_cfg: Any = None, *, is_training: bool = False, **overrides: Any) -> ClipTransform:
    """The transform of a checkpoint: its test protocol, or with `is_training` its training augmentation.

    `model_or_cfg` is a model with a `pretrained_cfg`, a catalog entry, a pretrained_cfg dict, or a config that
    `resolve_data_config` returned. `overrides` are single keys of that config (`clips=1`, `size=224`, ...). None of
    both: the defaults of `resolve_data_config`.
    """
    args, cfg = {}, model_or_cfg
    if hasattr(cfg, "pretrained_cfg"):
        cfg = cfg.pretrained_cfg
    if hasattr(cfg, "to_dict"):
        cfg = cfg.to_dict()
    if isinstance(cfg, Mapping) and isinstance(cfg.get("sampling"), str):  # flat, so resolved already
        args, cfg = dict(cfg), None
    if cfg is not None and not isinstance(cfg, Mapping):
        raise TypeError(f"create_transform takes a model, a catalog entry or a config dict, got {type(cfg).__name__}.")
    args |= {key: value for key, value in overrides.items() if value is not None}
    config = resolve_data_config(args, pretrained_cfg=cfg or {}, use_test_size=not is_training)
    if config["modality"] == "audio":
        from .audio import AudioTransform

        return AudioTransform(config, is_training)
    return ClipTransform(config, is_training)


def _check_training(config: Mapping[str, Any]) -> None:
    """ValueError for augmentation that no video could go through."""
    if config["train_crop"] not in TRAIN_CROPS:
        raise ValueError(f"train_crop={config['train_crop']!r} is unknown: use {', '.join(map(repr, TRAIN_CROPS))}.")
    amount = config["rand_augment"]
    if not amount:
        return
    if config["modality"] == "flow":
        raise ValueError("rand_augment changes colours and shapes, which makes flow wrong: leave it out.")
    if not isinstance(amount, Sequence) or len(amount) != 2 or amount[0] < 1 or not 0 <= amount[1] < MAGNITUDES:
        raise ValueError(f"rand_augment={amount!r} must be (operations from 1 on, magnitude of 0..{MAGNITUDES - 1}).")


def _is_reader(source: Any) -> bool:
    return hasattr(source, "get") and hasattr(source, "__len__") and not isinstance(source, Mapping)


def _as_frames(source: Any) -> np.ndarray:
    """uint8 (T, H, W, C) of a tensor, an array or a list of images."""
    if isinstance(source, torch.Tensor):
        frames = source.cpu().numpy()
    elif isinstance(source, np.ndarray):
        frames = source
    elif isinstance(source, Sequence) and len(source):
        frames = np.stack([np.asarray(image) for image in source])
    else:
        raise TypeError(
            f"a transform takes a video reader, a path, or uint8 frames (T, H, W, C), got {type(source).__name__}"
            f"{' without any frame' if isinstance(source, Sequence) else ''}."
        )
    return frames


def _read_in_chunks(reader: VideoReader, indices: np.ndarray, at_once: int = 32) -> Iterator[np.ndarray]:
    """Frames in chunks, so that full-size frames of a long sample are never all in memory."""
    return (reader.get(indices[start : start + at_once]) for start in range(0, len(indices), at_once))
