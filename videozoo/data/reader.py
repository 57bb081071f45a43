"""Frame-accurate reading of videos, folders of images and arrays, behind one small protocol.

Frames are uint8 RGB `(T, H, W, 3)`, numbered from 0 in the order in which they are shown. A reader counts the frames
that really decode; what the container claims is not believed. No decoder is imported before a file is opened.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = [
    "ArrayReader",
    "ImageFolderReader",
    "TorchcodecReader",
    "VideoError",
    "VideoReader",
    "open_video",
]

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_FLOW_NAME = re.compile(r"^(?:flow_)?([xy])_?(\d+)$")


class VideoError(ValueError):
    """A video that cannot be read: `path` and `reason`."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple:  # so that it comes back whole from a worker process
        return type(self), (self.path, self.reason)


@runtime_checkable
class VideoReader(Protocol):
    """What sampling and transforms need of a video. Readers are context managers and are not thread-safe."""

    path: str
    width: int
    height: int
    fps: float  # 0.0 where unknown

    def __len__(self) -> int: ...

    def get(self, indices: Iterable[int]) -> np.ndarray:
        """Frames uint8 `(T, H, W, C)` in the order asked for, repeats allowed; IndexError outside `0..len - 1`."""
        ...

    def close(self) -> None: ...


def open_video(
    path: str | os.PathLike[str],
    *,
    reader: str = "auto",
    num_threads: int = 0,
    modality: str = "rgb",
    fps: float | None = None,
    size: int | None = None,
) -> VideoReader:
    """Open a video file or a folder of frames.

    `reader`: "auto" takes "images" for a folder and "pyav" for a file; "torchcodec" has to be asked for and installed.
    `num_threads`: decoder threads, 0 for as many as FFmpeg likes; use 1 in data-loading worker processes.
    `modality="flow"` opens a folder of `x_*` and `y_*` images, frames are then `(T, H, W, 2)`. `fps` is for folders,
    whose speed is not known otherwise. Anything that gives no frame at all is a `VideoError`.

    `size` is the fast mode: frames come with this short side, scaled by the decoder as it converts their colours. That
    is quicker than decoding and resizing, and not equal in every byte to the resizing of published test protocols.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise VideoError(path, "there is no such file or folder.")
    if reader == "auto":
        reader = "images" if os.path.isdir(path) else "pyav"
    if size is not None and (reader != "pyav" or size < 1):
        raise ValueError(
            f"size={size} with reader={reader!r}: only reader='pyav' scales frames while it decodes, to a short side "
            "from 1 on; resize them afterwards."
        )
    if reader == "images":
        return ImageFolderReader(path, modality=modality, fps=fps or 0.0)
    if reader not in ("pyav", "torchcodec"):
        raise ValueError(f"reader={reader!r} is unknown: use 'auto', 'pyav', 'torchcodec' or 'images'.")
    if modality == "flow":
        raise VideoError(path, "optical flow is read from a folder of x_*.jpg and y_*.jpg images, not from a video.")
    if os.path.isdir(path):
        raise VideoError(path, f"is a folder, which reader={reader!r} cannot read: use reader='images'.")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty (0 bytes).")
    if reader == "torchcodec":
        return TorchcodecReader(path, num_threads=num_threads)
    from .pyav import PyAVReader
    from .resize import rescale_size

    video = PyAVReader(path, num_threads=num_threads)
    if size is not None:
        video.scale_to(*rescale_size(video.width, video.height, (-1, size)))
    return video


class BaseReader(ABC):
    """Index checking, repeats and the context manager; a reader adds `_count`, `_read` and what it must close."""

    path: str
    width: int
    height: int
    fps: float
    channels = 3
    _count: int
    _closed = False

    def __len__(self) -> int:
        return self._count

    def get(self, indices: Iterable[int]) -> np.ndarray:
        """Frames uint8 `(T, H, W, C)` in the order asked for; each distinct frame is decoded once."""
        if self._closed:
            raise ValueError(f"{self.path}: the reader is closed, open the video again.")
        indices = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices)).reshape(-1)
        if not len(indices):
            return np.empty((0, self.height, self.width, self.channels), np.uint8)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"frame indices must be whole numbers, got {indices.dtype}.")
        self._check(indices)
        distinct, rows = np.unique(indices, return_inverse=True)
        frames = self._read(distinct)
        return frames if np.array_equal(distinct, indices) else frames[rows]

    def _check(self, indices: np.ndarray) -> None:
        wrong = indices[(indices < 0) | (indices >= len(self))]
        if len(wrong):
            raise IndexError(
                f"{self.path}: frame {wrong[0]} does not exist, there are {len(self)} (0..{len(self) - 1})."
            )

    @abstractmethod
    def _read(self, indices: np.ndarray) -> np.ndarray:
        """Frames of distinct, increasing indices."""

    def scale_to(self, width: int, height: int) -> bool:
        """Ask for frames in another size; False from a reader that gives them as they are stored."""
        return False

    def close(self) -> None:
        """Give up the file; reading afterwards is a ValueError. Closing twice is fine."""
        self._closed = True

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {len(self)} frames, {self.width}x{self.height}, {self.fps:g} fps)"


class ArrayReader(BaseReader):
    """Frames in memory, uint8 `(T, H, W, C)` array or CPU tensor, as a reader."""

    def __init__(self, frames: Any, *, fps: float = 0.0, path: str = "<array>") -> None:
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 (T, H, W, C), got {frames.dtype} {tuple(frames.shape)}.")
        if not frames.size:
            raise ValueError(f"frames of shape {tuple(frames.shape)} are empty: at least one frame is needed.")
        self._frames = np.require(frames, requirements=["C", "W"])  # torch shares neither read-only nor reversed arrays
        self._count, self.height, self.width, self.channels = frames.shape
        self.path, self.fps = path, fps

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if len(indices) == self._count:
            return self._frames
        return self._frames[indices]


class ImageFolderReader(BaseReader):
    """A folder with one image per frame, in natural order of their names (2 before 10).

    `modality="flow"` pairs `flow_x_00001.jpg` or `x_00001.jpg` with its y image into `(T, H, W, 2)`; otherwise such
    files are left out, so a folder may hold both. Images are opened when they are read; EXIF rotation is ignored, for
    extracted frames have none.
    """

    def __init__(self, path: str | os.PathLike[str], *, modality: str = "rgb", fps: float = 0.0) -> None:
        self.path, self.fps = os.fspath(path), fps
        images = [p for p in Path(path).iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES]
        self._files = _flow_pairs(self.path, images) if modality == "flow" else _rgb_frames(images)
        if not self._files:
            wanted = "flow images (x_*.jpg and y_*.jpg)" if modality == "flow" else "images (.jpg, .png, .bmp, .webp)"
            other = "; its flow images are read with modality='flow'" if images and modality != "flow" else ""
            raise VideoError(path, f"the folder holds no {wanted}{other}.")
        self._count = len(self._files)
        self.channels = 2 if modality == "flow" else 3
        self._mode = "L" if modality == "flow" else "RGB"
        self.height, self.width = self._open(self._files[0][0]).shape[:2]

    def _read(self, indices: np.ndarray) -> np.ndarray:
        frames = np.empty((len(indices), self.height, self.width, self.channels), np.uint8)
        for frame, index in zip(frames, indices, strict=True):
            for channel, file in enumerate(self._files[index]):
                image = self._open(file)
                if image.shape[:2] != (self.height, self.width):
                    raise VideoError(
                        self.path,
                        f"frames differ in size: {self._files[0][0].name} is {self.width}x{self.height}, "
                        f"{file.name} is {image.shape[1]}x{image.shape[0]}.",
                    )
                frame[..., channel if self._mode == "L" else slice(None)] = image
        return frames

    def _open(self, file: Path) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(file) as image:
                return np.asarray(image.convert(self._mode))
        except (OSError, SyntaxError, Image.DecompressionBombError) as err:
            raise VideoError(self.path, f"{file.name} is not a readable image ({err}).") from err


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _rgb_frames(images: Sequence[Path]) -> list[tuple[Path, ...]]:
    return [(file,) for file in sorted(images, key=_natural) if not _FLOW_NAME.match(file.stem)]


def _flow_pairs(path: str, images: Sequence[Path]) -> list[tuple[Path, ...]]:
    fields: dict[str, dict[int, Path]] = {"x": {}, "y": {}}
    for file in images:
        if match := _FLOW_NAME.match(file.stem):
            fields[match[1]][int(match[2])] = file
    alone = sorted(fields["x"].keys() ^ fields["y"].keys())
    if alone:
        file = fields["x"].get(alone[0]) or fields["y"][alone[0]]
        raise VideoError(path, f"{file.name} has no partner: every flow frame needs an x and a y image.")
    return [(fields["x"][number], fields["y"][number]) for number in sorted(fields["x"])]


class TorchcodecReader(BaseReader):
    """Adapter for torchcodec's `VideoDecoder` in its exact seek mode.

    Needs torchcodec and FFmpeg's shared libraries. Frames equal those of the default reader for files with sound time
    stamps; torchcodec does not check that the frames it counts decode, and puts some AVI frames in another order.
    """

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int = 0) -> None:
        self.path = os.fspath(path)
        try:
            from torchcodec.decoders import VideoDecoder
        except ImportError as err:
            raise ImportError(
                "reader='torchcodec' needs the torchcodec package: install it (pip install torchcodec), or use "
                f"reader='pyav' ({err})."
            ) from err
        try:
            self._decoder = VideoDecoder(
                self.path, dimension_order="NHWC", num_ffmpeg_threads=num_threads, seek_mode="exact"
            )
        except (RuntimeError, ValueError, OSError) as err:
            if "load libtorchcodec" in str(err):
                raise ImportError(
                    "torchcodec cannot load FFmpeg's shared libraries: install FFmpeg, or use reader='pyav'."
                ) from err
            raise VideoError(self.path, f"torchcodec cannot read it ({_first_line(err)}).") from err
        meta = self._decoder.metadata
        self._count = len(self._decoder)
        if not self._count:
            raise VideoError(self.path, "no frame decodes.")
        self.fps, self.width, self.height = float(meta.average_fps or 0.0), meta.width, meta.height

    def _read(self, indices: np.ndarray) -> np.ndarray:
        try:
            return self._decoder.get_frames_at(indices=indices.tolist()).data.numpy()
        except (RuntimeError, IndexError) as err:
            raise VideoError(
                self.path, f"torchcodec fails on its frames ({_first_line(err)}): use reader='pyav'."
            ) from err

    def close(self) -> None:
        super().close()
        self._decoder = None


def _first_line(err: BaseException) -> str:
    return str(err).strip().partition("\n")[0]
