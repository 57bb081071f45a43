"""Which frames of a video a network sees: pure index arithmetic on a frame count.

Every sampler returns 0-based frame numbers of shape (clips, frames). `rng=None` is the fixed test-time rule; a
`numpy.random.Generator` asks for the random training-time rule. A video shorter than a clip is never an error: indices
beyond its end wrap around (`out_of_bound="loop"`) or repeat the clip's last valid frame (`"repeat_last"`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "ava_clip",
    "dense_clips",
    "proposal_clips",
    "sample_views",
    "spread_clips",
    "uniform_clips",
    "untrimmed_clips",
    "windows_around",
]


def uniform_clips(
    total: int,
    *,
    frames: int,
    stride: int = 1,
    clips: int = 1,
    twice: bool = False,
    out_of_bound: str = "loop",
    jitter: bool = False,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Clips spread evenly over the whole video, `(clips, frames)`.

    At test time each clip sits in the middle of its share of the video; `twice` adds the same clips moved to the start
    of their share, so `2 * clips` come back, except for a video shorter than `frames * stride`, which has only one
    possible start and gives `clips`. With `rng` each clip starts at random within its share and `twice` is ignored.
    `jitter` (needs `rng`) moves every frame offset within the clip by up to `stride - 1`.
    """
    _check(total, frames=frames, stride=stride, clips=clips)
    span = frames * stride
    offsets = _middle_starts(total, span, clips, twice) if rng is None else _random_starts(total, span, clips, rng)
    within = np.arange(frames) * stride
    if jitter:
        if rng is None:
            raise ValueError("jitter=True draws at random: pass rng, or leave jitter off at test time.")
        within = within + rng.integers(stride, size=frames)
    return _fit(offsets[:, None] + within, total, out_of_bound)


def _middle_starts(total: int, span: int, clips: int, twice: bool) -> np.ndarray:
    if total < span:
        return np.zeros(clips)
    shift = np.arange(clips) * ((total - span + 1) / clips)  # stays float: rounding happens after the wrap
    middle = np.floor(shift + (total - span + 1) / clips / 2)
    return np.concatenate([middle, shift]) if twice else middle


def _random_starts(total: int, span: int, clips: int, rng: np.random.Generator) -> np.ndarray:
    starts = total - span + 1  # number of places where a clip fits
    share = starts // clips
    if share > 0:
        return np.arange(clips) * share + rng.integers(share, size=clips)
    if total > max(clips, span):
        return np.sort(rng.integers(starts, size=clips))
    if share == 0:
        return np.around(np.arange(clips) * (starts / clips))
    return np.zeros(clips)


def dense_clips(
    total: int,
    *,
    frames: int,
    stride: int = 1,
    clips: int = 1,
    positions: int = 10,
    sample_range: int = 64,
    out_of_bound: str = "loop",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Groups of `clips` clips that together cover about `sample_range` consecutive frames.

    Test time: `positions` groups over the video, `(positions * clips, frames)`, group after group. With `rng`: one
    group at a random start, `(clips, frames)`; the very last start is never drawn.
    """
    _check(total, frames=frames, stride=stride, clips=clips, positions=positions, sample_range=sample_range)
    places = max(1, total - sample_range + 1)
    within_group = np.arange(clips) * (sample_range // clips)
    if rng is None:
        starts = np.linspace(0, places - 1, num=positions, dtype=int)
    else:
        starts = np.array([0 if places == 1 else rng.integers(places - 1)])
    offsets = ((starts[:, None] + within_group) % total).reshape(-1)
    return _fit(offsets[:, None] + np.arange(frames) * stride, total, out_of_bound)


def spread_clips(
    total: int, *, frames: int, stride: int = 1, clips: int = 1, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Clips whose frames are spread from the first to the last of `frames * stride`, `(clips, frames)`.

    The rule of PySlowFast and PyTorchVideo: clip i starts at i / clips of the free length (with `rng` anywhere in it),
    and its frames reach evenly to the end of its span, rounded down, so 4 frames with stride 16 are 21 apart. Frames
    beyond the end of the video repeat its last one.
    """
    _check(total, frames=frames, stride=stride, clips=clips)
    span = frames * stride
    free = max(total - span, 0)
    starts = np.arange(clips) * free / clips if rng is None else rng.uniform(0, free, size=clips)
    within = np.linspace(0, span - 1, frames)
    return np.clip(starts[:, None] + within, 0, total - 1).astype(np.int64)


def untrimmed_clips(total: int, *, frames: int, stride: int = 16) -> np.ndarray:
    """One clip of `frames` consecutive frames around every `stride`-th frame of a long video, `(centres, frames)`.

    Indices are clipped at both ends of the video. A video of at most `stride // 2` frames has no centre: ValueError.
    """
    _check(total, frames=frames, stride=stride)
    centres = np.arange(stride // 2, total, stride)
    if not len(centres):
        raise ValueError(
            f"{total} frames are too few for clips around every {stride}-th frame: more than {stride // 2} are needed; "
            "use a smaller stride."
        )
    return windows_around(centres, total, frames=frames)


def windows_around(centres: np.ndarray, total: int, *, frames: int, spacing: int = 1) -> np.ndarray:
    """`frames` frames, `spacing` apart, around each of `centres` `(W,)`: `(W, frames)`, clipped at both ends."""
    window = (np.arange(frames) - frames // 2) * spacing
    return np.clip(np.asarray(centres)[:, None] + window, 0, total - 1)


def proposal_clips(
    total: int,
    proposals: Sequence[tuple[int, int]] | None = None,
    *,
    frames: int,
    stride: int = 1,
    body: int,
    context: tuple[int, int],
    context_ratio: float | tuple[float, float],
    test_interval: int = 6,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Clips in and around temporal proposals `[start, end)` in frames, `(clips, frames)`.

    Per proposal: `context[0]` clips before it, `body` inside, `context[1]` after it, where the surroundings reach
    `context_ratio` times its length to either side. Evenly placed without `rng`, random with it. `proposals=None` is
    the scan of the whole video with a clip every `test_interval` frames; a video that is not longer than
    `frames * stride` then gives ValueError.
    """
    _check(total, frames=frames, stride=stride, body=body, test_interval=test_interval)
    span = frames * stride
    if proposals is None:
        starts = np.arange(0, total - span, test_interval)
        if not len(starts):
            raise ValueError(f"{total} frames are too few to scan with clips that span {span}: more are needed.")
    else:
        if not len(proposals):
            raise ValueError("proposals is empty: give at least one (start, end) pair, or None to scan the video.")
        before, after = context_ratio if isinstance(context_ratio, Sequence) else (context_ratio, context_ratio)
        starts = np.concatenate(
            [_proposal_starts(total, p, span, body, context, (before, after), rng) for p in proposals]
        )
    return (starts[:, None] + np.arange(frames) * stride) % total


def _proposal_starts(
    total: int,
    proposal: tuple[int, int],
    span: int,
    body: int,
    context: tuple[int, int],
    ratio: tuple[float, float],
    rng: np.random.Generator | None,
) -> np.ndarray:
    start, end = (int(v) for v in proposal)
    length = end - start
    if length <= 0:
        raise ValueError(f"proposal ({start}, {end}) is empty: its end must be after its start.")
    first = max(0, start - int(length * ratio[0]))
    last = min(total - span + 1, end - 1 + int(length * ratio[1]))
    rooms = (start - first - span, length - span, last - end + 1 - span)
    stages = zip((first, start, end), rooms, (context[0], body, context[1]), strict=True)
    return np.concatenate([base + _stage_starts(room, clips, rng) for base, room, clips in stages])


def _stage_starts(room: int, clips: int, rng: np.random.Generator | None) -> np.ndarray:
    """`clips` starts within `room` frames; all 0 where they do not fit."""
    if rng is not None:
        share = (room + 1) // clips
        return np.arange(clips) * share + rng.integers(share, size=clips) if share > 0 else np.zeros(clips, dtype=int)
    if room < clips:
        return np.zeros(clips, dtype=int)
    share = room / clips
    return (np.arange(clips) * share + share / 2).astype(int)


def ava_clip(
    timestamp: int,
    *,
    frames: int,
    stride: int = 2,
    fps: int = 30,
    timestamp_start: int = 900,
    shot: tuple[int, int] = (0, 27000),
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Frame FILE numbers of the clip around a second of an AVA film, `(1, frames)`.

    The numbers count from 1, as the extracted frame files of AVA do, yet 0 can occur, because they are clipped to
    `[shot[0], shot[1] - 1]`: for a reader use `np.maximum(numbers - 1, 0)`. With `rng` every frame moves by a random
    amount within its stride; the published test numbers were made with that noise switched on.
    """
    _check(1, frames=frames, stride=stride)
    centre = fps * (timestamp - timestamp_start) + 1
    numbers = centre + (np.arange(frames) - frames // 2) * stride
    if rng is not None:
        numbers = numbers + rng.integers(-stride // 2, (stride + 1) // 2, size=frames)
    return np.clip(numbers, shot[0], shot[1] - 1)[None]


def sample_views(total: int, cfg: Mapping[str, Any], rng: np.random.Generator | None = None) -> np.ndarray:
    """Frames of every network input of a video of `total` frames, by a config of `resolve_data_config`.

    Returns `(views, T)`, or `(views, segments, num_frames)` where the fields of a flow segment are stacked as channels.
    `segments` clips in a row are one view. A video that is too short repeats its frames (see `uniform_clips`).
    """
    frames, stride, clips, segments = cfg["num_frames"], cfg["stride"], cfg["clips"], cfg["segments"]
    if clips % segments:
        raise ValueError(f"clips={clips} cannot be split into views of segments={segments} clips: make it a multiple.")
    if cfg["sampling"] == "uniform":
        inds = uniform_clips(total, frames=frames, stride=stride, clips=clips, twice=cfg["twice_sample"], rng=rng)
    elif cfg["sampling"] == "dense":
        inds = dense_clips(total, frames=frames, stride=stride, clips=clips, positions=cfg["positions"], rng=rng)
    elif cfg["sampling"] == "spread":
        inds = spread_clips(total, frames=frames, stride=stride, clips=clips, rng=rng)
    else:
        raise ValueError(f"sampling={cfg['sampling']!r} is unknown: use 'uniform', 'dense' or 'spread'.")
    return inds.reshape(-1, segments, frames) if cfg["stack"] else inds.reshape(-1, segments * frames)


def _check(total: int, **counts: int) -> None:
    if total < 1:
        raise ValueError(f"cannot sample from a video of {total} frames: at least one frame is needed.")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def _fit(inds: np.ndarray, total: int, out_of_bound: str) -> np.ndarray:
    """Bring indices below `total`; float input is truncated last, as the published samplers do."""
    if out_of_bound == "loop":
        return (inds % total).astype(np.int64)
    if out_of_bound == "repeat_last":
        valid = inds < total
        last = np.where(valid, inds, 0).max(axis=1, keepdims=True)
        return np.where(valid, inds, last).astype(np.int64)
    raise ValueError(f"out_of_bound={out_of_bound!r} is unknown: use 'loop' or 'repeat_last'.")
