"""Files of temporal localisation: feature sequences, candidates, class scores of videos, results; SSN's proposals.

Annotations are read by `videozoo.data.regions`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import AnnotationError, atomic_text, read_json, read_text
from .regions import ProposalVideo
from .segments import segment_iou

__all__ = [
    "ProposalPools",
    "SSNProposal",
    "draw_proposals",
    "feature_file",
    "is_dense",
    "join_features",
    "load_feature_file",
    "load_features",
    "proposal_pools",
    "proposal_ticks",
    "read_candidates",
    "read_class_scores",
    "read_results",
    "regression_statistics",
    "resample_features",
    "split_proposals",
    "stage_scales",
    "write_candidates",
    "write_results",
]

PathLike = str | os.PathLike[str]
CANDIDATE_COLUMNS = ("tmin", "tmax", "tmin_score", "tmax_score", "score", "match_iou", "match_ioa")
SUFFIXES = (".csv", ".npy", ".safetensors")


# Features ------------------------------------------------------------------------------------------------------------


def feature_file(folder: PathLike, video: str) -> Path:
    """The file of a video's features, `VIDEO` with one of `SUFFIXES`; FileNotFoundError if there is none."""
    for suffix in SUFFIXES:
        path = Path(folder, f"{video}{suffix}")
        if path.is_file():
            return path
    names = " or ".join(f"{video}{suffix}" for suffix in SUFFIXES)
    raise FileNotFoundError(f"{folder} has no features of {video}: expected {names}.")


def load_feature_file(path: PathLike, width: int | None = None) -> np.ndarray:
    """Features of a video as `(width, T)` float32, from a file of T rows.

    `.npy`, `.csv` (with a line of names first, or without), or `.safetensors` with a tensor `features`.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: no table, nothing in it, values that are not finite, or another width than `width`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file of features.")
    readers = {".npy": _read_array, ".safetensors": _read_tensor}
    table = readers.get(Path(path).suffix, _read_numbers)(path)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "fiu":
        raise AnnotationError(f"{path}: expected a table of numbers (positions, width), got {table.shape}.")
    if width is not None and table.shape[1] != width:
        raise AnnotationError(f"{path} has features of width {table.shape[1]}, the model takes {width}.")
    table = np.ascontiguousarray(table.T, np.float32)
    if not np.isfinite(table).all():
        raise AnnotationError(f"{path} holds numbers that are not finite: extract its features again.")
    return table


def _read_array(path: PathLike) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise AnnotationError(f"{path} is no array of numbers that can be read safely, or it is cut off.") from error


def _read_tensor(path: PathLike) -> np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("features")
    except SafetensorError as error:
        raise AnnotationError(f"{path} holds no tensor 'features' that can be read ({error}).") from error


def _read_numbers(path: PathLike) -> np.ndarray:
    """The rows of a .csv file, float32; its first line is left out unless it is a row of numbers like the others."""
    lines = read_text(path).splitlines()
    first = 1 if lines and _is_header(lines[0]) else 0
    rows = lines[first:]
    try:
        return np.loadtxt(rows, np.float32, delimiter=",", ndmin=2) if rows else np.zeros((0, 0), np.float32)
    except ValueError as error:
        columns = 1 + rows[0].count(",")
        other = (n for n, row in enumerate(rows, first + 1) if row and row.count(",") + 1 != columns)
        line = next(other, None)
        reason = error if line is None else f"line {line} has another number of them than the {columns} of the first"
        raise AnnotationError(f"{path}: expected rows of numbers between commas ({reason}).") from None


def _is_header(line: str) -> bool:
    """Whether a line holds names, which may be numbers from 0 on."""
    try:
        values = [float(text) for text in line.split(",")]
    except ValueError:
        return True
    return values == list(range(len(values)))


def resample_features(features: np.ndarray, positions: int = 100, *, mean_of: int = 3) -> np.ndarray:
    """Features `(C, T)` on another number of positions, `(C, positions)`: means of linear interpolations.

    The video is cut into `positions` equal parts; each is the mean of `mean_of` places in it, from its beginning on.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"features must be (width, T) with at least one position, got {features.shape}.")
    last = features.shape[1] - 1
    begin, end = (1e-4, last - 1e-4) if last else (0.0, 0.0)  # as the published features were made
    where = begin + (end - begin) / positions * np.arange(positions * mean_of) / mean_of
    below = np.floor(where).astype(int)
    part = (where - below).astype(features.dtype)
    values = features[:, below] * (1 - part) + features[:, np.minimum(below + 1, last)] * part
    return values.reshape(len(features), positions, mean_of).mean(2)


def is_dense(path: PathLike) -> bool:
    """Whether features are as they came from the video: `videozoo features` puts a `NAME.json` beside such a file."""
    return Path(path).with_suffix(".json").is_file()


def join_features(parts: Sequence[np.ndarray], positions: int = 100, *, dense: bool = False) -> np.ndarray:
    """Features of the same video side by side (rgb and flow), `(sum of widths, positions)`.

    All are cut to the shortest, then resampled. Those that have `positions` positions already, as published files have
    them, are taken as they are, unless they are `dense`: as they came from the video, whatever their number.
    """
    shortest = min(part.shape[1] for part in parts)
    parts = [part[:, :shortest] for part in parts]
    if dense or shortest != positions:
        parts = [resample_features(part, positions) for part in parts]
    return np.concatenate(parts).astype(np.float32)


def load_features(
    folders: Sequence[PathLike], video: str, width: int | None = None, positions: int = 100
) -> np.ndarray:
    """Features of a video `(width, positions)`: one file, or one of each folder side by side.

    Raises:
        FileNotFoundError: a folder has none of the video.
        AnnotationError: see `load_feature_file`; the width is that of all together.
    """
    paths = [feature_file(folder, video) for folder in folders]
    dense = is_dense(paths[0])
    if len(paths) == 1:
        return join_features([load_feature_file(paths[0], width)], positions, dense=dense)
    table = join_features([load_feature_file(path) for path in paths], positions, dense=dense)
    if width is not None and len(table) != width:
        names = " and ".join(map(str, paths))
        raise AnnotationError(f"{names} together have features of width {len(table)}, the model takes {width}.")
    return table


# Candidates, scores and results --------------------------------------------------------------------------------------


def read_candidates(path: PathLike) -> np.ndarray:
    """BSN's candidates of a video, rows of `CANDIDATE_COLUMNS`, float32; the last two may be missing."""
    table = _read_numbers(path)
    if table.shape[1] not in (5, 7):
        raise AnnotationError(
            f"{path}: expected 5 or 7 columns ({', '.join(CANDIDATE_COLUMNS)}), got {table.shape[1]}."
        )
    return table


def write_candidates(path: PathLike, rows: np.ndarray) -> None:
    """Write candidates `(K, 5)` or `(K, 7)` as `read_candidates` reads them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CANDIDATE_COLUMNS[: rows.shape[1]])
    writer.writerows(rows.tolist())
    atomic_text(path, text.getvalue())


def read_class_scores(path: PathLike) -> tuple[list[str], dict[str, np.ndarray]]:
    """Class names and each video's scores `(C,)`, of a classifier of whole videos.

    JSON `{"class": [names], "results": {video: [scores]}}`, the form of the scores that the published mAPs of
    ActivityNet were made with; names of videos come without `v_`.
    """
    table = read_json(path, unique=True)
    try:
        labels, results = list(table["class"]), dict(table["results"])
        scores = {video: np.asarray(values, float) for video, values in results.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f'{path}: expected {{"class": [...], "results": {{video: [...]}}}} ({error}).') from None
    if not labels:
        raise AnnotationError(f"{path} names no class.")
    for video, values in scores.items():
        if values.shape != (len(labels),) or not np.isfinite(values).all():
            raise AnnotationError(f"{path}, video {video}: {len(labels)} classes need as many scores, finite numbers.")
    return labels, scores


def write_results(path: PathLike, results: Mapping[str, Sequence[Sequence[Any]]]) -> None:
    """Write proposals `(start, end, score)` or detections `(start, end, score, label)` in ActivityNet's form."""
    table = {}
    for video, rows in results.items():
        table[video] = [
            {"score": float(row[2]), "segment": [float(row[0]), float(row[1])]}
            | ({"label": row[3]} if len(row) > 3 else {})
            for row in rows
        ]
    atomic_text(path, json.dumps({"version": "VERSION 1.3", "results": table, "external_data": {}}))


def read_results(path: PathLike) -> dict[str, list[tuple[Any, ...]]]:
    """Results in ActivityNet's form: `(start, end, score)` rows of each video, with the label where there is one."""
    try:
        return {
            video: [
                (*map(float, r["segment"]), float(r["score"]), *([r["label"]] if "label" in r else [])) for r in rows
            ]
            for video, rows in read_json(path, unique=True)["results"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnnotationError(f"{path}: no results in ActivityNet's form (wrong or missing {error}).") from None


# SSN's proposals -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SSNProposal:
    """A proposal of a video, in frames."""

    video: str
    label: int
    """From 1; 0: it belongs to no segment."""
    start: float
    end: float
    """Cut off at the end of the video."""
    best_iou: float
    overlap: float
    """Share inside a true segment."""
    coverage: float
    """Share of the video that it covers, as listed (not cut off)."""
    regression: tuple[float, float] = (0.0, 0.0)
    """From it to the segment that it overlaps most: shift in its lengths, log of the change of length; else zeros."""


@dataclass(frozen=True)
class ProposalPools:
    """What training draws from: complete, incomplete and background proposals."""

    complete: list[SSNProposal]
    incomplete: list[SSNProposal]
    background: list[SSNProposal]


def split_proposals(video: ProposalVideo, *, complete: float = 0.7) -> tuple[list[SSNProposal], list[SSNProposal]]:
    """True segments and proposals of a video; those with an IoU above `complete` have regression targets."""
    total = video.num_frames
    truth = [
        SSNProposal(video.video, label, start, min(end, total), 1.0, 0.0, (end - start) / total)
        for label, start, end in video.ground_truth
        if start < total
    ]
    rows = []
    for label, iou, inside, start, end in video.proposals:
        last = min(end, total)
        regressed = iou > complete and truth and last > start
        target = _regression(start, last, truth) if regressed else (0.0, 0.0)
        rows.append(SSNProposal(video.video, label, start, last, iou, inside, (end - start) / total, target))
    return truth, rows


def _regression(start: float, end: float, truth: Sequence[SSNProposal]) -> tuple[float, float]:
    best = max(truth, key=lambda other: float(segment_iou(start, end, other.start, other.end)))
    length = end - start
    shift = ((best.start + best.end) / 2 - (start + end) / 2) / length
    return shift, float(np.log((best.end - best.start) / length))


def proposal_pools(
    videos: Sequence[ProposalVideo],
    *,
    complete: float = 0.7,
    incomplete: float = 0.3,
    incomplete_overlap: float = 0.01,
    background: float = 0.01,
    background_coverage: float = 0.02,
) -> ProposalPools:
    """The proposals of all videos by what training takes them for; those in between are left out.

    Complete ones have an IoU above `complete`, and true segments count too; incomplete ones one below `incomplete`
    with more than `incomplete_overlap` of them inside a segment; of the others those with an IoU below `background`
    that cover more than `background_coverage` of the video are background. Videos without segments are left out.
    """
    pools = ProposalPools([], [], [])
    for video in videos:
        truth, rows = split_proposals(video, complete=complete)
        if not truth:
            continue
        pools.complete.extend([row for row in rows if row.best_iou > complete] + truth)
        for row in rows:
            if row.best_iou < incomplete and row.overlap > incomplete_overlap:
                pools.incomplete.append(row)
            elif row.best_iou < background and row.coverage > background_coverage:
                pools.background.append(row)
    return pools


def regression_statistics(videos: Sequence[ProposalVideo], *, complete: float = 0.7) -> np.ndarray:
    """Mean and standard deviation `(2, 2)` of the regression targets of complete proposals, true segments not counted.

    Raises:
        ValueError: there is no complete proposal.
    """
    lists = [split_proposals(video, complete=complete) for video in videos]
    rows = [row for truth, listed in lists if truth for row in listed]
    targets = [row.regression for row in rows if row.best_iou > complete and row.end > row.start]
    if not targets:
        raise ValueError(
            f"no proposal of {len(videos)} videos has an IoU above {complete} with a segment: borders are moved on "
            "their scale, so check the IoUs of the list."
        )
    return np.stack([np.mean(targets, axis=0), np.std(targets, axis=0)])


def draw_proposals(
    pools: ProposalPools, video: str, rng: np.random.Generator, per_video: tuple[int, int, int] = (1, 6, 1)
) -> list[SSNProposal]:
    """The proposals of `video` that one step of training sees: `per_video` complete, incomplete and background ones.

    Where the video has too few they repeat; where it has none those of other videos take their place.
    """
    drawn = []
    for pool, count in zip((pools.complete, pools.incomplete, pools.background), per_video, strict=True):
        if not pool:
            raise ValueError("a pool of proposals is empty: the list lacks complete, incomplete or background ones.")
        own = [row for row in pool if row.video == video] or pool
        drawn += [own[i] for i in rng.choice(len(own), count, replace=len(own) < count)]
    return drawn


def stage_scales(start: float, end: float, total: int, *, margin: float = 0.5) -> tuple[float, float]:
    """Weights of the starting and ending stages of a proposal in training: about the share inside the video."""
    reach = (end - start) * margin
    if reach <= 0:  # a proposal of no length
        return 0.0, 0.0
    first, last = max(0, start - int(reach)), min(total + 1, end + int(reach))
    return (start - first + 1) / reach, (last - end + 1) / reach


def proposal_ticks(video: ProposalVideo, samples: int, *, margin: float = 0.5) -> tuple[np.ndarray, ...]:
    """What SSN's test needs to know of a video's proposals.

    Args:
        video: see `read_proposals`; in frames.
        samples: frames that are sampled evenly from the video.
        margin: length of the starting and of the ending stage, as a share of the proposal's.

    Returns:
        proposals `(K, 2)` float32 as fractions; ticks `(K, 4)` int64, the borders of the three stages in samples;
        scales `(K, 2)` float32, the shares of both outer stages inside the video.
    """
    table = np.array([row[3:] for row in video.proposals], float).reshape(-1, 2)
    table = np.minimum(table, video.num_frames) / video.num_frames
    start, end = table.T
    reach = (end - start) * margin
    first, last = np.maximum(start - reach, 0), np.minimum(end + reach, 1)
    ticks = (np.stack([first, start, end, last], axis=1) * samples).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scales = np.nan_to_num(np.stack([start - first, last - end], axis=1) / reach[:, None])
    return table.astype(np.float32), ticks, scales.astype(np.float32)
