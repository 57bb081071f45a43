"""Boxes of persons for a whole data set, as its test and training start from: `videozoo data proposals`."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..console import EXPECTED, pick_device, say
from ..data import open_video
from ..data.ava import file_start, frame_indices, read_proposals, write_proposals
from ..data.detection import list_key_frames
from ..data.regions import AVA_FPS
from .persons import person_source

SUFFIXES = (".json", ".safetensors")
Proposals = dict[tuple[str, int], np.ndarray]  # (K, 5), fractions and score, by video and second or frame from 1


def find_proposals(
    places: Mapping[tuple[str, Path], Sequence[int]],
    find: Callable[[np.ndarray], np.ndarray],
    *,
    by_second: bool,
    progress: bool = False,
) -> tuple[Proposals, dict[str, str]]:
    """Boxes that ``find`` gives for the frames of videos, and path and reason of the videos that cannot be read.

    Args:
        places: for each video, by name and path, seconds of its film or frames from 1 (``list_key_frames``).
        find: gives boxes ``(K, 5)`` in pixels with scores of a frame, uint8 ``(H, W, 3)``, as ``person_source`` does.
        by_second: the numbers are seconds.
        progress: show a bar on stderr.
    """
    from tqdm import tqdm

    table: Proposals = {}
    unread: dict[str, str] = {}
    bar = tqdm(total=sum(map(len, places.values())), unit="frame", disable=not progress)
    with bar:
        for (name, path), numbers in places.items():
            try:
                with open_video(path) as video:
                    total, fps, sides = len(video), video.fps or AVA_FPS, [video.width, video.height] * 2
                    start = file_start(total, fps)
                    for number in numbers:
                        frame = min(number, total) - 1
                        if by_second:
                            frame = frame_indices(number, total, frames=1, stride=1, fps=fps, start=start)[0]
                        table[name, number] = find(video.get([frame])[0]) / [*sides, 1]
                        bar.update()
            except EXPECTED as error:
                unread[str(path)] = getattr(error, "reason", "") or str(error)
    return table, unread


# Commands ------------------------------------------------------------------------------------------------------------


def run_proposals(args: Namespace) -> int:
    """0, or 1 if a video could not be read; its frames are then missing in the file."""
    _check_name(args.out)
    places, by_second = list_key_frames(args.dataset, args.root, args.split, annotations=args.annotations)
    find = person_source(args.detector, pick_device(args.device), args.min_score)
    table, unread = find_proposals(places, find, by_second=by_second, progress=sys.stderr.isatty())
    for path, reason in unread.items():
        say(f"{path}: {reason}")
    if not table:
        raise ValueError(f"{args.out} was not written: none of {len(places)} videos of {args.root} can be read.")
    _write(table, args.out)
    return int(bool(unread))


def run_convert_proposals(args: Namespace) -> int:
    """Write a file of proposals in the form that the other file's name says."""
    _check_name(args.out)
    _write(read_proposals(args.file), args.out)
    return 0


def _check_name(out: str) -> None:
    if os.path.splitext(out)[1] not in SUFFIXES:
        raise ValueError(f"{out}: proposals are written as {' or '.join(SUFFIXES)}, choose one of these names.")


def _write(table: Proposals, out: str) -> None:
    write_proposals(table, out)
    videos, boxes = len({name for name, _ in table}), sum(map(len, table.values()))
    print(f"{out}: {boxes} boxes in {len(table)} frames of {videos} video{'s' * (videos != 1)}")
