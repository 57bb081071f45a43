"""What the commands of the command line share: messages, the model and the device that the options name."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .machine import known_trouble

EXPECTED = (ValueError, OSError, ImportError)  # told in one sentence; anything else is a bug and shows its traceback

RANDOM = "The weights are random numbers, not trained ones: give --checkpoint FILE or leave out --no-pretrained."


def say(text: str) -> None:
    print(f"videozoo: {text}", file=sys.stderr)


def fail(error: BaseException, debug: bool, subject: str = "") -> None:
    """Tell an error in one sentence, with its traceback before it where ``debug`` is set."""
    if debug:
        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    say(f"{subject}: {text}" if subject and subject not in text else text)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Being told to stop by torchrun or a scheduler ends the block as Ctrl-C does, so that it can tidy up."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def dumps(value: Any) -> str:
    """JSON, in ASCII where the output cannot hold every letter."""
    return json.dumps(value, indent=2, ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8")


def bar(probability: float, width: int = 20) -> str:
    """A horizontal bar, of letters that the output can show."""
    eighths = round(probability * width * 8)
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(probability * width)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def positive(text: str) -> int:
    """A number from 1 on, as a type of argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def create_from_args(args: argparse.Namespace) -> tuple[Any, str, str]:
    """The model, where its weights came from, and what speaks against trusting it."""
    from . import create_model

    pretrained = args.checkpoint is None if args.pretrained is None else args.pretrained
    model = create_model(
        args.model, pretrained=pretrained, checkpoint_path=args.checkpoint, cache_dir=args.cache_dir
    ).eval()
    if args.checkpoint:
        return model, args.checkpoint, ""
    if not pretrained:
        return model, "random", RANDOM
    return model, model.pretrained_cfg.get("url") or args.model, ""


def optimize_from_args(model: Any, args: argparse.Namespace, device: str) -> None:
    """What ``--optimize`` and ``--dtype`` ask for, once the model is on its device."""
    if args.optimize or args.dtype:
        import torch

        from . import optimize

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[args.dtype]
        optimize(model.to(device), dtype, reversible=False)


def pick_device(name: str) -> str:
    """The device that an option names, "auto" being a GPU if there is one; warns of versions that are slow on it."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is no device: use auto, cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} such devices: use cpu.")
    if device.type == "cuda" and (trouble := known_trouble()):
        warnings.warn(trouble, stacklevel=2)
    return name
