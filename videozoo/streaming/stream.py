"""Scores of a model while frames come in: a window over the newest frames, treated as ``predict`` treats a video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.reader import BaseReader
from ..prediction import average_views, class_names, full_name, protocol_transform, view_probabilities
from .capture import newest
from .online import OnlineTSM

WHOLE_VIDEO = 64  # frames of a window where a model spreads its frames over the whole video, however long that is


@dataclass(frozen=True)
class StreamScores:
    """What a model says about one window."""

    top: list[tuple[str, float]]
    """The most probable labels with their probabilities, best first, as ``predict`` returns them."""
    probabilities: np.ndarray
    """Of all classes, float64 (classes,)."""
    frame: int
    """Number of the newest frame of the window; frames count from 0 as they are pushed."""
    frames: tuple[int, ...]
    """Numbers of the distinct frames that the network saw; with ``fps`` a frame may stand for several."""
    seconds: float | None = None
    """The time of that newest frame, if the caller told it."""
    dropped: int = 0
    """Windows since the scores before that nobody looked at, because the model was busy (see :meth:`Stream.run`)."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all but the probabilities of the classes that are not in ``top``."""
        predictions = [{"label": label, "probability": probability} for label, probability in self.top]
        facts = {"frame": self.frame, "seconds": self.seconds, "frames": list(self.frames), "dropped": self.dropped}
        return facts | {"predictions": predictions}


class Window(BaseReader):
    """The frames of a window that are looked at, as a video of ``count`` frames."""

    fps = 0.0

    def __init__(self, count: int, shown: Mapping[int, tuple[int, np.ndarray]], frame: int, seconds: float | None):
        self.path = f"window up to frame {frame}"
        self._count, self._shown = count, shown  # place in the window -> number and picture
        self.frame, self.seconds = frame, seconds
        self.height, self.width = next(iter(shown.values()))[1].shape[:2]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the distinct frames, in order."""
        return tuple(sorted({number for number, _ in self._shown.values()}))

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._shown[int(index)][1] for index in indices])


class Stream:
    """Scores of a model for the newest ``window`` frames, again every ``every`` frames.

    A window is sampled, resized, cropped and averaged exactly as ``predict(model, window, views=views)`` does it with a
    video of these frames, so the scores are the same. Only frames that a window to come will show are kept, and they
    are kept resized. Not thread-safe.

    Args:
        model: a recogniser of RGB frames. It stays where it is unless ``device`` is given, and works in eval mode.
        window: frames that a prediction is about. By default what one clip of the model spans (57 for 8 frames, one in
            8), and 64 where a model spreads its frames over a video of any length (TSN, TSM); what such a model was
            trained on is often longer: 300 frames of Kinetics at 30 a second.
        every: frames from one prediction to the next.
        fps: frames a second that the window counts, whatever the camera gives; ``push`` then needs times. Each slot of
            1 / fps seconds takes the first frame that comes in it (or up to a quarter of a slot before), further ones
            are left out, and slots without a frame repeat the frame after them. None: every frame counts, whenever it
            comes.
        views: "fast" is the centre crop of one clip, "full" all views of the published protocol.
        topk: labels in ``StreamScores.top``.
        online: run a causal TSM frame by frame, see :class:`OnlineTSM`: one in ``every`` frames goes through the
            network, and the scores are of the mean logits over the last ``model.num_frames`` of these; no ``window``.
        device: where the model is moved.
        batch_size: views that go through the network at a time, see ``predict``.

    Raises:
        ValueError: wrong argument, or a model that does not classify RGB video.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        window: int | None = None,
        every: int = 8,
        fps: float | None = None,
        views: str = "fast",
        topk: int = 5,
        online: bool = False,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._transform = protocol_transform(model, views)
        config = self._transform.config
        if config["modality"] != "rgb":
            raise ValueError(
                f"{full_name(model.pretrained_cfg)} works on {config['modality']}, a stream gives RGB frames: "
                "take an RGB model (videozoo.list_models(modality='rgb'))."
            )
        for name, value in {
            "every": every,
            "topk": topk,
            "batch_size": 1 if batch_size is None else batch_size,
        }.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if fps is not None and not fps > 0:
            raise ValueError(f"fps={fps} must be above 0 frames a second.")
        if online and (window is not None or views != "fast"):
            raise ValueError("online=True looks at one frame at a time: leave out window and views.")
        self.model, self.every, self.fps, self.topk = model, every, fps, topk
        self.window = 1 if online else _window_length(config, window, self._transform.sample)
        self._shown = np.unique([0] if online else self._transform.sample(range(self.window)))  # places in the window
        self._batch_size = batch_size
        self._online = OnlineTSM(model) if online else None
        self._labels = class_names(model.pretrained_cfg, model.num_classes)
        if device is not None:
            model.to(device)
        self.reset()

    def reset(self) -> None:
        """Forget all frames and counts: the next frame begins a stream, and may have another size."""
        self.frames = 0
        """Frames pushed."""
        self.predictions = 0
        self.dropped = 0
        """Windows that nobody looked at."""
        self._kept: dict[int, tuple[int, np.ndarray]] = {}  # slot -> number and resized picture
        self._slots = 0
        self._shape: tuple[int, ...] | None = None
        self._began: float | None = None
        self._seconds = -np.inf
        self._slot = -1  # of `fps`, counted from the first frame
        if self._online is not None:
            self._online.reset()
            self._logits: deque[torch.Tensor] = deque(maxlen=self.model.num_frames)

    def push(self, frame: np.ndarray | torch.Tensor, seconds: float | None = None) -> StreamScores | None:
        """Take in the next frame; the scores of the window that it completes, None where it completes none.

        ``frame`` is uint8 RGB ``(H, W, 3)``, array or tensor (OpenCV's are BGR: push ``frame[..., ::-1]``), ``seconds``
        its time, which only ``fps`` needs. Where one frame fills several slots of ``fps`` and so completes several
        windows, the newest is looked at and the others count as ``dropped``.

        Raises:
            ValueError: no such frame, another size than before (see :meth:`reset`), or a time that goes back.
        """
        due = self._take(frame, seconds)
        return self._score(due[-1], len(due) - 1) if due else None

    def run(self, source: Iterable[Any], *, drop: bool = True) -> Iterator[StreamScores]:
        """Scores while ``source`` goes on: frames are taken in on a thread of their own, the model works on this one.

        ``source`` gives frames or pairs (frame, seconds), as ``videozoo.data.open_camera`` and ``follow_video`` do. A
        window that the model has not begun when the next one is complete is dropped, and counted, so scores are never
        older than the model takes for two windows; ``drop=False`` lets the source wait instead, as is right for a
        recording. Begins afresh (:meth:`reset`). Errors of the source are raised here; closing the iterator ends the
        thread after its current frame.
        """
        self.reset()
        with closing(newest(source, self._take_item, drop=drop)) as windows:
            for window, dropped in windows:
                yield self._score(window, dropped)

    # Taking in

    def _take_item(self, item: Any) -> list[Window]:
        return self._take(*item) if isinstance(item, tuple) else self._take(item, None)

    def _take(self, frame: Any, seconds: float | None) -> list[Window]:
        """The windows that a frame completes."""
        picture = _as_picture(frame)
        if self._shape not in (None, picture.shape):
            (height, width), (h, w) = picture.shape[:2], self._shape[:2]
            raise ValueError(
                f"frame {self.frames} is {width}x{height}, the frames before are {w}x{h}: "
                "resize it, or call reset() to begin a new stream."
            )
        slots = self._slots_of(seconds)
        self._shape = picture.shape
        number, self.frames = self.frames, self.frames + 1
        resized, due = None, []
        for slot in range(self._slots, self._slots + slots):
            if ((self._shown <= slot) & ((slot - self._shown) % self.every == 0)).any():
                resized = self._resized(picture) if resized is None else resized
                self._kept[slot] = number, resized
            start = slot - self.window + 1
            if start >= 0 and start % self.every == 0:
                shown = {int(place): self._kept[start + int(place)] for place in self._shown}
                due.append(Window(self.window, shown, number, seconds))
                self._kept = {slot: kept for slot, kept in self._kept.items() if slot >= start + self.every}
        self._slots += slots
        return due

    def _slots_of(self, seconds: float | None) -> int:
        """How many slots of the window a frame fills."""
        if self.fps is None:
            return 1
        if seconds is None:
            raise ValueError(f"fps={self.fps:g} needs the time of each frame: push(frame, seconds).")
        if not seconds >= self._seconds:
            raise ValueError(f"frame {self.frames} is of {seconds} s, the frame before of {self._seconds} s.")
        self._seconds = seconds
        self._began = seconds if self._began is None else self._began
        slot = int((seconds - self._began) * self.fps + 0.25)
        fills, self._slot = slot - self._slot, max(slot, self._slot)
        return min(fills, self.window + self.every)  # after a longer pause nothing but this frame is shown anyway

    def _resized(self, picture: np.ndarray) -> np.ndarray:
        resized = self._transform.resized(torch.from_numpy(np.ascontiguousarray(picture))[None])[0].numpy()
        return resized.copy() if np.may_share_memory(resized, picture) else resized  # a camera uses its memory again

    # Scores

    def _score(self, window: Window, dropped: int) -> StreamScores:
        probabilities = (
            self._window_probabilities(window) if self._online is None else self._frame_probabilities(window)
        )
        order = np.argsort(-probabilities, kind="stable")[: self.topk]
        self.predictions += 1
        self.dropped += dropped
        return StreamScores(
            top=[(self._labels[i], float(probabilities[i])) for i in order],
            probabilities=probabilities,
            frame=window.frame,
            frames=window.numbers,
            seconds=window.seconds,
            dropped=dropped,
        )

    def _window_probabilities(self, window: Window) -> np.ndarray:
        return view_probabilities(self.model, self._transform.views(window), self._transform, self._batch_size)

    def _frame_probabilities(self, window: Window) -> np.ndarray:
        weight = next(self.model.parameters())
        clip = self._transform(window.get([0]))  # (1, C, 1, H, W)
        self._logits.append(self._online.push(clip[:, :, 0].to(weight.device, weight.dtype)).cpu().double())
        mean = torch.stack(list(self._logits)).mean(0)[None]  # one view of one window
        return average_views(mean, "prob", bool(self.model.pretrained_cfg.get("multi_label"))).numpy()


def _as_picture(frame: Any) -> np.ndarray:
    if isinstance(frame, torch.Tensor):
        frame = frame.cpu().numpy()
    if not isinstance(frame, np.ndarray):
        raise TypeError(f"a frame is an array or a tensor, uint8 (H, W, 3), got {type(frame).__name__}.")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        hint = ": put channels last" if frame.ndim == 3 and frame.shape[0] == 3 else ""
        raise ValueError(f"a frame is RGB, uint8 (H, W, 3), got {frame.dtype} {tuple(frame.shape)}{hint}.")
    return frame


def _window_length(config: Mapping[str, Any], wanted: int | None, sample: Callable[[range], np.ndarray]) -> int:
    """Frames of a window: as asked for, if no clip then shows a frame twice, or the fewest for which that holds."""
    frames, span = config["num_frames"] * config["segments"], config["num_frames"] * config["stride"]
    if config["sampling"] == "uniform" and config["segments"] > 1:
        least = frames * config["stride"]
        usual = max(WHOLE_VIDEO, least)
    else:
        whole = WHOLE_VIDEO if config["sampling"] == "dense" else span
        least = usual = int(sample(range(whole)).max()) + 1
    if wanted is None:
        return usual
    if wanted < least:
        raise ValueError(f"window={wanted} is shorter than one clip: the model's frames span {least}.")
    return wanted
