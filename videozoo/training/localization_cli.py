"""``videozoo finetune`` for localisers: their data, and the settings that they begin with."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any

RECIPES = {"bmn": "bmn", "bsn_tem": "bsn_tem", "bsn_pem": "bsn_pem", "ssn_r50": "ssn"}  # of architectures


def localizer_recipe(args: argparse.Namespace) -> str:
    """The recipe of the localiser that the options name; empty if they name another network."""
    from .. import catalog
    from ..hub import hub_config, load_config
    from ..localization.chain import network_names
    from ..names import split_scheme

    names = network_names(args.model)
    if len(names) == 2 and args.model.removesuffix(".py").split(".")[0] not in _known(names):
        raise ValueError(
            f"{args.model} stands for two networks, which are trained one after the other: --model {names[0]}, then "
            f"--model {names[1]} --tem local-dir:FOLDER."
        )
    scheme, rest = split_scheme(args.model)
    if scheme:
        repo, _, revision = rest.partition("@")
        config = load_config(rest) if scheme == "local-dir" else hub_config(repo, revision or None, args.cache_dir)
        return RECIPES.get(config.get("architecture", ""), "")
    entry = catalog.find_entry(args.model)
    return RECIPES.get(entry.architecture if entry else args.model, "")


def _known(names: tuple[str, ...]) -> set[str]:
    return {name.split(".")[0] for name in names}


def load_localization(args: argparse.Namespace, recipe: str, log: Callable[[str], None]) -> tuple[Any, Any]:
    """Training and validation data of a localiser, as the options say."""
    from ..data.activitynet import load_feature_set
    from ..data.datasets import load_dataset

    for option in ("multi_label", "hold_out", "proposals", "classes"):
        if getattr(args, option):
            args.usage_error(f"--{option.replace('_', '-')} is for other networks, {args.model} is a localiser")
    if bool(args.tem) != (recipe == "bsn_pem"):
        need = "needs --tem NAME, the trained first network" if recipe == "bsn_pem" else "has no use for --tem"
        args.usage_error(f"{args.model} {need}")
    lists = args.annotations or (None, None)
    splits = ("val", "test") if recipe == "ssn" else ("train", "val")  # THUMOS14 is trained on its validation videos
    found = []
    for split, source in zip(splits[: 1 if args.no_val else 2], lists, strict=False):
        if recipe == "ssn":
            found.append(load_dataset(args.dataset or "thumos14", args.data, split=split, annotations=source))
        else:
            where = {"annotations": source, "features": args.features, "name": args.dataset or "anet"}
            found.append(load_feature_set(args.data, split, **where))
    if recipe == "bsn_pem":
        found = _with_candidates(args, found, log)
    return (*found, None)[:2]


def _with_candidates(args: argparse.Namespace, found: list[Any], log: Callable[[str], None]) -> list[Any]:
    from ..factory import create_model
    from .localization import CandidateSet, find_candidates

    proposer = create_model(args.tem, pretrained=True, cache_dir=args.cache_dir).eval()
    log(f"looking for candidates in {len(found[0])} videos with {args.tem}")
    train = find_candidates(proposer, found[0], progress=sys.stderr.isatty())
    return [train, *(CandidateSet(data, proposer) for data in found[1:])]


def train_localizer(args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Train BMN, one network of BSN, or SSN; settings that the options leave open are the published ones."""
    from .cli import carry_out, config_from_args
    from .localization import prepare_localizer
    from .recipes import recipe as find_recipe

    recipe = localizer_recipe(args)
    config = config_from_args(args, find_recipe(recipe).replace(init=""))
    train, val = load_localization(args, recipe, log)
    model = prepare_localizer(
        args.model,
        train,
        config,
        pretrained=args.pretrained,
        checkpoint_path=args.checkpoint,
        cache_dir=args.cache_dir,
    )
    result = carry_out(args, model, train, val, config, log)
    made = shlex.quote(f"local-dir:{result.folder}")
    if recipe == "bsn_tem":
        log(f"train the second network: videozoo finetune {shlex.quote(args.data)} --model bsn_pem_anet --tem {made}")
        return
    names = f"{shlex.quote(args.tem)} --pem {made}" if recipe == "bsn_pem" else made
    log(f"try it: videozoo localize {'VIDEO' if recipe == 'ssn' else 'FEATURES'} --model {names}")
