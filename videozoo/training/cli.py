"""``videozoo finetune``: train a model on one's own videos. Torch is imported when the command runs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from ..console import say, stopped_by_sigterm
from .config import CHOICES, TrainConfig

if TYPE_CHECKING:
    from ..data.datasets import Dataset
    from ..data.detection import KeyFrames
    from .run import TrainingResult

TEXT = "train a model on videos of one's own, from published weights"
MAX_LEAKS = 10  # videos in training and validation that are named
SHORT = {"batch_size": "-b"}


def add_finetune_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``finetune`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser(
        "finetune",
        usage="%(prog)s DIR --model NAME [--out FOLDER] [options]",
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
    data.add_argument("--features", nargs="+", default=[], metavar="DIR", help="localisers: features, or rgb and flow")
    data.add_argument("--tem", metavar="NAME", default="", help="BSN: the first network, to train the second on")
    data.add_argument(
        "--proposals", nargs=2, metavar=("TRAIN", "VAL"), help="detectors: boxes of persons, where DIR has none"
    )
    data.add_argument("--classes", type=int, nargs="+", metavar="ID", help="detectors: take these classes alone")
    data.add_argument("--multi-label", action="store_true", help="videos of the lists have several labels")
    validation = data.add_mutually_exclusive_group()
    validation.add_argument(
        "--hold-out", type=float, metavar="SHARE", help="validate on this share of each class's training videos"
    )
    validation.add_argument("--no-val", action="store_true", help="do not validate; the last epoch is kept")
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
        elif isinstance(default, str):
            options |= {"metavar": "NAME"}
        else:
            kind = int if isinstance(default, int) else float
            options |= {"type": kind, "metavar": "N" if kind is int else "X"}
        group.add_argument(flag, *filter(None, [SHORT.get(setting.name)]), dest=f"set_{setting.name}", **options)


def _shown(default: Any) -> str:
    return "none" if default in ((), "", None) or default == {} else str(default)


def config_from_args(args: argparse.Namespace, base: TrainConfig | None = None) -> TrainConfig:
    """The recipe with the options that were given; --checkpoint and --no-pretrained replace its initial weights.

    Without --recipe the settings are those of ``base``, and without that the defaults.
    """
    config = base or TrainConfig()
    if args.recipe:
        from .recipes import recipe

        config = recipe(args.recipe)
    if (args.checkpoint or not args.pretrained) and args.set_init is None:
        config = config.replace(init="")
    given = {setting.name: getattr(args, f"set_{setting.name}") for setting in fields(TrainConfig)}
    for key, flag in (("input", "--input"), ("data", "--transform")):
        if given[key] is not None:
            given[key] = {**getattr(config, key), **dict(_pair(text, flag) for text in given[key])}
    if given["milestones"] is not None:
        given["milestones"] = tuple(given["milestones"])
    return config.replace(**given)


def _pair(text: str, flag: str) -> tuple[str, Any]:
    """``size=112`` -> ("size", 112); values are Python's: numbers, (0.5, 1.0), [("left", "right")], True or a word."""
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
    except (ValueError, SyntaxError) as error:
        if value[:1] in "([{'\"":
            raise ValueError(f"{flag} {text!r}: {value!r} is no value of Python's; is a quote missing?") from error
        return key, value


def run_finetune(args: argparse.Namespace) -> int:
    """Train; 0 if the run came to its end."""
    if args.list_recipes:
        from .recipes import describe, list_recipes

        print("\n\n".join(describe(name) for name in list_recipes()))
        return 0
    if not args.data or not args.model:
        args.usage_error("DIR, which comes first, and --model NAME are needed")
    if not args.pretrained and args.set_init == "imagenet":
        args.usage_error("--no-pretrained and --init imagenet say different things: give one of them")
    from .localization_cli import localizer_recipe, train_localizer

    is_first = int(os.environ.get("RANK", "0")) == 0  # of the processes, the one that speaks
    log = say if is_first else lambda text: None
    with stopped_by_sigterm():
        try:
            train_localizer(args, log) if localizer_recipe(args) else _train(args, log)
        except KeyboardInterrupt:
            log("stopped; the same command goes on from the last checkpoint")
            raise
    return 0


def _train(args: argparse.Namespace, log: Callable[[str], None]) -> None:
    from .preparation import prepare_model

    config = config_from_args(args)
    is_detection = _is_detection(args.dataset)
    train, val = load_key_frames(args) if is_detection else load_data(args)
    _warn_of_leaks(train, val, log)
    model = prepare_model(
        args.model,
        train,
        config,
        pretrained=args.pretrained,
        checkpoint_path=args.checkpoint,
        cache_dir=args.cache_dir,
    )
    result = carry_out(args, model, train, val, config, log)
    command = "detect" if is_detection else "predict"
    log(f"try it: videozoo {command} VIDEO --model {shlex.quote(f'local-dir:{result.folder}')}")


def carry_out(
    args: argparse.Namespace, model: Any, train: Any, val: Any, config: TrainConfig, log: Callable[[str], None]
) -> TrainingResult:
    """The run in the folder that the options say; it is told where the result is."""
    import torch.distributed as dist

    from ..names import safe_model_name
    from .run import finetune

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
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    log(f"{result.folder}: the model of epoch {result.best['epoch']}, the training curve (curves.svg) and a card")
    return result


def _is_detection(dataset: str | None) -> bool:
    from ..data.datasets import dataset_facts

    return bool(dataset) and dataset_facts(dataset).get("files", {}).get("format") in ("ava", "tubes")


def load_key_frames(args: argparse.Namespace) -> tuple[KeyFrames, KeyFrames | None]:
    """Training and validation key frames of a data set with boxes."""
    from ..data.detection import load_detection

    if args.hold_out is not None or args.multi_label:
        args.usage_error(f"--hold-out and --multi-label are for videos with labels, {args.dataset} has boxes")
    lists, boxes = args.annotations or (None, None), args.proposals or (None, None)

    def load(split: str, place: int) -> KeyFrames:
        places = {"annotations": lists[place], "proposals": boxes[place]}
        return load_detection(
            args.dataset, args.data, split, is_training=split == "train", classes=args.classes, **places
        )

    return load("train", 0), None if args.no_val else load("val", 1)


def load_data(args: argparse.Namespace) -> tuple[Dataset, Dataset | None]:
    """Training and validation videos as the options say."""
    from ..data.datasets import load_dataset
    from ..data.folders import hold_out, load_folder

    if args.classes or args.proposals:
        args.usage_error("--classes and --proposals are for data sets with boxes, such as --dataset ava21")
    lists = args.annotations or (None, None)
    modality = "flow" if _modality(args) == "flow" else "rgb"

    def load(split: str, annotations: str | None, **options: Any) -> Dataset:
        if args.dataset:
            return load_dataset(args.dataset, args.data, split=split, annotations=annotations, modality=modality)
        options |= {"multi_label": args.multi_label, "modality": modality}
        return load_folder(args.data, split, annotations=annotations, **options)

    train = load("train", lists[0])
    if args.no_val:
        return train, None
    if args.hold_out is not None:
        return hold_out(train, args.hold_out, seed=args.set_seed or 0)
    try:
        return train, load("val", lists[1], class_names=train.class_names)
    except FileNotFoundError as error:
        other = "Or validate on a part of the training videos with --hold-out 0.2, or not at all with --no-val."
        raise FileNotFoundError(f"{error} {other}") from error


def _modality(args: argparse.Namespace) -> str:
    """What the model takes, without building it."""
    from .. import catalog
    from ..hub import hub_config, load_config
    from ..names import split_scheme

    scheme, rest = split_scheme(args.model)
    if scheme:
        repo, _, revision = rest.partition("@")
        config = load_config(rest) if scheme == "local-dir" else hub_config(repo, revision or None, args.cache_dir)
        return config.get("pretrained_cfg", {}).get("modality", "rgb")
    entry = catalog.find_entry(args.model)
    return entry.modality if entry else catalog.input_facts(args.model).get("modality", "rgb")


def _warn_of_leaks(train: Dataset | KeyFrames, val: Dataset | KeyFrames | None, log: Callable[[str], None]) -> None:
    """Validation videos that are trained on make validation worthless, so they are named."""
    from ..data.detection import KeyFrames
    from ..data.leaks import find_film_leaks, find_leaks

    find = find_film_leaks if isinstance(train, KeyFrames) else find_leaks
    leaks = find(train, val) if val is not None else []
    for a, b, reason in leaks[:MAX_LEAKS]:
        log(f"warning: {a} (train) and {b} (validation) are the same video: {reason}")
    if leaks:
        log(f"warning: {len(leaks)} validation videos are also trained on, so validation says too much")
