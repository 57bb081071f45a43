"""Options that several commands have: spelt, explained and checked alike. No torch is imported."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

READERS = ("auto", "pyav", "torchcodec", "images")


def add_weights_options(parser: argparse.ArgumentParser, **checkpoint: Any) -> None:
    """Add ``--checkpoint``, with other arguments where they are given, and ``--[no-]pretrained``."""
    usual = {"metavar": "FILE", "help": "weights to load instead of the published ones"}
    parser.add_argument("--checkpoint", **usual | checkpoint)
    parser.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="load the published weights (default, unless --checkpoint is given)",
    )


def check_weights_options(args: argparse.Namespace) -> None:
    """Exit with the command's usage if both options name weights."""
    if args.checkpoint and args.pretrained:
        args.usage_error("--pretrained and --checkpoint both name weights: give one of them")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, ``--reader`` and ``--cache-dir``."""
    add = parser.add_argument
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--reader", default="auto", choices=READERS, help="decoder (default auto)")
    add("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--optimize`` and ``--dtype``, see ``console.optimize_from_args``."""
    parser.add_argument(
        "--optimize", action="store_true", help="faster, with the same numbers but for rounding (videozoo.optimize)"
    )
    parser.add_argument("--dtype", choices=("bf16", "fp16"), help="the same in half precision, with other numbers")


def count(text: str) -> int:
    """A number from 0 on, as a type of argparse."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def number(text: str) -> float:
    """A finite number, as a type of argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def seconds(text: str) -> float:
    """A number of seconds above 0, as a type of argparse."""
    try:
        value = number(text)
    except argparse.ArgumentTypeError:
        value = 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def video_name(path: str | os.PathLike[str]) -> str:
    """What the files of a video are called: its name without folder and suffix."""
    path = Path(os.path.abspath(path))
    return path.name if path.is_dir() else path.stem
