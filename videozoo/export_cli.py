"""``videozoo export``: a model as a file for other programs. Torch is imported when the command runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .console import create_from_args, dumps, say
from .options import add_weights_options, check_weights_options

TEXT = "write a model as a file that runs without videozoo"


def add_export_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``export`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser(
        "export",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}, for any number of clips at a time. The file is run and compared "
        "with the model before it gets its name.",
        parents=[common],
    )
    parser.set_defaults(run=export, usage_error=parser.error)
    add = parser.add_argument
    add("model", metavar="NAME", help="see 'videozoo list'; or hf-hub:org/repo, local-dir:path")
    add("--out", "-o", required=True, metavar="FILE", help="file to write: .onnx, or .pt2 for the other formats")
    add(
        "--format",
        choices=("onnx", "torch_export", "aoti"),
        default="onnx",
        help="onnx (default), torch_export: read by torch.export.load, aoti: machine code by a C++ compiler",
    )
    add(
        "--shape",
        type=sides,
        metavar="CxTxHxW",
        help="of one input, such as 3x32x224x224 (default: one view of the model's own test)",
    )
    add_weights_options(parser)
    add("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")
    add("--json", action="store_true", help="print the facts that the file carries, and how far its outputs differ")


def sides(text: str) -> tuple[int, ...]:
    """Sides of an input, as a type of argparse."""
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 3x32x224x224")
    return tuple(map(int, parts))


def export(args: argparse.Namespace) -> int:
    """Write the file and tell what it takes and gives."""
    check_weights_options(args)
    if Path(args.out).is_dir():
        args.usage_error(f"--out {args.out} is a folder: name a file")
    from .export import export_model

    model, _, caveat = create_from_args(args)
    if caveat:
        say(f"warning: {caveat}")
    done = export_model(model, args.out, args.format, shape=args.shape)
    size = done.path.stat().st_size
    if args.json:
        print(dumps({"file": str(done.path), "bytes": size, "deviation": done.deviation, **done.facts}))
        return 0
    takes = [f"{name} ({', '.join(map(str, facts['shape']))})" for name, facts in done.facts["inputs"].items()]
    print(f"{done.path}: {size / 1e6:.0f} MB, {', '.join(takes)} -> {', '.join(done.facts['outputs'])}")
    print(f"  outputs differ from the model's by {done.deviation:.0e} of the largest, in batches of 1 and 3")
    return 0
