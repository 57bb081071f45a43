"""Recipes: the published trainings, and ours, as settings that have a name; the numbers are in ``recipes.toml``.

A name is that of a recipe (``tsm``), of a configuration of MMAction2 0.12
(``tsm_r50_1x1x8_50e_kinetics400_rgb``), or of a catalog entry (``tsm_r50_f8_k400.mma0_dense``) that was trained by one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from .. import catalog
from ..catalog import Entry
from ..names import nearest_names
from .config import TrainConfig

__all__ = ["Recipe", "describe", "find_recipe", "list_recipes", "recipe", "recipe_for"]

PUBLISHED_GPUS = 8
FACTS = ("title", "origin", "start", "notes")
NO_ENTRY = ("", "imagenet", "scratch")  # of init
BASES = ("published",)  # what recipes have in common, not to be trained with


@dataclass(frozen=True)
class Recipe:
    """A training by name."""

    name: str
    config: TrainConfig
    title: str = ""
    origin: str = ""
    """The published configuration with these numbers; empty if the recipe is ours."""
    start: str = ""
    """Entry whose weights the published training began with: the model to take, with a new classifier. Of a detector
    the network, for ``config.init`` names the weights."""
    notes: str = ""
    """What the settings cannot say about the published training, or say differently."""


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files(__package__).joinpath("recipes.toml").read_text(encoding="utf-8"))


@cache
def _origins() -> dict[str, str]:
    """Published configurations that are a recipe, whose numbers stand there alone: its name by theirs."""
    return {row["origin"]: name for name, row in _tables()["recipe"].items() if "origin" in row}


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table with all that it takes over from the recipe that it is like."""
    base = _settings(_tables()["recipe"][row["like"]]) if "like" in row else {}
    return base | {key: value for key, value in row.items() if key != "like"}


def _make(name: str, row: Mapping[str, Any], **facts: Any) -> Recipe:
    settings = _settings(row) | facts
    facts = {key: settings.pop(key, "") for key in FACTS}
    if facts["origin"]:
        settings.setdefault("lr_batch", PUBLISHED_GPUS * settings["batch_size"])
    settings["milestones"] = tuple(settings.get("milestones", ()))
    settings["data"] = dict(_tables()["data"][settings["data"]]) if "data" in settings else {}
    return Recipe(name, TrainConfig(**settings), **facts)


def list_recipes(configurations: bool = False) -> list[str]:
    """Names of the recipes, in the order of the table; ``configurations``: those of all published ones after them."""
    names = [name for name in _tables()["recipe"] if name not in BASES]
    return names + list(_tables()["configuration"]) if configurations else names


def recipe(name: str) -> TrainConfig:
    """The settings of a recipe, of a published configuration, or of an entry's training; see :func:`find_recipe`."""
    return find_recipe(name).config


def recipe_for(entry: Entry | str) -> TrainConfig:
    """The settings that an entry was trained with; ValueError if its training is not known.

    A name may leave out the tag, be an alias or one that the publisher used.
    """
    return find_recipe(entry.full_name if isinstance(entry, Entry) else entry).config


def find_recipe(name: str) -> Recipe:
    """Settings and facts of a recipe, of a published configuration, or of an entry's training.

    Raises:
        ValueError: unknown name (the message has the nearest ones), or an entry whose training is not known.
    """
    name = name.removesuffix(".py")
    tables = _tables()
    if name in tables["recipe"] and name not in BASES:
        return _make(name, tables["recipe"][name])
    configuration = tables["published"].get(name, name)
    if configuration in tables["configuration"]:
        return _make(name, tables["configuration"][configuration], origin=configuration)
    if configuration in _origins():
        return _make(name, tables["recipe"][_origins()[configuration]])
    entry = catalog.find_entry(name)
    if entry is not None:
        return _entry_recipe(entry)
    known = [*list_recipes(), *(tables["configuration"] if len(name) > 20 else ())]
    raise ValueError(f"there is no recipe {name!r}: did you mean {', '.join(nearest_names(name, known))}?")


def _entry_recipe(entry: Entry) -> Recipe:
    tables = _tables()
    if entry.packaged:  # trained by us, with the recipe of its data set
        return _make(entry.full_name, tables["recipe"][entry.dataset])
    for name in entry.upstream:
        configuration = tables["published"].get(name, name)
        if configuration in tables["configuration"]:
            return _make(entry.full_name, tables["configuration"][configuration], origin=configuration)
        if configuration in _origins():
            return _make(entry.full_name, tables["recipe"][_origins()[configuration]])
    near = [name for name in list_recipes() if name.split("_")[0] == entry.family]
    hint = f"nearest to it are {', '.join(near)}" if near else f"choose one of {', '.join(list_recipes())}"
    raise ValueError(f"how {entry.full_name} was trained is not known in all its numbers: {hint}.")


def describe(name: str) -> str:
    """A recipe in some lines of text: what it trains, settings other than TrainConfig's defaults, and its notes."""
    found = find_recipe(name)
    plain, default = found.config.to_dict(), TrainConfig().to_dict()
    settings = [f"{f.name}={plain[f.name]}" for f in fields(TrainConfig) if plain[f.name] != default[f.name]]
    lines = [f"{found.name}: {found.title}", f"  {', '.join(settings) or 'the defaults'}"]
    if found.start:
        weights = f", on weights of {found.config.init}" if found.config.init not in NO_ENTRY else " to start from"
        lines.append(f"  published with the model {found.start}{weights}")
    if found.notes:
        lines.append(f"  {found.notes}")
    if found.origin:
        lines.append(f"  from {found.origin} (MMAction2 0.12)")
    return "\n".join(lines)
