"""How the processes of ``torch.distributed`` share an evaluation; without it one process does it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


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
