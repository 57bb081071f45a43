"""``videozoo features``: features of long videos as files. Torch is imported when the command runs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ..console import EXPECTED, create_from_args, fail, optimize_from_args, pick_device, positive, say
from ..options import (
    add_machine_options,
    add_speed_options,
    add_weights_options,
    check_weights_options,
    count,
    video_name,
)

TEXT = "write features of videos of any length, window by window, with time stamps"


def add_features_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``features`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser(
        "features",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}. Each video is decoded once. The same command goes on with a run "
        "that was interrupted, and leaves out what is done.",
        parents=[common],
    )
    parser.set_defaults(run=features, usage_error=parser.error)
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="video file, or folder of frames (x_*.jpg and y_*.jpg for flow)")
    add("--model", "-m", required=True, metavar="NAME", help="a recogniser of 'videozoo list'; or hf-hub:, local-dir:")
    add("--out", "-o", required=True, metavar="DIR", help="folder for VIDEO.npy, with time stamps in VIDEO.json")
    add("--every", "--stride", type=positive, default=16, metavar="N", help="frames between windows (default 16)")
    add("--spacing", type=positive, metavar="N", help="frames between those of a window (default: the model's own)")
    add("--logits", action="store_true", help="scores of the classes, before any softmax, in place of pooled features")
    add("--format", choices=("npy", "csv", "safetensors"), default="npy", help="of the files (default npy)")
    add_weights_options(parser)
    add("--size", type=positive, metavar="PIXELS", help="side of the centre that is cut out (default: the model's own)")
    add("--batch-size", type=positive, metavar="N", help="windows in the network at a time (default: 1 on cpu, else 8)")
    add("--workers", type=count, default=0, metavar="N", help="processes that decode (default 0: this one)")
    add_machine_options(parser)
    add_speed_options(parser)


def features(args: argparse.Namespace) -> int:
    """Write the features of each video; a bad one is reported and the rest go on."""
    check_weights_options(args)
    if Path(args.out).is_file():
        args.usage_error(f"--out {args.out} is a file: name a folder")
    stems = [video_name(path) for path in args.videos]
    if twice := [stem for stem, times in Counter(stems).items() if times > 1]:
        args.usage_error(f"several videos are called {twice[0]}, and so would their features: give them another --out")
    from . import write_features
    from .extraction import check_model

    model, _, caveat = create_from_args(args)
    check_model(model, args.logits)
    if caveat:
        say(f"warning: {caveat}")
    device, failed = pick_device(args.device), 0
    optimize_from_args(model, args, device)
    for path, stem in zip(args.videos, stems, strict=True):
        out = Path(args.out, f"{stem}.{args.format}")
        try:
            facts = write_features(
                model,
                path,
                out,
                device=device,
                every=args.every,
                spacing=args.spacing,
                logits=args.logits,
                size=args.size,
                batch_size=args.batch_size,
                workers=args.workers,
                reader=args.reader,
                progress=sys.stderr.isatty(),
            )
        except EXPECTED as error:
            fail(error, getattr(args, "debug", False), path)
            failed += 1
            continue
        print(f"{out}: {facts['shape'][0]} windows of {facts['shape'][1]} {facts['output']}", flush=True)
    return 1 if failed else 0
