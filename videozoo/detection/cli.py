"""``videozoo detect``: who does what in videos. Torch and decoders are imported when the command runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import EXPECTED, create_from_args, dumps, fail, optimize_from_args, pick_device, positive, say
from ..options import (
    add_machine_options,
    add_speed_options,
    add_weights_options,
    check_weights_options,
    number,
    seconds,
    video_name,
)

if TYPE_CHECKING:
    from .stream import Source
    from .video import Findings

TEXT = "tell what each person in videos does, and draw it on them"
FOLDER = "detections"  # of the files that are written, unless --out says otherwise
LISTED = 20  # persons in the terminal
DETECTOR = "fasterrcnn_resnet50_fpn_v2"


def add_detect_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``detect`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser(
        "detect",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}. Writes for each video an annotated mp4, a JSON file and a page to "
        "look at.",
        parents=[common],
    )
    parser.set_defaults(run=detect, usage_error=parser.error)
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="video file, or folder of JPEG or PNG frames")
    add("--model", "-m", required=True, metavar="NAME", help="see 'videozoo list --task detection'; or local-dir:path")
    add_weights_options(parser)
    add(
        "--boxes",
        metavar="FILE",
        help='persons of the video in pixels, {"frames": {"15": [[x1, y1, x2, y2, score], ...]}}, or the JSON of an '
        "earlier run; for several videos a folder with VIDEO.json for each; or AVA's proposals (.pkl, .safetensors) "
        "(default: a detector of persons looks for them)",
    )
    add("--detector", default=DETECTOR, metavar="NAME", help=f"torchvision's detector of persons (default {DETECTOR})")
    add("--min-score", type=_share, default=0.9, metavar="P", help="score that a person needs to count (default 0.9)")
    add("--every", type=seconds, default=1.0, metavar="SECONDS", help="from one look to the next (default 1)")
    add("--topk", type=positive, default=3, metavar="N", help="actions shown for a person (default 3)")
    add("--threshold", type=_share, default=0.3, metavar="P", help="probability of an action to be shown (default 0.3)")
    add("--out", metavar="PATH", help=f"a folder, or FILE.mp4 for one video (default: {FOLDER}; with --json nothing)")
    add("--json", action="store_true", help="print JSON: an object for one video, a list for several")
    add_machine_options(parser)
    add_speed_options(parser)


def _share(text: str) -> float:
    try:
        value = number(text)
    except argparse.ArgumentTypeError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def detect(args: argparse.Namespace) -> int:
    """Look at each video; a bad one is reported and the rest go on."""
    places, box_files = _places(args), _box_files(args)
    model, weights, caveat = _model(args)
    if caveat:
        say(f"warning: {caveat}")
    shared = None if args.boxes else _person_source(args)
    done: list[Findings] = []
    for path, place, file in zip(args.videos, places, box_files, strict=True):
        try:
            found = _look(args, model, path, place, shared, file)
            found = replace(found, weights=weights, caveat=caveat)
            written = _write(found, place, args) if place else []
        except EXPECTED as error:
            fail(error, getattr(args, "debug", False), path)
            continue
        done.append(found)
        if not args.json:
            print(describe(found, args.topk, args.threshold), flush=True)
        for name in written:
            say(f"wrote {name}")
    if args.json and (done or len(args.videos) > 1):
        rows = [found.to_dict(args.topk) for found in done]
        print(dumps(rows if len(args.videos) > 1 else rows[0]))
    return 0 if len(done) == len(args.videos) else 1


def _look(
    args: argparse.Namespace, model: Any, path: str, place: Path | None, shared: Source | None, file: Path | None
) -> Findings:
    from . import detect

    return detect(
        model,
        path,
        shared if file is None else file,
        out=place,
        every=args.every,
        min_score=args.min_score,
        topk=args.topk,
        least=args.threshold,
        reader=args.reader,
        max_pictures=24 if place else 0,
        progress=sys.stderr.isatty() and not args.json,
    )


# What the options name -----------------------------------------------------------------------------------------------


def _places(args: argparse.Namespace) -> list[Path | None]:
    """The mp4 of each video, beside which its other files stand; None where nothing is written."""
    check_weights_options(args)
    if args.out is None and args.json:
        return [None] * len(args.videos)
    out = Path(args.out or FOLDER)
    if out.suffix == ".mp4" and not out.is_dir():
        if len(args.videos) > 1:
            args.usage_error(f"--out {out} is one file, there are {len(args.videos)} videos: name a folder")
        places = [out]
    elif out.is_file():
        args.usage_error(f"--out {out} is a file: name a folder, or a file that ends in .mp4")
    else:
        places = [out / name for name in _file_names(args.videos)]
    for path, place in product(args.videos, places):
        if place.exists() and os.path.exists(path) and place.samefile(path):
            args.usage_error(f"{place} is one of the videos: choose another --out")
    return places


def _file_names(videos: Sequence[str]) -> list[str]:
    """VIDEO_actions.mp4 for each video, numbered where names repeat."""
    seen: Counter[str] = Counter()
    names = []
    for path in videos:
        stem = video_name(path)
        seen[stem] += 1
        names.append(f"{stem}{f'_{seen[stem]}' if seen[stem] > 1 else ''}_actions.mp4")
    return names


def _box_files(args: argparse.Namespace) -> list[Path | None]:
    """The file with the persons of each video; None where a detector looks for them."""
    if args.boxes is None:
        return [None] * len(args.videos)
    boxes = Path(args.boxes)
    if boxes.is_dir():
        return [boxes / f"{video_name(path)}.json" for path in args.videos]
    if len(args.videos) > 1 and boxes.suffix not in (".pkl", ".safetensors"):  # those are of many films
        args.usage_error(f"--boxes {boxes} is of one video, there are {len(args.videos)}: name a folder of such files")
    return [boxes] * len(args.videos)


def _model(args: argparse.Namespace) -> tuple[Any, str, str]:
    """Model, where its weights came from and what speaks against it; a wrong one is told before weights are fetched."""
    from .. import catalog
    from .stream import check_detector

    entry = catalog.find_entry(args.model)
    if entry is not None and entry.task != "detection":
        raise ValueError(
            f"{args.model} labels whole videos: take one of 'videozoo list --task detection', or 'videozoo predict'."
        )
    model, weights, caveat = create_from_args(args)
    check_detector(model)
    device = pick_device(args.device)
    optimize_from_args(model, args, device)
    return model.to(device), weights, caveat


def _person_source(args: argparse.Namespace) -> Source:
    from .persons import person_source

    return person_source(args.detector, pick_device(args.device), args.min_score)


# Output --------------------------------------------------------------------------------------------------------------


def _write(found: Findings, place: Path, args: argparse.Namespace) -> list[Path]:
    """Write JSON and page beside the mp4; the names of all three."""
    from ..checkpoint import atomic_path
    from .report import detection_report

    texts = {
        place.with_suffix(".json"): json.dumps(found.to_dict(args.topk), indent=1, ensure_ascii=False) + "\n",
        place.with_suffix(".html"): detection_report(found, args.topk, args.threshold),
    }
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [place, *texts]


def describe(found: Findings, topk: int, least: float) -> str:
    """Lines for people: who was there when and did what."""
    from ..report import clock

    video = found.video
    length = f", {video['frames'] / video['fps']:.1f} s" if video["fps"] > 0 else ""
    lines = [f"{video['path']}  ({video['width']}x{video['height']}, {video['frames']} frames{length})"]
    persons = found.persons()
    for person in persons[:LISTED]:
        actions = ", ".join(f"{label} {value:.2f}" for label, value in person.top(topk, least)) or "nothing sure"
        span = f"{clock(person.frames[0], video['fps'])} to {clock(person.frames[-1], video['fps'])}"
        lines.append(f"  person {person.number}, {span}: {actions}")
    if len(persons) > LISTED:
        lines.append(f"  ... and {len(persons) - LISTED} more persons")
    many = f"{len(persons)} person{'s' * (len(persons) != 1)}"
    many += f" in {len(found.moments)} moment{'s' * (len(found.moments) != 1)}"
    lines.append(f"  {found.model['full_name']}: {many}, {found.seconds:.1f} s on {found.device}")
    if found.caveat:
        lines.append(f"  MEANINGLESS: {found.caveat}")
    return "\n".join(lines)
