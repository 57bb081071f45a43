"""Losses of the localisers: functions of predictions and targets. `weights` and thresholds are the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ..models.bmn import BoundaryMatching
    from ..models.bsn import BoundaryScores
    from ..models.ssn import ProposalPredictions

_EPS = 1e-5


def balanced_logistic(
    probability: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.5,
    mask: Tensor | None = None,
    least_positives: float = 1.0,
) -> Tensor:
    """Binary cross entropy in which positives and negatives weigh the same; a scalar.

    Args:
        probability: any shape.
        target: positive where it is above `threshold`.
        mask: bool, places that count; None: all.
        least_positives: at least as many positives are assumed.
    """
    counts = torch.ones_like(probability) if mask is None else mask.to(probability).expand_as(probability)
    positive = (target > threshold).to(probability) * counts
    total = counts.sum()
    ratio = (total / positive.sum().clamp(min=least_positives)).clamp(1.05, 21)
    of_positive, of_negative = 0.5 * ratio, 0.5 * ratio / (ratio - 1)
    loss = of_positive * positive * torch.log(probability + _EPS)
    loss = loss + of_negative * (counts - positive) * torch.log(1 - probability + _EPS)
    return -loss.sum() / total


def tem_loss(output: BoundaryScores, action: Tensor, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    """Loss of BSN's first network, targets `(N, T)`: `loss` = 2 * action + start + end, and its parts."""
    parts = {
        "action": balanced_logistic(output.action, action),
        "start": balanced_logistic(output.start, start),
        "end": balanced_logistic(output.end, end),
    }
    return {"loss": 2 * parts["action"] + parts["start"] + parts["end"], **parts}


def pem_loss(
    confidence: Tensor,
    iou: Tensor,
    mask: Tensor | None = None,
    *,
    high: float = 0.6,
    low: float = 0.2,
    middle_ratio: float = 1.0,
    low_ratio: float = 2.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Loss of BSN's second network: smooth L1 between confidence and IoU.

    Candidates of middle and low IoU are drawn at random so that there are about `middle_ratio` and `low_ratio` times
    as many as of high IoU.

    Args:
        confidence: of candidates, any shape.
        iou: of the same shape, see `match_candidates`.
        mask: bool, candidates that count (batches are padded); None: all.
        generator: of the draw, on the device of `confidence`.
    """
    counts = torch.ones_like(iou, dtype=torch.bool) if mask is None else mask
    groups = [counts & (iou > high), counts & (iou <= high) & (iou > low), counts & (iou <= low)]
    chosen = _drawn(groups, (middle_ratio, low_ratio), generator)
    loss = F.smooth_l1_loss(confidence, iou, reduction="none")
    return {"loss": (loss * chosen).sum() / chosen.sum().clamp(min=1)}


def _drawn(groups: list[Tensor], ratios: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """Mask of the first group and of as many of the others as `ratios` times its size, drawn at random; float."""
    best, *others = groups
    chosen = best.float()
    for group, ratio in zip(others, ratios, strict=True):
        share = ratio * best.sum() / group.sum().clamp(min=1)
        draw = torch.rand(group.shape, generator=generator, device=group.device)
        chosen = chosen + (group & (draw < share)).float()
    return chosen


def segments_inside(positions: int, device: torch.device | str | None = None) -> Tensor:
    """Bool `(T, T)`, rows durations, columns starts: segments that end within the video."""
    place = torch.arange(positions, device=device)
    return place[:, None] + place < positions


def bmn_loss(
    output: BoundaryMatching,
    iou: Tensor,
    start: Tensor,
    end: Tensor,
    *,
    weights: tuple[float, float, float] = (1.0, 10.0, 1.0),
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Loss of BMN: `loss`, the weighted sum of `borders`, `regression` and `classification`.

    Regression is the mean square error of channel 0 over all segments with an IoU above 0.7 and about as many each
    from 0.3 to 0.7 and from 0 to 0.3, drawn at random; classification tells segments with an IoU above 0.9 in channel
    1. Segments that end beyond the video do not count.

    Args:
        iou: `(N, T, T)`; `start` and `end` `(N, T)`: see `bmn_targets`.
        weights: of the three parts.
        generator: of the draw, on the device of the output.
    """
    inside = segments_inside(iou.shape[-1], iou.device)
    regressed, classified = output.confidence.unbind(1)
    groups = [inside & (iou > 0.7), inside & (iou <= 0.7) & (iou > 0.3), inside & (iou <= 0.3) & (iou > 0)]
    chosen = _drawn(groups, (1.0, 1.0), generator)
    square = F.mse_loss(regressed * chosen, iou * chosen, reduction="sum")
    parts = {
        "borders": balanced_logistic(output.start, start) + balanced_logistic(output.end, end),
        "regression": 0.5 * square / chosen.sum().clamp(min=1),
        "classification": balanced_logistic(classified, iou, threshold=0.9, mask=inside),
    }
    return {"loss": sum(w * part for w, part in zip(weights, parts.values(), strict=True)), **parts}


def ssn_loss(
    output: ProposalPredictions,
    kinds: Tensor,
    labels: Tensor,
    regression: Tensor,
    *,
    per_video: tuple[int, int, int] = (1, 6, 1),
    hardest: float = 0.17,
    weights: tuple[float, float] = (0.1, 0.1),
) -> dict[str, Tensor]:
    """Loss of SSN: `loss` = activity + 0.1 * completeness + 0.1 * regression.

    Activity: cross entropy of complete and background proposals. Completeness: hinge loss at the proposal's label, of
    complete ones against the hardest of each video's incomplete ones. Regression: smooth L1 of complete ones.

    Args:
        output: of the proposals of N videos, `sum(per_video)` each.
        kinds: `(K,)`: 0 complete, 1 incomplete, 2 background; of each video in this order.
        labels: `(K,)`: 0 = background, classes from 1.
        regression: `(K, 2)`, normalised.
        per_video: complete, incomplete and background proposals of each video.
        hardest: share of a video's incomplete proposals that counts.
        weights: of completeness and regression.
    """
    complete, incomplete = kinds == 0, kinds == 1
    seen = ~incomplete
    own = (labels - 1).clamp(min=0)
    score = output.completeness.gather(1, own[:, None]).squeeze(1)
    keep = int(per_video[1] * hardest)
    wrong = F.relu(1 + score[incomplete]).view(-1, per_video[1])
    hinge = F.relu(1 - score[complete]).sum() + wrong.topk(keep, dim=1).values.sum()
    predicted = output.regression[torch.arange(len(own), device=own.device), own]
    parts = {
        "activity": F.cross_entropy(output.activity[seen], labels[seen]),
        "completeness": hinge / (complete.sum() + wrong.shape[0] * keep),
        "regression": 2 * F.smooth_l1_loss(predicted[complete], regression[complete]),
    }
    return {"loss": parts["activity"] + weights[0] * parts["completeness"] + weights[1] * parts["regression"], **parts}
