"""Tracks: which boxes of a video are the same person."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .boxes import box_iou


@dataclass
class _Track:
    number: int
    box: torch.Tensor
    missing: int = 0


class BoxTracker:
    """Gives boxes the numbers of persons by their overlap from frame to frame; its memory does not grow.

    Args:
        threshold: IoU from which a box is the same person as one of the frame before.
        patience: frames for which a person may be missing and still be known.
    """

    def __init__(self, threshold: float = 0.3, patience: int = 5):
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} must be above 0 and at most 1")
        self.threshold = threshold
        self.patience = patience
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, boxes: torch.Tensor) -> list[int]:
        """Numbers from 0 of the next frame's boxes ``(K, 4)``; pairs with the largest overlap are joined first."""
        overlap = box_iou(boxes.double(), torch.stack([t.box for t in self._tracks])) if self._tracks else None
        numbers: list[int | None] = [None] * len(boxes)
        seen: set[int] = set()
        while overlap is not None and overlap.numel() and overlap.max() >= self.threshold:
            row, column = divmod(int(overlap.argmax()), overlap.shape[1])
            numbers[row] = self._tracks[column].number
            self._tracks[column].box = boxes[row].double()
            seen.add(column)
            overlap[row], overlap[:, column] = -1, -1
        for column, track in enumerate(self._tracks):
            track.missing = 0 if column in seen else track.missing + 1
        self._tracks = [track for track in self._tracks if track.missing <= self.patience]
        for row, number in enumerate(numbers):
            if number is None:
                numbers[row] = self._next
                self._tracks.append(_Track(self._next, boxes[row].double()))
                self._next += 1
        return numbers
