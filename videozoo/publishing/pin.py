"""Pins: full revision, sha256 and size of published weights, written into the catalog's tables.

The tables are edited as text, so that order and comments stay; what a table says of everything else must be the same
afterwards, or it is not written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import catalog
from ..catalog import CatalogError, Entry
from ..checkpoint import atomic_path
from ..hub import CONFIG, WEIGHTS
from .golden import GOLDEN
from .plan import plan_entry

KEYS = ("hf_hub_id", "revision", "sha256", "num_bytes")


class PinError(ValueError):
    """An entry cannot be pinned, or a table not be written. The message says why."""


@dataclass(frozen=True)
class Pin:
    """What the catalog says of an entry's file in the Hub."""

    name: str
    hf_hub_id: str
    revision: str
    sha256: str
    num_bytes: int

    def is_in(self, entry: Entry) -> bool:
        """Whether the entry says this already."""
        return all(getattr(entry, key) == getattr(self, key) for key in KEYS)


def read_pin(entry: Entry, organisation: str, *, cache_dir: str | os.PathLike | None = None) -> Pin | None:
    """The pin of an entry's newest commit in ``organisation``; None where it is not published.

    Raises:
        PinError: what is published is not what ``videozoo push`` would publish today.
        HubError: the Hub refuses or cannot be reached.
    """
    plan = plan_entry(entry, organisation, licences=[entry.license], cache_dir=cache_dir)
    if plan.status == "new":
        return None
    if stale := [name for name in (WEIGHTS, GOLDEN, CONFIG) if name in plan.files]:
        raise PinError(f"{', '.join(stale)} in {plan.repo_id} are not as they should be; run 'videozoo push' first")
    return Pin(entry.full_name, f"{organisation}/", plan.revision, plan.sha256, plan.size)


def pin_entries(pins: Iterable[Pin], folder: Path | None = None) -> list[Path]:
    """Write pins into the tables of the catalog; the files that were changed.

    Args:
        folder: of the tables, instead of the installed package's.

    Raises:
        PinError: there is no such entry, or a table cannot be written.
        CatalogError: the result is no valid table, which leaves the file as it was.
    """
    wanted = {pin.name: pin for pin in pins}
    tables = catalog.table_files() if folder is None else sorted(folder.glob("*.toml"))
    texts: dict[Path, str] = {}
    for path in tables:
        if path.name in catalog.NO_ENTRIES:
            continue
        text = path.read_text(encoding="utf-8")
        here = [wanted.pop(e.full_name) for e in catalog.read_table(text, path.name) if e.full_name in wanted]
        pinned = with_pins(text, here, path.name)
        if pinned != text:
            texts[path] = pinned
    if wanted:
        raise PinError(f"the catalog has no entry {', '.join(wanted)}")
    for path in texts:
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise PinError(f"{path} cannot be written; pin in a checkout of the source that is installed with -e")
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


def with_pins(text: str, pins: Iterable[Pin], where: str) -> str:
    """The text of a table with pins in its entries; CatalogError if anything else would change."""
    wanted = {pin.name: pin for pin in pins}
    blocks = re.split(r"(?m)^(?=\[\[entry\]\])", text)
    for number, block in enumerate(blocks):
        names = [re.search(rf'(?m)^{key}\s*=\s*"([^"]*)"', block) for key in ("name", "tag")]
        pin = wanted.get(".".join(match[1] for match in names if match))
        if pin is not None:
            blocks[number] = _pinned(block, pin)
    result = "".join(blocks)
    expected = [
        replace(entry, **{key: getattr(wanted[entry.full_name], key) for key in KEYS})
        if entry.full_name in wanted
        else entry
        for entry in catalog.read_table(text, where)
    ]
    if catalog.read_table(result, where) != expected:
        raise CatalogError(f"{where}: the pins of {', '.join(wanted)} do not fit into this text; write them by hand")
    return result


def _pinned(block: str, pin: Pin) -> str:
    """The text of an entry with its pin: each key where it stands already, else below the address."""
    missing = []
    for key in KEYS:
        value = getattr(pin, key)
        line = f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
        block, count = re.subn(rf"(?m)^{key}[ \t]*=[ \t]*(?:\"[^\"\n]*\"|\d+)", line, block)
        if not count:
            missing.append(line)
    anchor = re.search(r"(?m)^url[ \t]*=.*\n?", block) or re.search(r"(?m)^tag[ \t]*=.*\n?", block)
    if not missing or anchor is None:
        return block
    head = block[: anchor.end()]
    return head + "\n" * (not head.endswith("\n")) + "".join(f"{line}\n" for line in missing) + block[anchor.end() :]
