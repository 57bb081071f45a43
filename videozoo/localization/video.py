"""What happens when in one video: features by the networks that a localiser was trained with, then its segments."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import VideoReader
from ..data.localization import SUFFIXES, is_dense, join_features, load_feature_file, proposal_ticks
from ..data.regions import ProposalVideo
from ..features import Features, extract_features, feature_facts
from ..prediction import class_names, eval_mode, model_facts, open_source, thumbnail
from .chain import TOP_K, ProposalChain
from .proposals import FEATURE_STRIDE, feature_seconds, label_segments
from .ssn import denormalized, ssn_detections

FEATURE_SIZE = 256  # side of the cut of the published features
FEATURE_MODELS = {  # tag of a localiser -> the networks, rgb and flow, that its features came from
    f"mma0_{kind}": (f"tsn_r50_f8_anet.mma0_k400_{kind}", f"tsn_r50_f8_anet_flow.mma0_k400_{kind}")
    for kind in ("clip", "video")
}
RGB_ALONE = (
    "Without flow the scores of the colour network stand in for those of the flow network, which has the same classes; "
    "the localiser was trained with both, so expect worse segments."
)
SSN_EVERY = 6  # frames from one that SSN sees to the next
SLIDING = "No proposals were given, so that windows of 1, 1/2, 1/4, ... of the video were scored."

Segment = tuple[float, float, float, str]  # start, end, score, label ("" where none is known)


@dataclass(frozen=True)
class Localization:
    """The segments of one video and how they came about."""

    source: dict[str, Any]
    """path, and of a video width, height, fps (0 if unknown) and frames."""
    unit: str
    """Of all times: "seconds", "frames" where the speed of the video is unknown, "share" of the video where even its
    length is."""
    length: float
    """Of the video."""
    segments: list[Segment]
    """Best first."""
    model: dict[str, Any]
    """The localiser's ``pretrained_cfg`` with ``full_name`` and ``params``."""
    features: str
    """Where the features came from, in words."""
    device: str
    seconds: dict[str, float]
    """Time of features and model."""
    pictures: list[tuple[float, np.ndarray]] = field(default_factory=list)
    """Time and small picture, uint8 (h, w, 3), of frames spread over the video."""
    remark: str = ""
    """What was done otherwise than in the published test; empty if nothing is known."""
    weights: str = ""
    """Where the weights came from, if the caller said so."""
    caveat: str = ""
    """Why the segments should not be trusted; empty if nothing speaks against them."""

    def to_dict(self, count: int | None = None) -> dict[str, Any]:
        """JSON values, with the ``count`` best segments."""
        rows = [
            {"start": start, "end": end, "score": score} | ({"label": label} if label else {})
            for start, end, score, label in self.segments[:count]
        ]
        return {
            "model": self.model["full_name"],
            "weights": self.weights,
            "trained": not self.caveat,
            "source": self.source,
            "unit": self.unit,
            "length": self.length,
            "segments": rows,
            "features": self.features,
            "remark": self.remark,
            "device": self.device,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }


def chain_facts(chain: ProposalChain) -> dict[str, Any]:
    """``model_facts`` of the first network, with the names and parameters of all."""
    facts = [model_facts(network) for network in chain.networks]
    names = " + ".join(row["full_name"] for row in facts)
    return facts[0] | {"full_name": names, "params": sum(row["params"] for row in facts)}


def feature_models(cfg: Mapping[str, Any]) -> tuple[str, str]:
    """Entries of the networks (rgb, flow) whose scores a localiser was trained on, by its ``pretrained_cfg``.

    Raises:
        ValueError: its features cannot be made by any of our entries, or it is not known what they were.
    """
    tag = cfg.get("tag") or str(cfg.get("pretrain", "")).rpartition(".")[2]
    if tag in FEATURE_MODELS:
        return FEATURE_MODELS[tag]
    name = f"{cfg['name']}.{tag}" if cfg.get("name") else cfg.get("architecture", "this model")
    raise ValueError(
        f"features for {name} cannot be made from videos here: give files of features, take one of the tags "
        f"{', '.join(FEATURE_MODELS)}, or name the networks that make them (--feature-models)."
    )


def is_feature_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a file of features."""
    return Path(path).suffix.lower() in SUFFIXES


# Labels --------------------------------------------------------------------------------------------------------------


def labelled(rows: np.ndarray, classes: tuple[Sequence[str], np.ndarray] | None, top_k: int = TOP_K) -> list[Segment]:
    """Proposals as segments; with names and scores of classes each is there for both of the video's best classes."""
    if classes is None:
        return [(*map(float, row), "") for row in rows[:top_k]]
    found = label_segments(rows, classes[1], classes[0])
    return sorted(found, key=lambda row: -row[2])[:top_k]


def own_classes(networks: Sequence[nn.Module], parts: Sequence[np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Classes of a whole video from its features, where these are class scores: names and probabilities.

    The mean of the scores over time, as probabilities, averaged over rgb and flow.
    """
    names = class_names(networks[0].pretrained_cfg, networks[0].num_classes)
    means = [torch.from_numpy(part.mean(1)).double().softmax(0).numpy() for part in parts]
    return names, np.mean(means, axis=0)


# BMN and BSN ---------------------------------------------------------------------------------------------------------


def localize_features(
    chain: ProposalChain,
    paths: Sequence[str | os.PathLike[str]],
    *,
    seconds: float | None = None,
    classes: tuple[Sequence[str], np.ndarray] | None = None,
    top_k: int = TOP_K,
) -> Localization:
    """Segments from a video's file of features, or from one of rgb and one of flow.

    A file of half the width that the model takes counts as rgb alone. Times are in seconds if ``seconds``, the length
    of the video, is given, or the file was written by ``videozoo features``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file without features, or of another width, or a ``NAME.json`` beside it of something else.
    """
    begin = time.perf_counter()
    parts = [load_feature_file(path) for path in paths]
    facts = feature_facts(paths[0])
    video = facts.get("video", {})
    source = {"path": os.fspath(paths[0])} | {k: video[k] for k in ("width", "height", "fps", "frames") if k in video}
    if seconds is not None:
        unit, length = "seconds", float(seconds)
    else:
        unit, length = _length(video.get("frames", 0), video.get("fps", 0.0))
    covered = feature_seconds(length, video["frames"], facts["every"]) if unit != "share" and facts else length
    loading = time.perf_counter() - begin
    shared = {"source": source, "unit": unit, "length": length}
    result = _localized(chain, parts, covered or length, classes, top_k, dense=is_dense(paths[0]), **shared)
    return replace(
        result, features=" and ".join(map(os.fspath, paths)), seconds={"features": loading} | dict(result.seconds)
    )


def localize_video(
    chain: ProposalChain,
    networks: Sequence[nn.Module],
    path: str | os.PathLike[str] | VideoReader,
    flow: str | os.PathLike[str] | None = None,
    *,
    classes: tuple[Sequence[str], np.ndarray] | str | None = None,
    top_k: int = TOP_K,
    max_pictures: int = 0,
    **how: Any,
) -> Localization:
    """Segments of a video: class scores every 16 frames, as the published features were made, then the localiser.

    Args:
        networks: the recognisers of rgb and flow that make the features, see ``feature_models``; the second is needed
            with ``flow`` alone.
        path: video file, folder of frames, or an open reader.
        flow: folder of ``x_*.jpg`` and ``y_*.jpg``. Without it the rgb scores stand in for it.
        classes: names and scores of the video's classes, "self" for what the networks themselves say, None for no
            labels.
        how: as of ``extract_features``.
    """
    begin = time.perf_counter()
    how = {"every": FEATURE_STRIDE, "logits": True, "size": FEATURE_SIZE, **how}
    with open_source(path, how.get("reader", "auto"), "rgb") as (video, _):
        found = extract_features(networks[0], path if how.get("workers") else video, **how)
        pictures = _pictures(video, max_pictures)
    parts = [found.values.T]
    if flow is not None:
        parts.append(extract_features(networks[1], flow, **how | {"reader": "auto"}).values.T)
    making = time.perf_counter() - begin
    if classes == "self":
        classes = own_classes(networks, parts)
    unit, length = _length(found.video["frames"], found.video["fps"])
    covered = feature_seconds(length, found.video["frames"], how["every"]) or length
    facts = {"source": found.video, "unit": unit, "length": length}
    result = _localized(chain, parts, covered, classes, top_k, dense=True, **facts)
    names = [model_facts(network)["full_name"] for network in networks[: len(parts)]]
    words = f"scores of {' and '.join(names)}, every {how['every']} frames, centre of {how['size']} pixels"
    return replace(
        result, features=words, pictures=_timed(pictures, found), seconds={"features": making} | dict(result.seconds)
    )


def _length(frames: int, fps: float) -> tuple[str, float]:
    """Unit of times, and how long a video is in it."""
    if not frames:
        return "share", 1.0
    return ("seconds", frames / fps) if fps > 0 else ("frames", float(frames))


def _localized(
    chain: ProposalChain,
    parts: Sequence[np.ndarray],
    covered: float,
    classes: tuple[Sequence[str], np.ndarray] | None,
    top_k: int,
    *,
    dense: bool,
    **facts: Any,
) -> Localization:
    """The chain on features of rgb, or rgb and flow, ``(C, T)`` each; ``dense`` as of ``join_features``."""
    begin = time.perf_counter()
    path, width = facts["source"]["path"], chain.in_chans
    alone = len(parts) == 1 and 2 * len(parts[0]) == width
    parts = [*parts, *parts] if alone else parts
    total = sum(map(len, parts))
    if total != width:
        raise ValueError(
            f"{path} has features of width {total}, the model takes {width}: give it what it was trained on, rgb and "
            "flow in one file or in two."
        )
    rows = chain.proposals(join_features(parts, chain.positions, dense=dense)[None], [covered])[0]
    return Localization(
        segments=labelled(rows, classes, top_k),
        model=chain_facts(chain),
        features="",
        device=str(next(chain.networks[0].parameters()).device),
        seconds={"model": time.perf_counter() - begin},
        remark=RGB_ALONE if alone else "",
        **facts,
    )


# SSN -----------------------------------------------------------------------------------------------------------------


def sliding_proposals(name: str, frames: int, *, shortest: int = 32) -> ProposalVideo:
    """Windows of all, a half, a quarter, ... of a video down to ``shortest`` frames, at every quarter of one."""
    rows, length = [], float(frames)
    while length >= min(shortest, frames):
        starts = np.arange(0, frames - length + 1, max(length / 4, 1))
        rows += [(0, 0.0, 0.0, float(start), float(start + length)) for start in starts]
        length /= 2
    return ProposalVideo(name, frames, (), tuple(rows))


def fitted(video: ProposalVideo, frames: int) -> ProposalVideo:
    """The list's video in the frames of a copy that has ``frames`` of them; proposals are cut off at its end.

    Raises:
        ValueError: no proposal lies inside the video.
    """
    factor = frames / video.num_frames
    moved = [(*row[:3], max(row[3] * factor, 0.0), min(row[4] * factor, float(frames))) for row in video.proposals]
    rows = tuple(row for row in moved if row[4] > row[3])
    if not rows:
        raise ValueError(f"none of the {len(moved)} proposals of {video.video} lies inside the video.")
    return ProposalVideo(video.video, frames, (), rows)


def score_proposals(model: nn.Module, features: np.ndarray, video: ProposalVideo) -> np.ndarray:
    """What SSN says of each proposal of a video, ``(K, 3 + 4 * classes)`` float32.

    A row is start and end as fractions of the video, then activity ``1 + classes``, completeness ``classes`` and
    regression ``2 * classes``.

    Args:
        features: ``(T, num_features)`` of every 6th frame, from the first on, the very last frame left out.
        video: its proposals, in frames.
    """
    places, ticks, scales = proposal_ticks(video, len(features))
    weight = next(model.parameters())
    with eval_mode(model), torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(features)).to(weight)
        output = model.score(x, *map(torch.from_numpy, (ticks, scales)))
    return np.concatenate([places, *(part.float().flatten(1).cpu().numpy() for part in output)], axis=1)


def scored_detections(scores: np.ndarray, stats: np.ndarray | None = None) -> list[np.ndarray]:
    """SSN's detections of a video by class, rows ``(start, end, score, ...)`` as fractions.

    Args:
        scores: see :func:`score_proposals`.
        stats: mean and deviation ``(2, 2)`` of the regression; None leaves borders where they are.
    """
    count = (scores.shape[1] - 3) // 4
    places, *output = np.split(scores, [2, 3 + count, 3 + 2 * count], axis=1)
    activity, completeness, moves = (part.astype(float) for part in output)
    moves = None if stats is None else denormalized(moves.reshape(-1, count, 2), stats)
    return ssn_detections(places, activity, completeness, moves)


def frame_features(model: nn.Module, video: VideoReader | str | os.PathLike[str], **how: Any) -> Features:
    """Features of every 6th frame for :func:`score_proposals`; ``how`` as of ``extract_features``."""
    found = extract_features(model, video, every=SSN_EVERY, first=0, **how)
    samples = max(1, len(range(0, found.video["frames"] - 1, SSN_EVERY)))
    return replace(found, values=found.values[:samples])


def localize_proposals(
    model: nn.Module,
    path: str | os.PathLike[str] | VideoReader,
    proposals: ProposalVideo | None = None,
    *,
    stats: np.ndarray | None = None,
    top_k: int = TOP_K,
    max_pictures: int = 0,
    **how: Any,
) -> Localization:
    """Segments of a video by SSN, which scores proposals and moves their borders.

    Args:
        proposals: of the video; None: windows of many lengths all over it, see ``sliding_proposals``.
        stats: see ``scored_detections``.
        how: as of ``extract_features``.
    """
    begin = time.perf_counter()
    with open_source(path, how.get("reader", "auto"), "rgb") as (video, _):
        found = frame_features(model, path if how.get("workers") else video, **how)
        pictures = _pictures(video, max_pictures)
    making, begin, total = time.perf_counter() - begin, time.perf_counter(), found.video["frames"]
    given = sliding_proposals("", total) if proposals is None else fitted(proposals, total)
    unit, length = _length(total, found.video["fps"])
    names = class_names(model.pretrained_cfg, model.num_classes)
    rows = [
        (float(start * length), float(end * length), float(score), names[label])
        for label, table in enumerate(scored_detections(score_proposals(model, found.values, given), stats))
        for start, end, score in table[:, :3]
    ]
    remarks = [SLIDING] * (proposals is None) + ["Borders stay as proposed."] * (stats is None)
    return Localization(
        source=found.video,
        unit=unit,
        length=length,
        segments=sorted(rows, key=lambda row: -row[2])[:top_k],
        model=model_facts(model),
        features=f"every {SSN_EVERY}th frame, {len(given.proposals)} proposal{'s' * (len(given.proposals) != 1)}",
        device=str(next(model.parameters()).device),
        seconds={"features": making, "model": time.perf_counter() - begin},
        pictures=_timed(pictures, found),
        remark=" ".join(remarks),
    )


# Pictures ------------------------------------------------------------------------------------------------------------


def _pictures(video: VideoReader, count: int) -> list[tuple[int, np.ndarray]]:
    """Numbers and small pictures of ``count`` frames, in the middles of equal parts of the video."""
    numbers = np.unique((np.arange(count) + 0.5) * len(video) / max(count, 1)).astype(int)
    return [(int(number), thumbnail(video.get([number])[0])) for number in np.unique(numbers)]


def _timed(pictures: Sequence[tuple[int, np.ndarray]], found: Features) -> list[tuple[float, np.ndarray]]:
    return [(number / (found.video["fps"] or 1.0), picture) for number, picture in pictures]
