"""Boxes of persons around a detector's network: which ones it learns from, its loss, its answers.

Pure functions on tensors; boxes are x1, y1, x2, y2 in pixels of the clip unless it is said otherwise. The rules of
training are those that the published AVA detectors were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

POSITIVE_IOU = 0.9  # a proposal that overlaps a person this much learns what the person does
MAX_BOXES = 32  # of one clip that training looks at
MIN_SCORE = 0.9  # of a person box that counts, in training and test


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of ``(N, 4)`` and ``(M, 4)``, ``(N, M)``; 0 where neither box has an area."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    areas = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None]
    union = areas - inside
    return torch.where(union > 0, inside / union.clamp(min=torch.finfo(union.dtype).tiny), torch.zeros_like(union))


# Training ------------------------------------------------------------------------------------------------------------


def keep_proposals(proposals: torch.Tensor, min_score: float = MIN_SCORE, most: int | None = None) -> torch.Tensor:
    """Boxes ``(K, 4)`` of proposals ``(P, 5)`` with a score of at least ``min_score``, best first, at most ``most``."""
    rows = proposals[proposals[:, 4] >= min_score]
    return rows[rows[:, 4].argsort(descending=True, stable=True)][:most, :4]


def assign_boxes(boxes: torch.Tensor, persons: torch.Tensor, threshold: float = POSITIVE_IOU) -> torch.Tensor:
    """For each of the boxes ``(N, 4)`` the annotated person that it overlaps most, int64 ``(N,)``.

    -1 (negative) where that is less than ``threshold``, or where there is nobody. Of equal overlaps the first counts.
    """
    if not len(persons) or not len(boxes):
        return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
    best, place = box_iou(boxes, persons).max(dim=1)
    return torch.where(best >= threshold, place, -1)


def training_boxes(
    persons: torch.Tensor,
    labels: torch.Tensor,
    proposals: torch.Tensor,
    *,
    threshold: float = POSITIVE_IOU,
    most: int = MAX_BOXES,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes ``(N, 4)`` and labels ``(N, C)`` that a clip is trained with.

    The annotated persons ``(K, 4)`` with ``labels`` ``(K, C)``, and those proposals ``(P, 4)`` that overlap one of them
    by ``threshold``, with his labels; of more than ``most`` a random choice. Other proposals teach nothing.
    """
    boxes = torch.cat((persons, proposals.to(persons)[:, :4]))
    place = assign_boxes(boxes, persons, threshold)
    place[: len(persons)] = torch.arange(len(persons), device=place.device)  # also where two have the same box
    rows = torch.nonzero(place >= 0).flatten()
    if len(rows) > most:
        rows = rows[torch.randperm(len(rows), generator=generator)[:most].to(rows.device)]
    return boxes[rows], labels[place[rows]]


def jitter_boxes(
    boxes: torch.Tensor, amount: float, size: tuple[int, int], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Boxes ``(K, 4)`` whose sides move at random by up to ``amount`` of width and height, cut to ``size`` (H, W).

    Up to 0.5 a side never passes its opposite; ValueError beyond.
    """
    if not 0 <= amount < 0.5:
        raise ValueError(f"amount={amount} must be from 0 to below 0.5: a share of the box's width and height")
    spread = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) * amount
    noise = torch.rand(boxes.shape, generator=generator).to(boxes) * 2 - 1
    limit = boxes.new_tensor([size[1], size[0]]).repeat(2)
    return torch.minimum((boxes + noise * spread).clamp(min=0), limit)


def detection_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of every action of the boxes ``(N, C)`` with at least one; 0 if there is no such box."""
    rows = labels.any(dim=1)
    if not rows.any():
        return logits.sum() * 0  # keeps the graph, so that all workers have gradients
    return F.binary_cross_entropy_with_logits(logits[rows], labels[rows].to(logits.dtype))


# Answers -------------------------------------------------------------------------------------------------------------


def split_by_clip(scores: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The rows ``(sum K_i, C)`` of a batch as one tensor ``(K_i, C)`` a clip."""
    return list(scores.split([len(rows) for rows in boxes]))


def relative_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Boxes in pixels of a frame of ``size`` (H, W) as fractions of it, cut to 0..1."""
    return (boxes / boxes.new_tensor([size[1], size[0]]).repeat(2)).clamp(0, 1)


def top_actions(
    probabilities: Sequence[float] | torch.Tensor, labels: Sequence[str], count: int = 3, least: float = 0.0
) -> list[tuple[str, float]]:
    """The ``count`` most probable actions of a person as (label, probability), best first, from ``least`` on."""
    values = torch.as_tensor(probabilities, dtype=torch.float64)
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} probabilities do not fit {len(labels)} labels")
    order = values.argsort(descending=True, stable=True)[:count].tolist()
    return [(labels[i], float(values[i])) for i in order if values[i] >= least]
