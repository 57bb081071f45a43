"""`videozoo data prepare`, `videozoo data audit` and `videozoo data camera-motion`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

PERSON_DETECTOR = "fasterrcnn_resnet50_fpn_v2"


def add_data_commands(subparsers: Any, **options: Any) -> None:
    """Adds the command `data` with its own commands; `options` go to every parser (`parents=...`).

    A parser's default `run` takes the parsed arguments and returns the exit code.
    """
    parser = subparsers.add_parser("data", help="prepare and audit data sets", **options)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_prepare(commands, options)
    _add_audit(commands, options)
    _add_camera_motion(commands, options)
    _add_proposals(commands, options)


def _common(commands: Any, name: str, run: Any, text: str, options: dict[str, Any]) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", **options)
    parser.add_argument("dataset", metavar="DATASET", help="short name, as in model names: k400, ssv2, ucf101, ...")
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--annotations", metavar="PATH", help="folder (audit: or file) of the annotations")
    parser.add_argument("--workers", type=_count, default=0, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _add_prepare(commands: Any, options: dict[str, Any]) -> None:
    text = "turn official annotations into list files; encode or extract frames on request"
    parser = _common(commands, "prepare", run_prepare, text, options)
    parser.add_argument("--split", action="append", default=[], metavar="SPLIT", help="may be repeated (default: all)")
    parser.add_argument("--short-side", type=int, default=0, metavar="PX", help="scale videos or frames down to this")
    parser.add_argument("--dense", action="store_true", help="encode with a key frame every 16 frames")
    parser.add_argument("--frames", action="store_true", help="extract frames as JPEG")


def _add_audit(commands: Any, options: dict[str, Any]) -> None:
    text = "report missing, unreadable, duplicate and wrongly labelled videos"
    parser = _common(commands, "audit", run_audit, text, options)
    parser.add_argument("--split", default="val", metavar="SPLIT", help="default: val")
    parser.add_argument("--kind", choices=("videos", "rawframes"), help="where both are there")
    parser.add_argument("--modality", choices=("rgb", "flow"), default="rgb")
    parser.add_argument("--out", metavar="FILE", help="write the report as JSON too")


def _add_camera_motion(commands: Any, options: dict[str, Any]) -> None:
    text = "make the camera-motion data set: real pictures under a virtual camera"
    parser = commands.add_parser("camera-motion", help=text, description=text[0].upper() + text[1:] + ".", **options)
    parser.add_argument("folder", metavar="DIR", help="where the clips go; what is there is kept")
    parser.add_argument("--clips", type=_count, default=400, metavar="N", help="training clips a class (default: 400)")
    parser.add_argument("--val", type=_count, default=60, metavar="N", help="for validation (default: 60)")
    parser.add_argument("--test", type=_count, default=100, metavar="N", help="for the test (default: 100)")
    parser.add_argument(
        "--splits", nargs="+", choices=("train", "val", "test"), metavar="SPLIT", help="only train, val or test"
    )
    parser.add_argument("--pictures", metavar="FOLDER", help="your own pictures in place of those of packages")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="default: 0")
    parser.add_argument("--workers", type=_count, default=0, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_camera_motion)


def _add_proposals(commands: Any, options: dict[str, Any]) -> None:
    """The two commands on boxes of persons; the detectors that find them are imported when the command runs."""
    text = "find the persons in the key frames of a data set, for detectors of actions"
    parser = commands.add_parser("proposals", help=text, description=text[0].upper() + text[1:] + ".", **options)
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="ava21, ava22, jhmdb or ucf101_24")
    add("--root", required=True, metavar="DIR", help="folder of the data set")
    add("--annotations", metavar="PATH", help="file or folder of the annotations")
    add("--split", default="val", metavar="SPLIT", help="default: val")
    add("--out", required=True, metavar="FILE", help="file.safetensors or file.json, for --proposals of other commands")
    add("--detector", default=PERSON_DETECTOR, metavar="NAME", help=f"of torchvision (default: {PERSON_DETECTOR})")
    add("--min-score", type=float, default=0.05, metavar="P", help="score of boxes that are kept (default: 0.05)")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=run_proposals)
    text = "convert a file of person boxes, such as AVA's published pickle"
    parser = commands.add_parser("convert-proposals", help=text, description=text[0].upper() + text[1:], **options)
    parser.add_argument("file", metavar="FILE", help=".pkl as published, or .safetensors or .json")
    parser.add_argument("out", metavar="OUT", help="file.safetensors or file.json")
    parser.set_defaults(run=run_convert_proposals)


def run_proposals(args: argparse.Namespace) -> int:
    """0, or 1 if a video could not be read."""
    from ..detection import proposals

    return proposals.run_proposals(args)


def run_convert_proposals(args: argparse.Namespace) -> int:
    """0 when the file is written."""
    from ..detection import proposals

    return proposals.run_convert_proposals(args)


def run_prepare(args: argparse.Namespace) -> int:
    """0, or 1 if a video could not be read."""
    from .prepare import prepare

    reports = prepare(
        args.dataset,
        args.root,
        splits=args.split,
        annotations=args.annotations,
        short_side=args.short_side,
        dense=args.dense,
        frames=args.frames,
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    print(json.dumps([r.to_dict() for r in reports], indent=1) if args.json else "\n".join(map(str, reports)))
    return int(any(report.failed for report in reports))


def run_audit(args: argparse.Namespace) -> int:
    """0 if nothing was found, else 1."""
    from .annotations import atomic_text
    from .audit import audit

    report = audit(
        args.dataset,
        args.root,
        args.split,
        annotations=args.annotations,
        kind=args.kind,
        modality=args.modality,
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    print(report.to_json() if args.json else report)
    if args.out:
        atomic_text(args.out, report.to_json() + "\n")
    return int(not report.ok)


def run_camera_motion(args: argparse.Namespace) -> int:
    """0 when all clips are there."""
    from .camera_motion import make_camera_motion

    wanted = {"train": args.clips, "val": args.val, "test": args.test}
    clips = make_camera_motion(
        args.folder,
        clips={split: count for split, count in wanted.items() if split in (args.splits or wanted)},
        seed=args.seed,
        pictures=args.pictures,
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    counts = {split: sum(clip.split == split for clip in clips) for split in wanted}
    if args.json:
        print(json.dumps({"folder": args.folder, "seed": args.seed, "clips": counts}, indent=1))
    else:
        print(f"{args.folder}: {', '.join(f'{count} {split}' for split, count in counts.items() if count)} clips")
    return 0
