"""``videozoo finetune``: train a model on one's own videos. Torch is imported when the command runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from .config import CHOICES, TrainConfig

if TYPE_CHECKING:
    from ..data.datasets import Dataset

TEXT = "train a model on videos of one's own, from published weights"
MAX_LEAKS = 10  # videos in training and validation that are named
SHORT = {"batch_size": "-b"}


def add_finetune_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``finetune`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser(
        "finetune",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}. The same command goes on with a run that was interrupted.",
        epilog="Under 'accelerate launch' or 'torchrun' the processes share each step's clips: "
        "torchrun --nproc-per-node 8 -m videozoo finetune ...",
        parents=[common],
    )
    parser.set_defaults(run=run_finetune, usage_error=parser.error)
    add = parser.add_argument
    add("data", metavar="DIR", nargs="?", help="folder with train/CLASS/*.mp4 and val/CLASS/*.mp4, or of a data set")
    add("--model", "-m", metavar="NAME", help="see 'videozoo list'; also hf-hub:org/repo, local-dir:path")
    add("--out", "-o", metavar="FOLDER", help="where the result is kept (default: runs/MODEL_DIR)")
    add("--restart", action="store_true", help="begin anew, whatever the folder holds")
    add("--recipe", metavar="NAME", help="settings to start from (--list-recipes); other options change them")
    add("--list-recipes", action="store_true", help="show the recipes and leave")
    weights = parser.add_argument_group("weights")
    weights.add_argument("--checkpoint", metavar="FILE", help="weights to start from instead of the published ones")
    weights.add_argument("--no-pretrained", dest="pretrained", action="store_false", help="start from random weights")
    weights.add_argument("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="NAME", help="DIR is this data set: k400, ssv2, ... (default: none)")
    data.add_argument(
        "--annotations",
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="lists of videos and labels",
    )
    data.add_argument("--multi-label", action="store_true", help="videos of the lists have several labels")
    data.add_argument(
        "--hold-out", type=float, metavar="SHARE", help="validate on this share of each class's training videos"
    )
    data.add_argument("--no-val", action="store_true", help="do not validate; the last epoch is kept")
    data.add_argument("--device", default="auto", choices=("auto", "cpu"), help="auto: a GPU, if there is one")
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """An option for each setting of a run; those not given stay as the recipe has them."""
    group = parser.add_argument_group("settings", "Defaults are those of the recipe 'finetune'.")
    for setting in fields(TrainConfig):
        flag = "--transform" if setting.name == "data" else f"--{setting.name.replace('_', '-')}"
        default = setting.default if setting.default is not MISSING else setting.default_factory()
        text = setting.metadata["help"].replace("%", "%%")
        options: dict[str, Any] = {"help": f"{text} (default: {_shown(default)})", "default": None}
        if setting.name in ("input", "data"):
            options |= {"nargs": "+", "metavar": "KEY=VALUE"}
        elif isinstance(default, bool):
            options |= {"action": argparse.BooleanOptionalAction}
        elif setting.name in CHOICES:
            options |= {"choices": CHOICES[setting.name]}
        elif isinstance(default, tuple):
            options |= {"type": int, "nargs": "+", "metavar": "EPOCH"}
        else:
            kind = int if isinstance(default, int) else float
            options |= {"type": kind, "metavar": "N" if kind is int else "X"}
        group.add_argument(flag, *filter(None, [SHORT.get(setting.name)]), dest=f"set_{setting.name}", **options)


def _shown(default: Any) -> str:
    return "none" if default in ((), "", None) or default == {} else str(default)


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """The recipe with the options that were given."""
    config = TrainConfig()
    if args.recipe:
        from .recipes import recipe

        config = recipe(args.recipe)
    given = {setting.name: getattr(args, f"set_{setting.name}") for setting in fields(TrainConfig)}
    for key, flag in (("input", "--input"), ("data", "--transform")):
        if given[key] is not None:
            given[key] = {**getattr(config, key), **dict(_pair(text, flag) for text in given[key])}
    if given["milestones"] is not None:
        given["milestones"] = tuple(given["milestones"])
    return config.replace(**given)


def _pair(text: str, flag: str) -> tuple[str, Any]:
    """``size=112`` -> ("size", 112); values are Python's: numbers, (0.5, 1.0), True, None or a word."""
    import ast

    from ..data.config import DATA_DEFAULTS, TRAIN_DEFAULTS
    from ..names import nearest_names

    key, found, value = text.partition("=")
    known = {**DATA_DEFAULTS, **TRAIN_DEFAULTS}
    if not found or key not in known:
        near = " or ".join(nearest_names(key, known))
        raise ValueError(f"{flag} {text!r} is no KEY=VALUE with a known key: did you mean {near}?")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def run_finetune(args: argparse.Namespace) -> int:
    """Train; 0 if the run came to its end."""
    if args.list_recipes:
        from .recipes import describe, list_recipes

        print("\n\n".join(describe(name) for name in list_recipes()))
        return 0
    if not args.data or not args.model:
        args.usage_error("DIR and --model NAME are needed")
    with _speaker() as say_once:
        _train(args, say_once)
    return 0


def _train(args: argparse.Namespace, log: Any) -> None:
    from ..names import safe_model_name
    from .run import finetune, prepare_model

    config = config_from_args(args)
    train, val = load_data(args)
    _warn_of_leaks(train, val, log)
    model = prepare_model(
        args.model,
        train,
        config,
        pretrained=args.pretrained,
        checkpoint_path=args.checkpoint,
        cache_dir=args.cache_dir,
    )
    name = f"{safe_model_name(os.path.basename(args.model.rstrip('/')))}_{os.path.basename(os.path.abspath(args.data))}"
    result = finetune(
        model,
        train,
        val,
        args.out or os.path.join("runs", name),
        config,
        device=args.device,
        restart=args.restart,
        progress=sys.stderr.isatty(),
        log=log,
    )
    log(f"{result.folder}: the model of epoch {result.best['epoch']}, the training curve (curves.svg) and a card")
    log(f"try it: videozoo predict VIDEO --model local-dir:{result.folder}")


def load_data(args: argparse.Namespace) -> tuple[Dataset, Dataset | None]:
    """Training and validation videos as the options say."""
    from ..data.datasets import load_dataset
    from ..data.folders import hold_out, load_folder

    facts = _input_facts(args.model)
    lists = args.annotations or (None, None)
    if args.dataset:
        shared: dict[str, Any] = {"modality": "flow" if facts == "flow" else "rgb"}
        train = load_dataset(args.dataset, args.data, split="train", annotations=lists[0], **shared)
    else:
        shared = {"modality": "flow" if facts == "flow" else "rgb", "multi_label": args.multi_label}
        train = load_folder(args.data, "train", annotations=lists[0], **shared)
    if args.no_val:
        return train, None
    if args.hold_out is not None:
        return hold_out(train, args.hold_out, seed=args.set_seed or 0)
    if args.dataset:
        return train, load_dataset(args.dataset, args.data, split="val", annotations=lists[1], **shared)
    return train, load_folder(args.data, "val", class_names=train.class_names, annotations=lists[1], **shared)


def _input_facts(name: str) -> str:
    """Modality of the model, without building it."""
    from .. import catalog
    from ..hub import load_config
    from ..names import split_scheme

    scheme, rest = split_scheme(name)
    if scheme == "local-dir":
        return load_config(rest).get("pretrained_cfg", {}).get("modality", "rgb")
    entry = catalog.find_entry(name)
    return entry.modality if entry else catalog.input_facts(name).get("modality", "rgb")


def _warn_of_leaks(train: Dataset, val: Dataset | None, log: Any) -> None:
    """Validation videos that are trained on make validation worthless, so they are named."""
    from ..data.leaks import find_leaks

    leaks = find_leaks(train, val) if val is not None else []
    for a, b, reason in leaks[:MAX_LEAKS]:
        log(f"warning: {a} (train) and {b} (validation) are the same video: {reason}")
    if leaks:
        log(f"warning: {len(leaks)} validation videos are also trained on, so validation says too much")


@contextmanager
def _speaker() -> Iterator[Any]:
    """What prints lines: one process does, the others are silent."""
    from ..console import say

    yield say if int(os.environ.get("RANK", "0")) == 0 else lambda text: None
