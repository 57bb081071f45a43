"""``videozoo eval``: an entry on a data set, measured beside published. Torch is imported when the command runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import positive, stopped_by_sigterm
from ..options import count, number

if TYPE_CHECKING:
    from ..data.datasets import Dataset
    from ..data.detection import KeyFrames
    from .result import ClassResult, EvaluationResult

TEXT = "measure a model on a data set by its own test protocol, beside the published numbers"
MAX_LISTED = 20  # failures and changes shown in the terminal


def add_eval_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``eval`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser("eval", help=TEXT, description=f"{TEXT[0].upper()}{TEXT[1:]}.", parents=[common])
    parser.set_defaults(run=run_eval, usage_error=parser.error, pretrained=None)
    add = parser.add_argument
    add("model", metavar="NAME", help="see 'videozoo list --pretrained'; also hf-hub:org/repo, local-dir:path")
    add("--data", required=True, metavar="DIR", help="folder of the data set; of one's own: DIR/test/CLASS/*.mp4")
    add("--annotations", metavar="FILE", help="list of videos and labels, if it is in no usual place of DIR")
    add("--dataset", metavar="NAME", help="k400, ssv2, ...: the format of DIR, if it is not the model's own data set")
    add("--split", help="part of the data set (default val; of one's own data: test if there is one, else val)")
    add("--checkpoint", metavar="FILE", help="weights to load instead of the published ones")
    add("--proposals", metavar="FILE", help="detectors: boxes of persons; SSN: its list; if in no usual place of DIR")
    add("--pem", metavar="NAME", default="", help="BSN: its second network, where the first is a local-dir: one")
    add("--features", nargs="+", default=[], metavar="DIR", help="localisers: folder of features, or rgb and flow")
    add("--class-scores", metavar="FILE", help="localisers: scores of whole videos, which label segments and give mAP")
    add("--classes", type=count, nargs="+", metavar="ID", help="detectors of some classes: their ids in the data set")
    add("--views", choices=("full", "fast"), default="full", help="the published protocol (default), or one view")
    add("--batch-size", type=positive, metavar="N", help="views in the network at a time (default: 1 on cpu, else 8)")
    add("--workers", type=count, metavar="N", help="processes that read videos (default: 0 on cpu, else up to 8)")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--amp-dtype", choices=("none", "bf16", "fp16"), default="none", help="autocast (default none)")
    add("--optimize", action="store_true", help="faster, with the same numbers but for rounding (videozoo.optimize)")
    add("--save-logits", metavar="DIR", help="keep the scores of every video, so that an interrupted run can go on")
    add("--diff", metavar="DIR", help="list the videos whose prediction differs from the scores that are saved there")
    add("--fuse", metavar="DIR", help="add the scores that another run has saved there (RGB + flow, RGB + sound)")
    add("--fuse-weight", type=number, default=1.0, metavar="W", help="of the added scores (default 1)")
    add("--out", metavar="FILE.html", help="write a page to look at")
    add("--results-file", metavar="FILE", help="write the numbers to a .json or .csv file")
    add("--limit", type=positive, metavar="N", help="only so many videos, drawn at random")
    add("--seed", type=int, default=0, metavar="N", help="of the draw of --limit (default 0)")
    add("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")


def run_eval(args: argparse.Namespace) -> int:
    """Measure, print and write; 1 if not a single video could be read. Under torchrun one process prints and writes."""
    if args.results_file and Path(args.results_file).suffix not in (".json", ".csv"):
        args.usage_error(f"--results-file {args.results_file} must end in .json or .csv")
    for option in ("out", "results_file"):
        path = getattr(args, option)
        if path and Path(path).is_dir():
            args.usage_error(f"--{option.replace('_', '-')} {path} is a folder: name the file to write")
    with stopped_by_sigterm(), _processes() as is_first:
        result = _evaluate(args)
    if is_first:
        print(describe(result), flush=True)
        _write(args, result)
    return 0 if result.videos else 1


def _evaluate(args: argparse.Namespace) -> EvaluationResult:
    from ..console import create_from_args, pick_device
    from ..localization.chain import network_names
    from .fusion import fuse
    from .recognition import evaluate
    from .result import compare
    from .storage import read_scores

    if not Path(args.data).is_dir():  # this and a wrong folder of scores must not come out after a download or long run
        raise FileNotFoundError(f"{args.data} is no folder: give --data the folder of the data set")
    for folder in filter(None, (args.diff, args.fuse)):
        read_scores(folder)
    if args.optimize and args.amp_dtype != "none":
        args.usage_error("--optimize computes in float32: leave out --amp-dtype")
    is_pair = len(network_names(args.model, args.pem)) == 2
    model, weights, _ = (None, args.model, "") if is_pair else create_from_args(args)
    device = _own_device(pick_device(args.device))
    if args.optimize:
        _optimize(args, model, device)
    options = {
        "batch_size": args.batch_size,
        "workers": args.workers,
        "device": device,
        "amp_dtype": args.amp_dtype,
        "save_logits": args.save_logits,
        "limit": args.limit,
        "seed": args.seed,
        "weights": weights,
        "progress": sys.stderr.isatty(),
    }
    if is_pair or getattr(model, "task", "") == "localization":
        return _evaluate_localizer(args, model, options)
    if getattr(model, "task", "") == "detection":
        from .detection import evaluate_detector

        return evaluate_detector(model, _load_key_frames(args, model.pretrained_cfg), **options)
    if args.proposals or args.classes or args.features or args.class_scores:
        args.usage_error(
            "--proposals, --classes, --features and --class-scores are for detectors and localisers, "
            f"{args.model} labels whole videos"
        )
    dataset = _load_dataset(args, model.pretrained_cfg)
    result = evaluate(model, dataset, views=args.views, **options)
    if args.fuse:
        result = fuse(result, dataset, args.fuse, args.fuse_weight)
    return compare(result, args.diff) if args.diff else result


def _optimize(args: argparse.Namespace, model: Any, device: str) -> None:
    """Make the network faster, on its device; the localisers on features have nothing to fold."""
    from .. import optimize

    if model is None or model.input_dims == 3:
        args.usage_error(f"--optimize is of no use to {args.model}")
    optimize(model.to(device), reversible=False)


def _load_dataset(args: argparse.Namespace, facts: dict[str, Any]) -> Dataset:
    """The data set that the options or the model name; for a model of other classes, a folder with these."""
    from ..catalog import datasets, label_names
    from ..data.datasets import load_dataset
    from ..data.folders import has_split, load_folder

    name, names = args.dataset or facts.get("dataset"), label_names(facts)
    modality = "flow" if facts.get("modality") == "flow" else "rgb"  # sound is read from the videos
    where = {"annotations": args.annotations, "modality": modality}
    if args.dataset or name in datasets():
        split = args.split or datasets()[name].get("published_split", "val")
        return load_dataset(name, args.data, split=split, **where)
    if not names:
        args.usage_error(
            f"{args.model} names neither a data set nor its classes: give --dataset, or a model whose config.json has "
            "label_names"
        )
    split = args.split or ("test" if has_split(args.data, "test", **where) else "val")
    multi_label = bool(facts.get("multi_label"))
    return load_folder(args.data, split, class_names=names, multi_label=multi_label, **where)


def _load_key_frames(args: argparse.Namespace, facts: dict[str, Any]) -> KeyFrames:
    """The key frames of a detector's data set, with the classes that the options or its own names say."""
    from ..catalog import label_names
    from ..data.detection import action_ids, load_detection

    for option, value in {"--fuse": args.fuse, "--diff": args.diff, "--views": args.views == "fast"}.items():
        if value:
            args.usage_error(f"{option} is for classifiers, {args.model} is a detector")
    name = args.dataset or facts.get("dataset")
    if not name:
        args.usage_error(f"{args.model} names no data set: give --dataset")
    classes = args.classes or action_ids(label_names(facts), name)
    places = {"annotations": args.annotations, "proposals": args.proposals}
    return load_detection(name, args.data, args.split or "val", classes=classes, **places)


def _evaluate_localizer(args: argparse.Namespace, model: Any, options: dict[str, Any]) -> EvaluationResult:
    """BMN, BSN (no ``model`` yet, for there are two) or SSN."""
    from ..data.activitynet import load_feature_set
    from ..data.datasets import load_dataset
    from ..data.localization import read_class_scores
    from ..localization.chain import check_localizers, create_localizers, proposal_chain
    from .localization import evaluate_detections, evaluate_proposals

    shared = {key: value for key, value in options.items() if key not in ("save_logits", "amp_dtype")}
    wrong = {"--fuse": args.fuse, "--diff": args.diff, "--views": args.views == "fast", "--classes": args.classes}
    wrong |= {"--amp-dtype": args.amp_dtype != "none"}
    if getattr(model, "num_classes", 0):
        _refuse(args, wrong | {"--features": args.features, "--class-scores": args.class_scores})
        lists = args.proposals or args.annotations
        videos = load_dataset(args.dataset or "thumos14", args.data, split=args.split or "test", annotations=lists)
        return evaluate_detections(model, videos, save_logits=args.save_logits, **shared)
    _refuse(args, wrong | {"--proposals": args.proposals, "--save-logits": args.save_logits})
    if model is not None:
        check_localizers([model], args.model)  # before the data are looked for
    data = load_feature_set(
        args.data,
        args.split or "val",
        annotations=args.annotations,
        features=args.features,
        name=args.dataset or "anet",
    )
    scores = read_class_scores(args.class_scores) if args.class_scores else None
    networks = [model]
    if model is None:
        if args.checkpoint:
            args.usage_error(f"--checkpoint is one file, {args.model} has two networks: use --pem and local-dir: names")
        networks = create_localizers(args.model, args.pem, pretrained=True, cache_dir=args.cache_dir)
    return evaluate_proposals(proposal_chain(networks), data, class_scores=scores, **shared)


def _refuse(args: argparse.Namespace, wrong: dict[str, Any]) -> None:
    """Exit with the command's usage if an option is given that the localiser has no use for."""
    for option, value in wrong.items():
        if value:
            args.usage_error(f"{option} is of no use to {args.model}")


def _own_device(device: str) -> str:
    """One GPU for each process of a machine."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{int(local_rank) % torch.cuda.device_count()}" if device == "cuda" and local_rank else device


@contextmanager
def _processes() -> Iterator[bool]:
    """Joins the processes that torchrun has started, if any; gives whether this one speaks for them.

    What they exchange are scores, which lie in main memory: gloo carries them, whatever device the network is on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield True
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=30))  # who is done first waits for the slowest
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


# Output --------------------------------------------------------------------------------------------------------------


def describe(result: EvaluationResult) -> str:
    """Lines for people: measured beside published, protocol, failures, time."""
    from .result import table_rows

    split = f", {result.dataset['split']}" if result.dataset.get("split") else ""
    lines = [f"{result.model['full_name']} on {result.dataset['title']}{split}", f"  {result.protocol}", ""]
    lines.append(f"  {'':<22}{result.reference:>10}{'measured':>10}{'difference':>12}")
    for row in table_rows(result.to_dict()):
        cells = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("published", "measured")]
        difference = "" if row["difference"] is None else f"{row['difference']:+.2f}"
        lines.append(f"  {row['metric']:<22}{cells[0]:>10}{cells[1]:>10}{difference:>12}".rstrip())
    saved = f", {result.resumed} from saved scores" if result.resumed else ""
    unit = result.unit
    lines += ["", f"  {len(result.videos)} {unit}s measured{saved}, {len(result.failures)} could not be read"]
    shared = f", {result.processes} processes" if result.processes > 1 else ""
    lines.append(
        f"  {result.seconds:.1f} s, {result.seconds_per_video:.3f} s a {unit} on {result.device}{shared} "
        f"({result.precision})"
    )
    if result.remark:
        lines.append(f"  {result.remark}")
    lines += _listed("could not be read", [f"{f.video}: {f.reason}" for f in result.failures])
    if result.per_class:
        lines += _classes(result.per_class, result.counted)
    if result.comparison is not None:
        lines += _changes(result)
    return "\n".join(lines)


def _classes(rows: Sequence[ClassResult], counted: str) -> list[str]:
    """The classes by their average precision, best first; those that do not occur are left out."""
    found = sorted((row for row in rows if row.positives), key=lambda row: -row.average_precision)
    title = "average precision"
    width = max(len(text) for text in (title, *(row.name for row in found)))
    lines = ["", f"  {title:<{width}}{'%':>9}{counted:>10}"]
    return lines + [f"  {row.name:<{width}}{row.average_precision:>9.2f}{row.positives:>10}" for row in found]


def _changes(result: EvaluationResult) -> list[str]:
    comparison, names = result.comparison, result.class_names
    changes = [
        f"{c.video}: {names[c.before]} -> {names[c.after]} (true: {', '.join(names[i] for i in c.labels)})"
        for c in comparison.changes
    ]
    summary = f"  {len(changes)} of {comparison.common} predictions differ from {comparison.other}"
    return ["", summary, *_listed("changed", changes)]


def _listed(what: str, items: list[str]) -> list[str]:
    lines = [f"    {what}: {item}" for item in items[:MAX_LISTED]]
    return lines + ([f"    ... and {len(items) - MAX_LISTED} more, see --out"] if len(items) > MAX_LISTED else [])


def _write(args: argparse.Namespace, result: EvaluationResult) -> None:
    from ..console import say
    from .report import write_evaluation_report, write_page
    from .result import class_rows, csv_text, table_rows

    if args.results_file:
        facts = result.to_dict()
        if args.results_file.endswith(".json"):
            text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        else:
            text = csv_text([*table_rows(facts), *class_rows(facts)])
        write_page(args.results_file, text)
        say(f"wrote {args.results_file}")
    if args.out:
        write_evaluation_report(args.out, result)
        say(f"wrote {args.out}")
