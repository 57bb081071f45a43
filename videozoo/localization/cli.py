"""``videozoo localize``: what happens when in videos. Torch and decoders are imported when the command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import EXPECTED, RANDOM, dumps, fail, pick_device, positive, say
from ..options import add_machine_options, add_weights_options, check_weights_options, count, seconds, video_name

if TYPE_CHECKING:
    from .video import Localization

TEXT = "find when something happens in videos, or in files of their features"
PICTURES = 24  # thumbnails of a timeline
SHOWN = 10  # segments in the terminal
SELF = "self"


def add_localize_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``localize`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser(
        "localize",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}. For a video the networks whose scores the localiser was trained on "
        "make the features; a file of features is .csv, .npy or .safetensors, one row a position.",
        parents=[common],
    )
    parser.set_defaults(run=localize, usage_error=parser.error)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="VIDEO|FEATURES", help="video file, folder of frames, or file of features")
    add("--model", "-m", required=True, metavar="NAME", help="bmn_anet, bsn_anet (both networks), ssn_r50_thumos14")
    add("--pem", metavar="NAME", default="", help="BSN's second network, where the first is a local-dir: one")
    add_weights_options(parser, nargs="+", default=[], help="weights of the localiser (BSN: of both)")
    add("--flow", metavar="PATH", help="the video's flow: a folder of x_*.jpg and y_*.jpg, or a file of features; for "
        "several inputs a folder with one of these for each, by name")  # fmt: skip
    add("--feature-models", nargs="+", metavar="NAME", help="networks that make the features: rgb, or rgb and flow "
        "(default: those that the localiser was trained with)")  # fmt: skip
    add("--class-scores", metavar="FILE", help='label segments by scores of videos, {"class": [names], '
        '"results": {"VIDEO": [scores]}}; "self": by the mean of the features that are class scores')  # fmt: skip
    add("--proposals", metavar="FILE", help="SSN: list of proposals as THUMOS14 has it (default: sliding windows)")
    add("--seconds", type=seconds, metavar="S", help="length of the video that a file of features describes")
    add("--topk", type=positive, metavar="N", help="segments to show (default 10), or in JSON (default 100)")
    add("--json", action="store_true", help="print JSON: an object for one input, a list for several")
    add("--out", metavar="FILE.html", help="write a page to look at: one file, all inputs")
    add("--batch-size", type=positive, metavar="N", help="frames in the network at a time (default: 1 on cpu, else 8)")
    add("--workers", type=count, default=0, metavar="N", help="processes that decode (default 0: this one)")
    add_machine_options(parser)


def localize(args: argparse.Namespace) -> int:
    """Localise in each input; a bad one is reported and the rest go on."""
    if args.out and Path(args.out).is_dir():
        args.usage_error(f"--out {args.out} is a folder: name the file to write, such as {args.out}/result.html")
    if args.feature_models and len(args.feature_models) > 2:
        args.usage_error("--feature-models takes the network of rgb, and that of flow")
    if args.seconds and len(args.inputs) > 1:
        args.usage_error(f"--seconds is the length of one video, there are {len(args.inputs)}: call them one by one")
    check_weights_options(args)
    args.pretrained = not args.checkpoint and args.pretrained is not False
    work = _worker(args)
    caveat = "" if args.pretrained or args.checkpoint else RANDOM
    if caveat:
        say(f"warning: {caveat}")
    done: list[Localization] = []
    for path in args.inputs:
        try:
            result = work(path)
        except EXPECTED as error:
            fail(error, getattr(args, "debug", False), path)
            continue
        weights = ", ".join(args.checkpoint) or (result.model.get("url") or args.model if args.pretrained else "random")
        done.append(replace(result, weights=weights, caveat=caveat))
        if not args.json:
            print(describe(done[-1], args.topk or SHOWN), flush=True)
    if args.json and (done or len(args.inputs) > 1):
        rows = [result.to_dict(args.topk) for result in done]
        print(dumps(rows if len(args.inputs) > 1 else rows[0]))
    if args.out and done:
        from .report import write_localization_report

        write_localization_report(args.out, done)
        say(f"wrote {args.out}")
    return 0 if len(done) == len(args.inputs) else 1


def _worker(args: argparse.Namespace) -> Callable[[str], Localization]:
    """The function that localises in one input, with all that is read or made once."""
    from .chain import create_localizers, proposal_chain
    from .video import TOP_K

    device = pick_device(args.device)
    networks = create_localizers(
        args.model,
        args.pem,
        checkpoints=args.checkpoint,
        pretrained=args.pretrained,
        cache_dir=args.cache_dir,
    )
    for network in networks:
        network.eval().to(device)
    how = {
        "batch_size": args.batch_size,
        "workers": args.workers,
        "reader": args.reader,
        "device": device,
        "top_k": max(TOP_K, args.topk or 0),
        "progress": sys.stderr.isatty() and not args.json,
        "max_pictures": PICTURES if args.out else 0,
    }
    is_ssn = bool(networks[0].num_classes)
    unused = ("flow", "class_scores", "feature_models", "seconds") if is_ssn else ("proposals",)
    for option in unused:
        if getattr(args, option):
            args.usage_error(f"--{option.replace('_', '-')} is of no use to {args.model}")
    if is_ssn:
        return _ssn(args, networks[0], how)
    return _features_or_video(args, proposal_chain(networks), how)


def _ssn(args: argparse.Namespace, model: Any, how: dict[str, Any]) -> Callable[[str], Localization]:
    from ..data.localization import regression_statistics
    from ..data.regions import read_proposals
    from .video import is_feature_file, localize_proposals

    videos = {video.video: video for video in read_proposals(args.proposals)} if args.proposals else None
    try:
        stats = regression_statistics(list(videos.values())) if videos else None
    except ValueError:  # a list without true segments, or of fractions: borders stay, and the remark says so
        stats = None

    def work(path: str) -> Localization:
        if is_feature_file(path):
            raise ValueError(f"{path}: SSN looks at frames and not at features: give it the video.")
        name = video_name(path)
        if videos is not None and name not in videos:
            raise ValueError(f"{args.proposals} has no proposals of {name}.")
        return localize_proposals(model, path, videos and videos[name], stats=stats, **how)

    return work


def _features_or_video(args: argparse.Namespace, chain: Any, how: dict[str, Any]) -> Callable[[str], Localization]:
    from ..data.localization import read_class_scores
    from .video import is_feature_file, localize_features, localize_video

    labels, scores = read_class_scores(args.class_scores) if args.class_scores not in (None, SELF) else ([], {})
    made = _FeatureNetworks(args, chain.networks[0].pretrained_cfg)

    def classes(path: str) -> Any:
        if not args.class_scores or args.class_scores == SELF:
            return args.class_scores
        name = video_name(path)
        for key in (name, name.removeprefix("v_")):
            if key in scores:
                return labels, scores[key]
        raise ValueError(f"{args.class_scores} has no scores of {name}.")

    def work(path: str) -> Localization:
        flow = _flow_of(args, path)
        if not is_feature_file(path):
            if args.seconds:
                raise ValueError(f"{path}: a video knows how long it is, --seconds is for files of features.")
            return localize_video(chain, made.networks(flow is not None), path, flow, classes=classes(path), **how)
        paths = [path] if flow is None else [path, flow]
        found = classes(path)
        if found == SELF:
            raise ValueError(f"{path}: names of classes are not known of a file of features: give --class-scores FILE.")
        return localize_features(chain, paths, seconds=args.seconds, classes=found, top_k=how["top_k"])

    return work


def _flow_of(args: argparse.Namespace, path: str) -> str | None:
    """Where the flow of an input is: the path that was given, or for several inputs what has its name in there."""
    if args.flow is None or len(args.inputs) == 1:
        return args.flow
    from ..data.localization import SUFFIXES

    name = video_name(path)
    for place in (Path(args.flow, name), *(Path(args.flow, name + suffix) for suffix in SUFFIXES)):
        if place.exists():
            return str(place)
    raise FileNotFoundError(f"{args.flow} has no flow of {name}: expected a folder or file of features of that name.")


class _FeatureNetworks:
    """The networks that make features, created when the first video needs them."""

    def __init__(self, args: argparse.Namespace, cfg: dict[str, Any]) -> None:
        self.args, self.cfg = args, cfg
        self.made: list[Any] = []

    def networks(self, with_flow: bool) -> list[Any]:
        """The network of rgb, and that of flow where it is needed."""
        from .. import create_model
        from .video import feature_models

        names = self.args.feature_models or feature_models(self.cfg)
        if with_flow and len(names) < 2:
            raise ValueError("--flow needs a second network: --feature-models RGB FLOW.")
        for name in names[len(self.made) : 1 + with_flow]:
            model = create_model(name, pretrained=self.args.pretrained, cache_dir=self.args.cache_dir)
            self.made.append(model.eval())
        return self.made[: 1 + with_flow]


def describe(result: Localization, topk: int) -> str:
    """Lines for people: the best segments, and how they came about."""
    from .report import length_text, moment

    rows = result.segments[:topk]
    lines = [f"{result.source['path']}  ({length_text(result)})"]
    times = [(moment(start, result.unit), moment(end, result.unit)) for start, end, _, _ in rows]
    width = max((len(text) for pair in times for text in pair), default=0)
    for (start, end), (_, _, score, label) in zip(times, rows, strict=True):
        lines.append(f"  {start:>{width}} - {end:>{width}}  {score:.4g}  {label}".rstrip())
    if not rows:
        lines.append("  nothing found")
    spent = ", ".join(f"{name} {value:.2f}" for name, value in result.seconds.items())
    lines.append(f"  {result.model['full_name']}: {result.features}")
    lines.append(f"  {sum(result.seconds.values()):.2f} s on {result.device} ({spent})")
    lines += [f"  {result.remark}"] * bool(result.remark)
    lines += [f"  MEANINGLESS: {result.caveat}"] * bool(result.caveat)
    return "\n".join(lines)
