"""Videos with boxes and words on them, written frame by frame: the memory does not grow with the video."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HUE_STEP = 0.381966  # of a turn: neighbouring numbers get colours far apart, however many there are
MIN_TEXT = 11  # pixels


@dataclass(frozen=True)
class Person:
    """What is drawn of one person."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the frame."""
    number: int = 0
    """Chooses the colour; the number of a track."""
    lines: tuple[str, ...] = ()
    """Words beside the box: actions with their scores."""


def colour_of(number: int) -> tuple[int, int, int]:
    """A strong RGB colour for a number, always the same one."""
    red, green, blue = colorsys.hsv_to_rgb(number * HUE_STEP % 1.0, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever has the greater contrast to an RGB colour."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def draw_persons(frame: np.ndarray, persons: Sequence[Person]) -> np.ndarray:
    """A copy of the frame, uint8 ``(H, W, 3)``, with boxes and their words on a ground of the box's colour.

    The words begin with the person's number. They stand within the frame, above the box, or where they hide least of
    the words of others: in the box, below or beside it. Of a person without words only the box is drawn.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(frame))
    draw = ImageDraw.Draw(picture)
    height, width = frame.shape[:2]
    font = _font(max(MIN_TEXT, round(height / 30)))
    line_width = max(2, round(height / 200))
    for person in persons:
        box = _within(person.box, width, height)
        draw.rectangle(box, outline=colour_of(person.number), width=line_width)
    taken: list[tuple[int, int, int, int]] = []
    for person in persons:
        if not person.lines:
            continue
        text, colour = f"#{person.number} " + "\n".join(person.lines), colour_of(person.number)
        left, top, right, bottom = map(round, draw.multiline_textbbox((0, 0), text, font=font, spacing=2))
        w, h = right - left + 6, bottom - top + 6
        x, y = _free_spot(_within(person.box, width, height), (w, h), (width, height), line_width, taken)
        taken.append((x, y, x + w, y + h))
        draw.rectangle(taken[-1], fill=colour)
        draw.multiline_text((x + 3 - left, y + 3 - top), text, fill=text_colour(colour), font=font, spacing=2)
    return np.asarray(picture)


def _free_spot(
    box: Sequence[int],
    size: tuple[int, int],
    frame: tuple[int, int],
    line_width: int,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int]:
    """Upper left corner of a ground of ``size`` (w, h) for a box's words that hides least of those ``taken``."""
    (x1, y1, x2, y2), (w, h) = box, size
    places = [(x1, y1 + line_width), (x1, y2 + 1), (x1, y2 - h - line_width), (x2 + 1, y1), (x1 - w - 1, y1)]
    if y1 >= h:
        places.insert(0, (x1, y1 - h))

    def moved(place: tuple[int, int]) -> tuple[int, int]:
        return max(0, min(place[0], frame[0] - w)), max(0, min(place[1], frame[1] - h))

    def hidden(place: tuple[int, int]) -> int:
        x, y = place
        sides = ((min(x + w, b[2]) - max(x, b[0]), min(y + h, b[3]) - max(y, b[1])) for b in taken)
        return sum(max(0, across) * max(0, down) for across, down in sides)

    return min(map(moved, places), key=hidden)


def _within(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Whole corners of a box within the frame, in order."""
    xs = sorted(round(min(max(x, 0), width - 1)) for x in (box[0], box[2]))
    ys = sorted(round(min(max(y, 0), height - 1)) for y in (box[1], box[3]))
    return xs[0], ys[0], xs[1], ys[1]


class VideoWriter:
    """Writes an H.264 mp4, frame by frame; the file appears under its name when it is complete.

    Use it in a ``with`` block: an error inside leaves nothing behind. A side of odd length loses its last pixel.

    Args:
        path: the file; missing folders are made.
        width, height: of the frames, pixels.
        fps: frames per second; 25 where it is unknown (0).
    """

    def __init__(self, path: str | os.PathLike[str], width: int, height: int, fps: float = 25.0):
        if width < 2 or height < 2:
            raise ValueError(f"a video of {width}x{height} pixels cannot be written: each side needs 2 or more")
        self.path = Path(path)
        self.width, self.height = width - width % 2, height - height % 2
        self.fps = fps if fps > 0 else 25.0
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._container = av.open(self._part, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
        self._stream.width, self._stream.height, self._stream.pix_fmt = self.width, self.height, "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast"}
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 ``(H, W, 3)``; ValueError if it has another size than the video."""
        import av

        if frame.shape[0] - frame.shape[0] % 2 != self.height or frame.shape[1] - frame.shape[1] % 2 != self.width:
            raise ValueError(f"{self.path} has frames of {self.width}x{self.height}, got one of {frame.shape[1::-1]}")
        picture = np.ascontiguousarray(frame[: self.height, : self.width])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        self.frames += 1

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None and self.frames:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None and self.frames:
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)
        if kind is None and not self.frames:
            raise ValueError(f"{self.path} was not written: it has no frames")
