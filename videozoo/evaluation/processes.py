"""How the processes of ``torch.distributed`` share an evaluation; without it one process does it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist

from .storage import ScoreStore

Scores = dict[int, np.ndarray]  # by number of the video


def rank() -> int:
    """Number of this process under ``torch.distributed``; 0 without it."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes under ``torch.distributed``; 1 without it."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The block runs in process 0, then in the others."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world_size() > 1:
        dist.barrier()


def share_out(chosen: Sequence[int], saved: Mapping[int, Any]) -> tuple[list[int], dict[int, Any]]:
    """The videos that this process has to score, and the saved scores that no process before it has."""
    held = all_gather(sorted(saved.keys() & set(chosen)))
    pending = sorted(set(chosen).difference(*held))
    before = set().union(*held[: rank()])
    return pending[rank() :: world_size()], {n: saved[n] for n in held[rank()] if n not in before}


class Scored(NamedTuple):
    """The scores of all processes together."""

    scores: Scores
    unread: dict[int, str]
    """Why the other videos cannot be read."""
    resumed: int
    """How many of the scores are of earlier runs."""
    seconds: float
    """Time that they took, summed over processes and runs."""


def score_together(
    chosen: Sequence[int], store: ScoreStore, run: Callable[[list[int]], tuple[Scores, dict[int, str]]]
) -> Scored:
    """Scores of the ``chosen`` videos: those that ``store`` has, and what ``run`` finds of this process's share of the
    rest, which are its scores and the reasons why videos cannot be read."""
    saved, earlier = store.read()
    stored = len(saved)
    pending, saved = share_out(chosen, saved)
    start = time.monotonic()
    scores, unread = run(pending)
    # of the earlier time the share of this process, and of the videos that are measured
    spent = time.monotonic() - start + earlier * len(saved) / max(stored, 1)
    parts = all_gather((saved | scores, unread, len(saved), spent))
    return Scored(
        {number: row for part in parts for number, row in part[0].items()},
        {number: reason for part in parts for number, reason in part[1].items()},
        *(sum(part[place] for part in parts) for place in (2, 3)),
    )
