"""What the commands of the command line share: messages, the model and the device that the options name."""

from __future__ import annotations

import argparse
import sys
from typing import Any

RANDOM = "The weights are random numbers, not trained ones: give --checkpoint FILE or leave out --no-pretrained."


def say(text: str) -> None:
    print(f"videozoo: {text}", file=sys.stderr)


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


def pick_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is no device: use auto, cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} such devices: use cpu.")
    return name
