"""Weights into the cache, for machines without a network: how much there is, and fetching it."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from .. import factory, hub
from ..catalog import packaged_weights
from ..checkpoint import load_state_dict
from ..hub import WEIGHTS
from ..names import split_scheme
from .golden import GOLDEN
from .plan import find_repository, network_bytes


class Expected(NamedTuple):
    """What fetching a model comes to."""

    size: int
    """Bytes of its weights, of those in a Hub repository or of those of the network: published files may be larger."""
    is_here: bool
    """Whether they are in the cache, or come with the package."""


def expected(name: str, cache_dir: str | os.PathLike | None = None) -> Expected:
    """Size of a model's weights, without fetching them; ValueError for a name that is none, HubError as for a Hub."""
    scheme, rest = split_scheme(name)
    if scheme == "local-dir":
        raise ValueError(f"{name} is on this machine already: nothing to download.")
    if scheme == "hf-hub":
        repo_id, _, revision = rest.partition("@")
        if path := hub.cached_hub_file(repo_id, WEIGHTS, revision, cache_dir):
            return Expected(path.stat().st_size, True)
        hub.hub_config(repo_id, revision or None, cache_dir)  # says what is wrong with the name
        state = find_repository(repo_id, revision)
        return Expected(state.files[WEIGHTS].size if state and WEIGHTS in state.files else 0, False)
    entry = factory.get_pretrained_cfg(name)
    is_here = bool(entry.packaged) or hub.cached_weights(entry.full_name, cache_dir).exists()
    if not is_here and hub.is_trusted(entry):
        repo_id, revision = hub.repository(entry)
        is_here = hub.cached_hub_file(repo_id, WEIGHTS, revision, cache_dir) is not None
    return Expected(entry.num_bytes or network_bytes(factory.describe_network(entry)), is_here)


def fetch(name: str, cache_dir: str | os.PathLike | None = None) -> int:
    """Bring a model's weights into the cache, with its golden file where it has one; their size in bytes."""
    from ..convert import convert

    scheme, rest = split_scheme(name)
    if scheme == "hf-hub":
        repo_id, _, revision = rest.partition("@")
        hub.hub_config(repo_id, revision or None, cache_dir)
        state = hub.hub_state(repo_id, revision or None, cache_dir)
        _fetch_golden(repo_id, revision, cache_dir)
    else:
        entry = factory.get_pretrained_cfg(name)
        if entry.packaged:
            state = load_state_dict(packaged_weights(entry.packaged))
        else:
            state = hub.pretrained_state(entry, lambda found: convert(found, entry.conversion), cache_dir=cache_dir)
            if entry.revision:
                _fetch_golden(*hub.repository(entry), cache_dir)
    return sum(value.numel() * value.element_size() for value in state.values())


def _fetch_golden(repo_id: str, revision: str, cache_dir: str | os.PathLike | None) -> None:
    with contextlib.suppress(hub.HubError):  # not every repository has one, and the model runs without it
        hub.hub_file(repo_id, GOLDEN, revision or None, cache_dir, patient=False)
