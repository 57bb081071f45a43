"""Log-mel spectrograms of a video's or sound file's sound, as the published audio networks were fed.

Sound is brought to 16 kHz mono and one loudness, cut into windows of 1280 samples every 320, and each window's
magnitudes are gathered in 80 mel bands between 125 and 7600 Hz; decibels are scaled to 0..1. A network sees 128 such
rows, from the place in the sound that corresponds to the sampled video frames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .reader import VideoError, open_video
from .sampling import sample_views

__all__ = ["AudioTransform", "Sound", "audio_views", "load_sound", "log_mel", "mel_filters", "window_rows"]

SAMPLE_RATE = 16000  # Hz
WINDOW, HOP = 1280, 320  # samples: 80 ms every 20 ms
MEL_BANDS, LOWEST, HIGHEST = 80, 125.0, 7600.0  # number, Hz, Hz
LOUDNESS, SILENCE = 0.1, 1e-4  # root mean square that sound is brought to, and below which it is not amplified further
FLOOR_DB, REFERENCE_DB = -100.0, 20.0
ROWS = 128  # of one network input
MISSING_ROWS = 640  # empty rows that stand for a sound that does not exist
FRAME_RATE = 25.0  # of the frames that a file without pictures is taken to have: 64 frames are then 128 rows
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Sound:
    """The sound track of a file."""

    path: str
    waveform: np.ndarray
    """float32 (samples,) at 16 kHz, mono; empty if the file has no sound and this was allowed."""
    frames: int
    """Video frames that it accompanies; for a file without pictures, 25 for each second."""
    fps: float
    width: int = 0
    height: int = 0

    def __len__(self) -> int:
        """Video frames, as of a video reader."""
        return self.frames


def load_sound(path: str | os.PathLike[str], *, missing_ok: bool = False) -> Sound:
    """The sound of a video or sound file (any format that FFmpeg knows), channels averaged, resampled to 16 kHz.

    Sound and pictures are taken to start together and to be equally long. A file without pictures counts as a video of
    25 frames a second. ``missing_ok``: a file without sound gives an empty waveform rather than an error.

    Raises:
        VideoError: the file cannot be read, or has no sound.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise VideoError(path, "there is no such file; sound is read from a video or sound file.")
    waveform, has_pictures = _decode_sound(path)
    if not len(waveform) and not (missing_ok and has_pictures):
        raise VideoError(path, "it has no sound: choose a file with a sound track, or a model that sees pictures.")
    if has_pictures:
        with open_video(path) as video:
            return Sound(path, waveform, len(video), video.fps, video.width, video.height)
    return Sound(path, waveform, max(1, round(len(waveform) / SAMPLE_RATE * FRAME_RATE)), FRAME_RATE)


def _decode_sound(path: str) -> tuple[np.ndarray, bool]:
    """Waveform (empty without sound stream) and whether the file has moving pictures; a cut-off end is left out."""
    import av

    parts: list[np.ndarray] = []
    try:
        with av.open(path) as container:
            cover = av.stream.Disposition.attached_pic
            has_pictures = any(not stream.disposition & cover for stream in container.streams.video)
            if container.streams.audio:
                resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
                try:
                    for frame in container.decode(audio=0):
                        parts += [part.to_ndarray().mean(0) for part in resampler.resample(frame)]
                except av.FFmpegError as error:
                    if not parts:
                        raise VideoError(path, f"the sound cannot be decoded ({error.strerror}).") from error
                if parts:
                    parts += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
    except av.FFmpegError as error:
        raise VideoError(path, f"this is no readable video or sound file ({error.strerror}).") from error
    return np.concatenate(parts) if parts else np.empty(0, np.float32), has_pictures


def mel_filters(window: int = WINDOW) -> np.ndarray:
    """Triangular filters ``(80, window // 2 + 1)`` from the bins of a Fourier transform to mel bands.

    The mel scale is linear below 1000 Hz and logarithmic above (Slaney); each filter has unit area.
    """
    edges = _to_hz(np.linspace(_to_mel(LOWEST), _to_mel(HIGHEST), MEL_BANDS + 2))
    low, middle, high = (edges[i : i + MEL_BANDS, None] for i in range(3))
    bins = np.arange(window // 2 + 1) * (SAMPLE_RATE / window)
    triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    return np.maximum(triangles, 0) * (2 / (high - low))


_LINEAR_STEP, _LOG_STEP = 200 / 3, np.log(6.4) / 27  # of one mel below and above 1000 Hz = 15 mel


def _to_mel(hz: float) -> float:
    return hz / _LINEAR_STEP if hz < 1000 else 15 + np.log(hz / 1000) / _LOG_STEP


def _to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * _LINEAR_STEP, 1000 * np.exp((mel - 15) * _LOG_STEP))


def log_mel(waveform: np.ndarray, *, window: int = WINDOW, hop: int = HOP) -> np.ndarray:
    """Features float32 ``(rows, 80)`` within 0..1 of a mono waveform ``(samples,)`` at 16 kHz.

    There is a row for every window that touches the sound: the first one ends ``hop`` samples into it, the last one
    starts within its last ``hop`` samples. Windows are the square root of a Hann window, and their length must be a
    multiple of ``hop``. Loudness is made equal first, so the scale of the waveform does not matter.
    """
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"a waveform is a non-empty array (samples,), got the shape {waveform.shape}.")
    if window % hop or window // hop < 2:
        raise ValueError(f"window={window} must be a multiple of hop={hop}, at least twice as long.")
    samples = waveform.astype(np.float64)
    samples *= LOUDNESS / max(SILENCE, float(np.sqrt(np.mean(samples**2))))
    count = -(-len(samples) // hop) + window // hop - 1
    padded = np.zeros((count - 1) * hop + window)
    padded[window - hop : window - hop + len(samples)] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(np.pi * np.arange(1, 2 * window, 2) / window)
    taper, filters = np.sqrt(hann * 2 * hop / window), mel_filters(window)
    features = np.empty((count, MEL_BANDS), np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):  # an hour of sound would need gigabytes at once
        part = slice(start, start + _ROWS_AT_ONCE)
        magnitudes = np.abs(np.fft.rfft(windows[part] * taper)) @ filters.T
        decibels = 20 * np.log10(np.maximum(magnitudes, 10 ** (FLOOR_DB / 20))) - REFERENCE_DB
        features[part] = np.clip((decibels - FLOOR_DB) / -FLOOR_DB, 0, 1)
    return features


def window_rows(features: np.ndarray, indices: np.ndarray, total: int, rows: int = ROWS) -> np.ndarray:
    """The rows that go with sampled frames: features ``(L, F)`` and indices ``(views, T)`` -> ``(views, rows, F)``.

    The first and the last index of a view out of ``total`` frames say which part of the features it takes; what is
    longer is cut off, what is shorter is filled with zeros at the end.
    """
    views = np.zeros((len(indices), rows, features.shape[1]), features.dtype)
    for view, numbers in zip(views, indices, strict=True):
        start, end = (round((int(number) + 1) / total * len(features)) for number in (numbers[0], numbers[-1]))
        part = features[start : min(end, start + rows)]
        view[: len(part)] = part
    return views


def audio_views(
    path: str | os.PathLike[str],
    cfg: Mapping[str, Any],
    *,
    rng: np.random.Generator | None = None,
    missing_ok: bool = False,
) -> torch.Tensor:
    """Network inputs float32 ``(views, 1, T, F)`` of a video's or sound file's sound, T = 128 rows, F = 80 mel bands.

    ``cfg`` is a config of ``resolve_data_config``: it samples clips of ``num_frames`` video frames, of which each gives
    a view; ``rng`` makes the choice random, as in training. ``missing_ok``: a video without sound gives rows of zeros,
    as in the published training and test, rather than an error.

    Raises:
        VideoError: the file cannot be read, or has no sound.
    """
    sound = load_sound(path, missing_ok=missing_ok)
    return spectrogram_views(sound, sample_views(len(sound), cfg, rng))


class AudioTransform:
    """Sound in, network input out: for audio networks what ``ClipTransform`` is for those that see frames.

    Called with a path or a :class:`Sound` it returns float32 ``(views, 1, T, F)``, for training ``(1, T, F)`` of a clip
    drawn by ``rng``, or by a generator that torch seeds. Features need no further normalisation.
    """

    def __init__(self, config: Mapping[str, Any], is_training: bool = False) -> None:
        self.config = dict(config)
        self.is_training = is_training

    def __call__(self, source: str | os.PathLike[str] | Sound, rng: np.random.Generator | None = None) -> torch.Tensor:
        sound = source if isinstance(source, Sound) else load_sound(source)
        return self.training_clip(sound, rng)[0] if self.is_training else self.views(sound)

    def training_clip(self, sound: Sound, rng: np.random.Generator | None = None) -> tuple[torch.Tensor, bool]:
        """A clip drawn for training, float32 ``(1, T, F)``, and False: sound is never mirrored."""
        rng = rng or np.random.default_rng(torch.randint(2**63 - 1, ()).item())
        return spectrogram_views(sound, self.sample(sound, rng))[0], False

    def sample(self, sound: Sound, rng: np.random.Generator | None = None) -> np.ndarray:
        """Numbers of the video frames whose sound the views show, ``(views, num_frames)``; random with ``rng``."""
        return sample_views(len(sound), self.config, rng)

    def views(self, sound: Sound) -> torch.Tensor:
        """All views of the test protocol, float32 ``(views, 1, T, F)``."""
        return spectrogram_views(sound, self.sample(sound))

    def normalize(self, views: torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
        """``views`` on ``device``; the features are normalised already."""
        return views.to(device)

    def __repr__(self) -> str:
        cfg = self.config
        shape = f"{cfg['num_frames']}x{cfg['stride']} frames, {cfg['clips']} clips"
        return f"AudioTransform({shape}, {ROWS} rows of {MEL_BANDS} mel bands, is_training={self.is_training})"


def spectrogram_views(sound: Sound, indices: np.ndarray) -> torch.Tensor:
    """Network inputs ``(views, 1, 128, 80)`` for sampled frame numbers ``(views, T)``, counted from 0.

    A clip that is longer than the video, and so repeats its frames, takes the sound up to the end: the published rule
    would take an arbitrary part of it or none.
    """
    empty = np.zeros((MISSING_ROWS, MEL_BANDS), np.float32)
    features = log_mel(sound.waveform) if len(sound.waveform) else empty
    # The published protocol counts frames from 1 here and adds 1 once more in the rule.
    numbers = indices + 1
    numbers[np.diff(indices, axis=1).min(1, initial=0) < 0, -1] = sound.frames
    return torch.from_numpy(window_rows(features, numbers, sound.frames))[:, None]
