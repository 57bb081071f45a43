"""The camera-motion data set: short clips of real pictures under a virtual camera, labelled with how it moves.

    DIR/train/CLASS/NAME.mp4, DIR/val/..., DIR/test/...     classes are `MOTIONS`, with underscores for blanks
    DIR/camera_motion.csv                                   what every clip shows
    DIR/README.txt                                          pictures, authors, licences

The splits share no picture. Everything follows from the seed: a clip is the same whichever others are made with it.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import atomic_text
from .camera_clips import Clip, film, write_clip
from .encode import run_jobs
from .official import class_folder
from .pictures import SPLITS, Picture, package_pictures, picture_size, user_pictures
from .virtual_camera import MOTIONS

__all__ = ["MIRRORED", "plan_clips", "make_camera_motion"]

CLIPS = {"train": 400, "val": 60, "test": 100}
MIRRORED = (("pan left", "pan right"), ("roll clockwise", "roll counterclockwise"))

_TABLE = "camera_motion.csv"
_SPEEDS = {"static": (0.0, 0.0), "pan": (0.05, 0.8), "tilt": (0.05, 0.8), "zoom": (0.1, 0.9), "roll": (0.1, 1.6)}
_LONGEST = {"pan": 1.5, "tilt": 1.5, "zoom": 1.1, "roll": 3.5}  # of a whole clip, in the unit of the speed
_FPS = (15, 20, 24, 25, 30, 30, 50, 60)
_SHORT_SIDES = (96, 96, 112, 112, 128, 128, 144, 160, 192, 240)
_ASPECTS = (16 / 9, 16 / 9, 16 / 9, 4 / 3, 4 / 3, 1.0, 3 / 4, 9 / 16)
_MAX_FRAMES = 64
_SMALLEST = 96  # pixels of a side of a picture


def make_camera_motion(
    folder: str | os.PathLike[str],
    *,
    clips: Mapping[str, int] = CLIPS,
    seed: int = 0,
    pictures: str | os.PathLike[str] | None = None,
    workers: int = 0,
    progress: bool = False,
) -> list[Clip]:
    """Makes the data set, or what is missing of it, and returns all its clips.

    Args:
        clips: how many of each class, by split; a split that is not named, or has 0, is left as it is.
        pictures: a folder of pictures to use in place of those that packages carry.
        workers: processes; 0 for one a core, 1 for none beside this one.

    Raises:
        FileNotFoundError: a package with pictures is not installed, or `pictures` does not exist.
        ValueError: the folder holds clips of another seed or other pictures, or a picture cannot be read.
    """
    folder = Path(folder)
    splits = [split for split in SPLITS if clips.get(split)]
    known = user_pictures(pictures) if pictures else package_pictures()
    sizes = {picture: _size(picture) for picture in known if picture.split in splits}
    for split in splits:
        if not any(picture.split == split for picture in sizes):
            raise ValueError(
                f"{pictures} has {len(known)} pictures, none of which falls to {split!r} by the hash of its name: add "
                "pictures, or leave the split out."
            )
    planned = [c for split in splits for c in plan_clips(split, clips[split], sizes, seed)]
    rows = _merge(_read_table(folder / _TABLE), planned)
    atomic_text(folder / _TABLE, _table(rows))
    made = {row["split"] for row in rows}
    _write_readme(folder / "README.txt", [picture for picture in known if picture.split in made])
    by_split = {split: tuple(picture for picture in sizes if picture.split == split) for split in splits}
    jobs = [_Job(clip, os.fspath(folder), by_split[clip.split]) for clip in planned]
    for _, result in run_jobs(_make, jobs, workers=workers, progress=progress, title="camera motion"):
        if isinstance(result, Exception):
            raise result
    return planned


def _size(picture: Picture) -> tuple[int, int]:
    width, height = picture_size(picture)
    if min(width, height) < _SMALLEST:
        raise ValueError(
            f"{picture.file} has {width}x{height} pixels: leave out what has less than {_SMALLEST} a side."
        )
    return width, height


def plan_clips(split: str, count: int, sizes: Mapping[Picture, tuple[int, int]], seed: int) -> list[Clip]:
    """`count` clips of each motion; every class gets the same pictures, those of the split, in another order."""
    pictures = [picture for picture in sizes if picture.split == split]
    return [
        _plan(split, motion, index, pictures, sizes, (seed, SPLITS.index(split), MOTIONS.index(motion)))
        for index in range(count)
        for motion in MOTIONS
    ]


def _plan(
    split: str,
    motion: str,
    index: int,
    pictures: Sequence[Picture],
    sizes: Mapping[Picture, tuple[int, int]],
    seed: tuple[int, ...],
) -> Clip:
    rng = np.random.default_rng((*seed, index))
    turn, place = divmod(index, len(pictures))
    picture = pictures[np.random.default_rng((*seed, turn)).permutation(len(pictures))[place]]
    kind, fps = motion.split()[0], float(rng.choice(_FPS))
    low, high = _SPEEDS[kind]
    low *= max(1.0, fps / 40)  # at high rates a few frames last for so short a time that slow motions do not show
    speed = math.exp(rng.uniform(math.log(low), math.log(high))) if high else 0.0
    duration = rng.uniform(1.0, 3.0)
    if speed:
        duration = max(1.0, min(duration, _LONGEST[kind] / speed))
    aspect = rng.choice(_ASPECTS)
    short = min(float(rng.choice(_SHORT_SIDES)), max(96.0, 0.75 * min(sizes[picture])))
    width, height = (round(short * side / min(aspect, 1) / 2) * 2 for side in (aspect, 1.0))
    objects = int(rng.integers(1, 4)) if rng.random() < 0.35 else 0
    return Clip(
        file=f"{split}/{class_folder(motion)}/{class_folder(motion)}_{index:05d}.mp4",
        split=split,
        motion=motion,
        picture=picture.name,
        speed=round(speed, 4),
        fps=fps,
        frames=min(_MAX_FRAMES, round(duration * fps)),
        width=width,
        height=height,
        plays=picture.plays and rng.random() < 0.7,
        objects=objects,
        seed=(*seed, index, 1),
    )


@dataclass(frozen=True)
class _Job:
    clip: Clip
    folder: str
    pictures: tuple[Picture, ...]

    @property
    def source(self) -> str:
        return os.path.join(self.folder, self.clip.file)


def _make(job: _Job) -> bool:
    """False if the clip is there already."""
    target = Path(job.source)
    if target.exists():
        return False
    picture = next(p for p in job.pictures if p.name == job.clip.picture)
    others = [p for p in job.pictures if p is not picture] or [picture]
    rng = np.random.default_rng((*job.clip.seed, 2))
    codec = "mpeg4" if rng.random() < 0.12 else "libx264"
    write_clip(film(job.clip, picture, others), target, job.clip.fps, crf=int(rng.integers(18, 38)), codec=codec)
    return True


# Files beside the clips ----------------------------------------------------------------------------------------------

_COLUMNS = "file split class picture speed fps frames width height plays objects seed".split()


def _row(clip: Clip) -> dict[str, str]:
    values: dict[str, Any] = {**vars(clip), "class": clip.motion, "plays": int(clip.plays), "seed": clip.seed[0]}
    return {name: f"{values[name]:g}" if isinstance(values[name], float) else str(values[name]) for name in _COLUMNS}


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def _merge(there: dict[str, dict[str, str]], clips: Sequence[Clip]) -> list[dict[str, str]]:
    """The rows of clips that are there already and of new ones; ValueError where they contradict each other."""
    rows = dict(there)
    for clip in clips:
        row = _row(clip)
        if rows.setdefault(clip.file, row) != row:
            raise ValueError(
                f"{clip.file} is there already, made with another seed or other pictures (seed "
                f"{rows[clip.file].get('seed')}): go on with the same ones, or choose another folder."
            )
    return sorted(rows.values(), key=lambda row: (SPLITS.index(row["split"]), row["file"]))


def _write_readme(path: Path, pictures: Sequence[Picture]) -> None:
    lines = [
        "Clips made by moving a virtual camera over pictures. The class is the motion of the camera: when it pans",
        "left, what it sees moves to the right; when it rolls clockwise, what it sees turns counter-clockwise.",
        f"In {_TABLE}, speed is frame widths a second (pan), frame heights (tilt), the natural logarithm of the",
        "size (zoom) or radians (roll); plays: the picture is a video that goes on; objects: how many things move by",
        "themselves in front of it.",
        "",
        "Pictures (split, name, package or file, licence, author):",
        *(f"{p.split}\t{p.name}\t{p.package or p.file}\t{p.licence}\t{p.author}" for p in pictures),
    ]
    atomic_text(path, "\n".join(lines) + "\n")
