"""Whether a model computes here what it computed when it was published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .. import factory, hub
from ..download import DownloadError
from ..names import split_scheme
from .golden import GOLDEN, Check, read_golden, verify_golden


def verify(name: str, *, organisation: str = "", cache_dir: str | os.PathLike | None = None) -> Check:
    """Load a model, make its golden input anew and compare the outputs with those of its golden file.

    Args:
        name: catalog entry, ``hf-hub:org/repo[@revision]`` or ``local-dir:folder``. An entry's golden file is that of
            its Hub repository (``hub.repository``).
        organisation: check the entry's repository there, weights too, whatever the catalog and the cache say.

    Raises:
        DownloadError: weights or golden file cannot be had.
        CheckpointError: the weights are not those that the catalog names, or damaged.
        GoldenError: the golden file is not one, or of another model.
    """
    if organisation:
        name = f"hf-hub:{organisation}/{factory.get_pretrained_cfg(name).full_name}"
    path = golden_file(name, cache_dir)
    model: Any = factory.create_model(name, pretrained=True, cache_dir=cache_dir)
    return verify_golden(model, read_golden(path))


def golden_file(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The golden file of a model, fetched if it is not here; DownloadError if there is none."""
    scheme, rest = split_scheme(name)
    if scheme == "local-dir":
        path = Path(rest, GOLDEN)
        if not path.is_file():
            raise DownloadError(f"{path} does not exist: 'videozoo push' makes it when it publishes a model.")
        return path
    if scheme == "hf-hub":
        repo_id, _, revision = rest.partition("@")
    else:
        entry = factory.get_pretrained_cfg(name)
        if not hub.is_trusted(entry) or entry.packaged:
            raise DownloadError(
                f"{entry.full_name} is not pinned to a Hub repository, so it has no golden file; name the organisation "
                "that published it (--org, VIDEOZOO_HUB_ORG)."
            )
        repo_id, revision = hub.repository(entry)
    return hub.hub_file(repo_id, GOLDEN, revision or None, cache_dir)
