"""Optical flow of a video, as the published flow networks were fed: TV-L1, kept as pairs of grey images.

Needs OpenCV with its contributed modules, ``pip install videozoo[flow]``. The published networks were trained on flow
that OpenCV's TV-L1 (Zach et al., DAGM 2007) computed on a GPU; ``method="tvl1"`` is the same algorithm with the same
settings on the CPU, and takes seconds a frame. ``method="dis"`` (Kroeger et al., ECCV 2016) is a hundred times faster,
but not what the networks saw: expect lower accuracy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .reader import BaseReader, VideoError, VideoReader
from .resize import rescale_size, resize_bilinear_cv2

__all__ = ["FlowReader", "compute_flow", "write_flow"]

BOUND = 20.0  # pixels a frame: shown as 255, its opposite as 0
JPEG_QUALITY = 95
METHODS = ("tvl1", "dis")
_PAIRS_AT_ONCE = 16

FlowFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _flow_function(method: str) -> FlowFunction:
    """Function from two uint8 RGB frames ``(H, W, 3)`` to float32 ``(H, W, 2)``: x, y in pixels, first to second."""
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown: use {' or '.join(map(repr, METHODS))}.")
    try:
        import cv2
    except ImportError as error:
        raise ImportError("optical flow needs OpenCV: pip install 'videozoo[flow]'.") from error
    if method == "dis":
        engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    elif hasattr(cv2, "optflow"):
        # OpenCV's GPU version, which made the published flow, has no median filter; all else is its default too.
        engine = cv2.optflow.DualTVL1OpticalFlow_create(medianFiltering=1)
    else:
        raise ImportError(
            f"the installed OpenCV {cv2.__version__} lacks TV-L1, one of the contributed modules: replace it by "
            "pip install opencv-contrib-python-headless, or give a folder that videozoo.data.write_flow(video, folder, "
            "method='dis') has written."
        )

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return engine.calc(*(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)), None)

    return flow


def quantize_flow(flow: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Flow in pixels as uint8: -bound becomes 0, none 128 (127.5 rounded to even), bound 255; beyond it is cut off."""
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


class FlowReader(BaseReader):
    """A video as its optical flow: reader of frames uint8 ``(T, H, W, 2)``, one fewer than the video has.

    Frame i is the movement from frame i of the video to frame i + 1, in pixels of the resized video, see
    :func:`quantize_flow`. Only the flow that is asked for is computed. The video stays the caller's: closing this
    reader leaves it open.

    Args:
        video: open reader of RGB frames.
        method: "tvl1" or "dis".
        short_side: the video is resized to this short side first; None leaves its size. The published flow was
            computed on videos of short side 256, 320, or 340x256: movement is counted in their pixels.

    Raises:
        VideoError: the video has fewer than two frames.
        ImportError: OpenCV or its contributed modules are missing.
    """

    channels = 2

    def __init__(self, video: VideoReader, *, method: str = "tvl1", short_side: int | None = 256):
        if len(video) < 2:
            raise VideoError(video.path, "optical flow needs at least two frames, the video has one.")
        self._flow = _flow_function(method)
        self.video, self.path, self.fps = video, video.path, video.fps
        self.width, self.height = video.width, video.height
        if short_side is not None:
            self.width, self.height = rescale_size(video.width, video.height, (-1, short_side))
        self._count = len(video) - 1

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return np.concatenate([self._read_few(part) for part in _portions(indices)])

    def _read_few(self, indices: np.ndarray) -> np.ndarray:
        needed = np.union1d(indices, indices + 1)
        frames = resize_bilinear_cv2(self.video.get(needed), (self.height, self.width))
        rows = np.searchsorted(needed, indices)  # of the first frames; the second ones follow them
        return np.stack([quantize_flow(self._flow(frames[row], frames[row + 1])) for row in rows])


def _portions(indices: np.ndarray) -> Iterator[np.ndarray]:
    return (indices[start : start + _PAIRS_AT_ONCE] for start in range(0, len(indices), _PAIRS_AT_ONCE))


def compute_flow(video: VideoReader, *, method: str = "tvl1", short_side: int | None = 256) -> np.ndarray:
    """Optical flow of a whole video of T frames, uint8 ``(T - 1, H, W, 2)``; arguments and errors as of FlowReader."""
    reader = FlowReader(video, method=method, short_side=short_side)
    return reader.get(range(len(reader)))


def write_flow(
    video: VideoReader,
    folder: str | os.PathLike[str],
    *,
    method: str = "tvl1",
    short_side: int | None = 256,
) -> int:
    """Write a video's flow as ``flow_x_00001.jpg``, ``flow_y_00001.jpg``, ... and return the number of pairs.

    ``open_video(folder, modality="flow")`` reads such folders. The folder is made if need be, and may hold other files,
    but no flow images: two videos must not mix. Nothing appears before all flow is computed. Other arguments and errors
    are those of :class:`FlowReader`; FileExistsError if there are flow images.
    """
    from PIL import Image

    reader = FlowReader(video, method=method, short_side=short_side)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("flow_[xy]_*")):
        raise FileExistsError(f"{folder} holds flow images already: choose another folder, or remove them first.")
    with tempfile.TemporaryDirectory(prefix=".flow_", dir=folder) as temporary:
        for part in _portions(np.arange(len(reader))):
            for number, field in zip(part + 1, reader.get(part), strict=True):
                for channel, axis in enumerate("xy"):
                    image = Image.fromarray(field[..., channel])
                    image.save(Path(temporary, f"flow_{axis}_{number:05d}.jpg"), quality=JPEG_QUALITY)
        for file in Path(temporary).iterdir():
            os.replace(file, folder / file.name)
    return len(reader)
