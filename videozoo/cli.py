"""The command line: ``videozoo COMMAND``, see ``videozoo --help``.

Torch and decoders are imported inside the commands that need them, so that help and wrong usage answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .benchmark.cli import add_bench_command
from .console import EXPECTED, bar, create_from_args, dumps, fail, optimize_from_args, pick_device, positive, say
from .data.cli import add_data_commands
from .detection.cli import add_detect_command
from .evaluation.cli import add_eval_command
from .export_cli import add_export_command
from .features.cli import add_features_command
from .localization.cli import add_localize_command
from .options import add_speed_options
from .publishing.cli import add_download_command, add_pin_command, add_push_command, add_verify_command
from .streaming.cli import add_live_options, is_live, predict_live
from .training.cli import add_finetune_command

if TYPE_CHECKING:
    from .prediction import Prediction

MAX_LABELS = 10  # of a saved model's classes that are named
DEFAULT_MODEL = "mc3_r18w16_8x4_camera_motion"  # its weights come with the package


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 something failed (reason on stderr). Wrong usage exits with 2."""
    args = _parser().parse_args(argv)
    debug = getattr(args, "debug", False)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # labels and paths may have letters that it cannot show
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        try:
            return args.run(args)
        except BrokenPipeError:  # the reader of our output, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except EXPECTED as error:
            fail(error, debug)
            return 1


# Usage ---------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors")
    parser = argparse.ArgumentParser(
        prog="videozoo", description="Published models for video understanding.", parents=[common]
    )
    parser.add_argument("--version", action="version", version=f"videozoo {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_predict,
        add_detect_command,
        add_features_command,
        add_localize_command,
        _add_list,
        _add_info,
        _add_convert,
        add_export_command,
        add_download_command,
        add_push_command,
        add_pin_command,
        add_verify_command,
        add_eval_command,
        add_bench_command,
        add_finetune_command,
    ):
        add(commands, common)
    add_data_commands(commands, parents=[common])
    return parser


def _command(commands: Any, common: argparse.ArgumentParser, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])
    parser.set_defaults(run=run, usage_error=parser.error)
    return parser


def _add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = _command(commands, common, "predict", predict, "classify videos by a model's own test protocol")
    add = parser.add_argument
    add("videos", nargs="*", metavar="VIDEO", help="video file, or folder of JPEG or PNG frames")
    add(
        "--model",
        "-m",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="see 'videozoo list'; or hf-hub:org/repo, local-dir:path (default: how the camera moves, by a small model "
        "that comes with the package)",
    )
    add("--checkpoint", metavar="FILE", help="weights to load instead of the published ones")
    add(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="load the published weights (default, unless --checkpoint is given)",
    )
    add("--topk", type=positive, default=5, metavar="N", help="number of labels to show (default 5)")
    add("--json", action="store_true", help="print JSON: an object for one video, a list for several")
    add("--out", metavar="FILE.html", help="write a page to look at: one file, all videos")
    add("--views", choices=("full", "fast"), help="all views of the protocol (default), or only the middle one")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--batch-size", type=positive, metavar="N", help="views in the network at a time (default: 1 on cpu, else 8)")
    add("--reader", default="auto", choices=("auto", "pyav", "torchcodec", "images"), help="decoder (default auto)")
    add("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")
    add_speed_options(parser)
    add_live_options(parser)


def _add_list(commands: Any, common: argparse.ArgumentParser) -> None:
    add = _command(commands, common, "list", list_models, "list models, with published results").add_argument
    add("patterns", nargs="*", metavar="PATTERN", help="shell pattern (tsm_r50*), or a part of the name; any may match")
    add("--dataset", metavar="NAME", help="data set of the weights: k400, ssv2, ...")
    add("--task", choices=("recognition", "detection", "localization"))
    add("--modality", choices=("rgb", "flow", "audio"))
    add("--family", metavar="NAME", help="slowfast, tsn, ...")
    add("--min-top1", type=float, metavar="PERCENT", help="published top-1 accuracy of at least this")
    add("--pretrained", action="store_true", help="every published set of weights by its full name, no bare networks")
    add("--json", action="store_true", help="print a JSON list")


def _add_info(commands: Any, common: argparse.ArgumentParser) -> None:
    add = _command(commands, common, "info", info, "show what is known of a model").add_argument
    add("name", metavar="NAME")
    add("--json", action="store_true", help="print a JSON object")


def _add_convert(commands: Any, common: argparse.ArgumentParser) -> None:
    add = _command(commands, common, "convert", convert, "convert a published checkpoint to safetensors").add_argument
    add("file", metavar="FILE", help="checkpoint as published")
    add("out", metavar="OUT", help="OUT.safetensors, or with --model a folder that local-dir: and the Hub understand")
    add("--model", "-m", metavar="NAME", help="check that the weights fit this model exactly")


# predict -------------------------------------------------------------------------------------------------------------


def predict(args: argparse.Namespace) -> int:
    """Classify each video; a bad one is reported and the rest go on."""
    if args.checkpoint and args.pretrained:
        args.usage_error("--pretrained and --checkpoint both name weights: give one of them")
    if args.out and Path(args.out).is_dir():
        args.usage_error(f"--out {args.out} is a folder: name the file to write, such as {args.out}/result.html")
    if is_live(args):
        return predict_live(args)
    from .prediction import classify

    model, weights, caveat = create_from_args(args)
    if caveat:
        say(f"warning: {caveat}")
    device = pick_device(args.device)
    optimize_from_args(model, args, device)
    done: list[Prediction] = []
    for path in args.videos:
        try:
            result = classify(
                model,
                path,
                views=args.views or "full",
                batch_size=args.batch_size,
                device=device,
                reader=args.reader,
                progress=sys.stderr.isatty() and not args.json,
                max_thumbnails=32 if args.out else 0,
            )
        except EXPECTED as error:
            fail(error, getattr(args, "debug", False), path)
            continue
        done.append(replace(result, weights=weights, caveat=caveat))
        if not args.json:
            print(_describe(done[-1], args.topk), flush=True)
    if args.json:
        rows = [_as_json(result, args.topk) for result in done]
        if done or len(args.videos) > 1:
            print(dumps(rows if len(args.videos) > 1 else rows[0]))
    if args.out and done:
        from .report import write_report

        write_report(args.out, done, max(args.topk, 5))
        say(f"wrote {args.out}")
    return 0 if len(done) == len(args.videos) else 1


def _describe(result: Prediction, topk: int) -> str:
    """Lines for people: labels with probabilities and bars, and how they came about."""
    from .prediction import describe_protocol

    video, seconds = result.video, result.seconds
    length = f", {video['frames'] / video['fps']:.1f} s" if video["fps"] > 0 else ""
    rows = result.top(topk)
    width = max(len(label) for _, label, _ in rows)
    count = f"{video['frames']} frame{'s' if video['frames'] != 1 else ''}"
    lines = [f"{video['path']}  ({video['width']}x{video['height']}, {count}{length})"]
    lines += [f"  {label:<{width}}  {100 * p:5.1f} %  {bar(p)}".rstrip() for _, label, p in rows]
    spent = sum(seconds.values())
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    lines.append(f"  {result.model['full_name']}: {describe_protocol(result.config, len(result.indices))}")
    lines.append(f"  {spent:.2f} s on {result.device} ({parts})")
    if result.repeats:
        lines.append("  The video is too short for this protocol, so frames repeat.")
    if result.caveat:
        lines.append(f"  MEANINGLESS: {result.caveat}")
    return "\n".join(lines)


def _as_json(result: Prediction, topk: int) -> dict[str, Any]:
    from .prediction import describe_protocol

    return {
        "model": result.model["full_name"],
        "weights": result.weights,
        "trained": not result.caveat,
        "video": result.video,
        "predictions": [{"label": label, "index": i, "probability": p} for i, label, p in result.top(topk)],
        "multi_label": bool(result.model.get("multi_label")),
        "frames": result.indices.tolist(),
        "crops": result.config["crops"],
        "views": result.views,
        "protocol": describe_protocol(result.config, len(result.indices)),
        "config": result.config,
        "device": result.device,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
    }


# list and info -------------------------------------------------------------------------------------------------------


def list_models(args: argparse.Namespace) -> int:
    """Print a table of names with data set, frames of one input and published results."""
    from . import catalog, factory
    from .names import nearest_names

    if args.dataset and args.dataset not in catalog.datasets():
        near = ", ".join(nearest_names(args.dataset, catalog.datasets()))
        raise ValueError(f"there is no data set {args.dataset!r}: did you mean {near}?")
    patterns = [p if set(p) & set("*?[") else f"*{p}*" for p in args.patterns]
    names = factory.list_models(
        patterns,
        module=args.family or "",
        pretrained=args.pretrained,
        include_tags=args.pretrained or args.min_top1 is not None or any("." in p for p in args.patterns),
        dataset=args.dataset,
        task=args.task,
        modality=args.modality,
        min_top1=args.min_top1,
    )
    if not names:
        raise ValueError("no model is like this: leave out a filter, or see 'videozoo list' for all.")
    rows = [_row(name) for name in names]
    if args.json:
        print(dumps(rows))
        return 0
    table = [["name", "data set", "frames", "top-1", "top-5", "other"]]
    table += [
        [row["name"], row.get("dataset", "-"), str(row.get("frames", "-")), *_numbers(row.get("metrics", {}))]
        for row in rows
    ]
    _print_table(table, right=(2, 3, 4))
    hint = "" if args.pretrained else " (--pretrained: every set of weights by its full name)"
    print(f"{len(rows)} models{hint}", file=sys.stderr)
    return 0


def _row(name: str) -> dict[str, Any]:
    """Facts of one line of the list; a bare architecture has only its name."""
    from . import catalog

    entry = catalog.find_entry(name)
    if entry is None:
        return {"name": name, "architecture": name}
    return {
        "name": name,
        "architecture": entry.architecture,
        "family": entry.family,
        "dataset": entry.dataset,
        "task": entry.task,
        "modality": entry.modality,
        "frames": entry.sampling["frames"] * entry.sampling["segments"],
        "metrics": entry.metrics[0] if entry.metrics else {},
        "tags": catalog.tags_of(entry.name),
    }


def _numbers(metrics: dict[str, Any]) -> list[str]:
    """top-1, top-5 and, in words, whatever else was measured."""
    first = [f"{metrics[key]:.2f}" if key in metrics else "-" for key in ("top1", "top5")]
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k not in ("top1", "top5")}
    return [*first, ", ".join(f"{key.replace('_', ' ')} {value:.2f}" for key, value in numbers.items())]


def _print_table(rows: list[list[str]], right: Sequence[int] = ()) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        print("  ".join(cells).rstrip())


def info(args: argparse.Namespace) -> int:
    """Print the facts of an entry, a bare architecture or a saved model."""
    from . import catalog, factory

    facts = factory.model_info(args.name)
    name = facts.get("name", "")
    facts["tags"] = catalog.tags_of(name) if name else []
    if args.json:
        print(dumps(facts))
        return 0
    print(facts.get("full_name", facts["architecture"]) + "\n")
    lines = [[key, value] for key, value in _info_lines(facts) if value]
    _print_table(lines)
    return 0


def _info_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Terms and values of ``info``; empty values are not shown."""
    params = f"{facts['params'] / 1e6:.2f} million"
    if not facts.get("name"):  # a bare architecture
        return [
            ("family", facts["family"]),
            ("parameters", params),
            ("classes", f"{facts['num_classes']} by default"),
            ("weights", "none: this is the bare architecture"),
        ]
    from . import catalog
    from .data import resolve_data_config
    from .prediction import describe_input, describe_protocol
    from .report import describe_metrics

    config = resolve_data_config(pretrained_cfg=facts)
    dataset = catalog.datasets().get(facts["dataset"], {}).get("title", facts["dataset"])
    labels = facts.get("label_names") or []  # of a saved model
    shown = ", ".join(labels[:MAX_LABELS]) + (f" and {len(labels) - MAX_LABELS} more" if labels[MAX_LABELS:] else "")
    measured = "measured" if facts["name"].startswith(("local-dir:", "hf-hub:")) else "published"
    published = [
        (measured, describe_metrics(row) + (f", {row['origin']}" if row.get("origin") else ""))
        for row in facts["metrics"]
    ]
    return [
        ("architecture", f"{facts['architecture']} (family {facts['family']})"),
        ("parameters", params),
        ("task", f"{facts['task']}, {facts['modality']}" + (", several labels" if facts["multi_label"] else "")),
        ("data set" if dataset else "", f"{dataset}, {facts['num_classes']} classes" if dataset else ""),
        ("classes", shown or ("" if dataset else str(facts["num_classes"]))),
        ("input", describe_input(config)),
        ("protocol", describe_protocol(config)),
        *published,
        ("pretraining", facts["pretrain"]),
        ("data stored as", facts["resolution"]),
        ("licence", facts["license"]),
        ("paper", facts["paper"]),
        ("source", facts["origin_url"]),
        ("weights", facts["url"] or "with the package" * bool(facts.get("packaged"))),
        ("sha256", f"{facts['hash_prefix']}..." if facts["hash_prefix"] else ""),
        ("Hub", facts["hf_hub_id"] + facts["full_name"] * facts["hf_hub_id"].endswith("/")),
        ("revision", facts["revision"]),
        ("alias", facts["alias"]),
        ("upstream name", ", ".join(facts["upstream"])),
        ("tags", ", ".join(tag + " (this)" * (tag == facts["tag"]) for tag in facts["tags"])),
        ("notes", facts["notes"]),
    ]


# convert -------------------------------------------------------------------------------------------------------------


def convert(args: argparse.Namespace) -> int:
    """Write a published checkpoint with videozoo's keys, as one file or as a folder."""
    out = Path(args.out)
    is_file = out.suffix == ".safetensors"
    if not is_file and not args.model:
        args.usage_error(f"{out} does not end in .safetensors, so it is a folder, which needs --model NAME")
    if out.exists() and Path(args.file).exists() and out.samefile(args.file):
        args.usage_error("FILE and OUT are the same file")
    from . import checkpoint
    from .convert import convert as convert_keys
    from .convert import detect

    weights: Any
    if args.model:
        from . import create_model

        weights = create_model(args.model, checkpoint_path=args.file)
    else:
        state = checkpoint.load_state_dict(args.file)
        if not detect(state):
            say("warning: these keys are of no known source, so they stay as they are; --model NAME checks them.")
        weights = convert_keys(state)
    if is_file:
        origin = {"source": Path(args.file).name, "source_sha256": checkpoint.sha256_file(args.file)}
        checkpoint.save_state_dict(weights, out, metadata=origin)
    else:
        from .hub import save_pretrained

        save_pretrained(weights, out)
    checked = f", which fit {args.model}" if args.model else ""
    print(f"{out}: weights of {args.file}{checked}")
    return 0
