"""Windows over a whole video, hours long if need be: each frame is decoded once and kept only while a window needs it.

A window is a few frames around a centre. Windows may overlap; what is in memory does not depend on the video's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from .reader import VideoError, VideoReader
from .sampling import windows_around
from .transforms import ClipTransform, crop, crop_boxes, gather_frames

__all__ = ["FramesChangedError", "WindowTransform", "window_centres"]

BLOCK_FRAMES = 64  # about as many resized frames are in memory at a time
READ_BYTES, READ_FRAMES = 1 << 26, 32  # of one call of the reader


class FramesChangedError(VideoError):
    """Frames turned out not to decode, and the reader counted anew: windows must be placed again."""


def window_centres(total: int, every: int, first: int | None = None) -> np.ndarray:
    """Frame numbers `(W,)` around which windows lie: `first`, and then each `every`-th.

    By default the middle of each whole or begun stretch of `every` frames, as the published features of ActivityNet
    were made. A video that ends before its first window has one around its middle frame.
    """
    if total < 1 or every < 1:
        raise ValueError(f"windows need frames and a step of at least 1, got total={total} and every={every}.")
    centres = np.arange(every // 2 if first is None else first, total, every)
    return centres if len(centres) else np.array([total // 2])


class WindowTransform(ClipTransform):
    """The test transform of a checkpoint for windows of a long video: one centre crop (or whole frames) of each.

    Args:
        config: see `resolve_data_config`; its sampling and number of crops are left aside.
        frames: of a window. Where flow fields are stacked they are one input: `num_frames` of the config.
        spacing: from one frame of a window to the next.
    """

    def __init__(self, config: Mapping[str, Any], frames: int, spacing: int = 1) -> None:
        super().__init__({**config, "crops": min(config["crops"], 1)})
        if frames < 1 or spacing < 1:
            raise ValueError(f"a window needs frames={frames} and spacing={spacing} of at least 1.")
        self.frames, self.spacing = frames, spacing

    def stream(self, reader: VideoReader, centres: np.ndarray) -> Iterator[torch.Tensor]:
        """The windows around increasing `centres`, uint8 `(T, H, W, C)` each, in order; `normalize` is left to do.

        The frames are read in one pass from the first to the last.

        Raises:
            FramesChangedError: see there.
        """
        total = len(reader)
        held: dict[int, torch.Tensor] = {}
        step = max(1, BLOCK_FRAMES // self.frames)
        for start in range(0, len(centres), step):
            block = windows_around(centres[start : start + step], total, frames=self.frames, spacing=self.spacing)
            needed = set(block.reshape(-1).tolist())
            held = {number: frame for number, frame in held.items() if number in needed}
            held |= self.cropped(reader, np.array(sorted(needed - held.keys()), np.int64))
            for numbers in block:
                frames = torch.stack([held[number] for number in numbers.tolist()])
                rows = np.arange(len(numbers))
                yield gather_frames(frames, rows[None] if self.config["stack"] else rows)

    def cropped(self, reader: VideoReader, numbers: np.ndarray) -> dict[int, torch.Tensor]:
        """Frames uint8 `(H, W, C)` by their (increasing) numbers, resized and cut."""
        total, result = len(reader), {}
        channels = 2 if self.config["modality"] == "flow" else 3
        at_once = int(np.clip(READ_BYTES // (reader.width * reader.height * channels), 1, READ_FRAMES))
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            try:
                frames = reader.get(part)
            except (VideoError, IndexError):
                if len(reader) == total:
                    raise
            if len(reader) != total:
                raise FramesChangedError(reader.path, f"only {len(reader)} of {total} frames decode.")
            frames = torch.from_numpy(frames)
            self._check_channels(frames)
            frames = self._resize(frames)
            box = crop_boxes(frames.shape[1], frames.shape[2], self.config["size"], self.config["crops"])[0][0]
            result |= zip(part.tolist(), crop(frames, box).clone(), strict=True)
        return result
