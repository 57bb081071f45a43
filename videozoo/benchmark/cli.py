"""``videozoo bench``: speed and memory of one model. Torch is imported when the command runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import positive

TEXT = "measure speed and memory of a model on this machine"
DTYPES = ("float32", "bf16", "fp16")
MIB = 2**20


def add_bench_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``bench`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    parser = commands.add_parser("bench", help=TEXT, description=f"{TEXT[0].upper()}{TEXT[1:]}.", parents=[common])
    parser.set_defaults(run=run_bench, usage_error=parser.error, checkpoint=None)
    add = parser.add_argument
    add("model", metavar="NAME", help="see 'videozoo list'; also hf-hub:org/repo, local-dir:path")
    add("--bench", choices=("infer", "train", "both"), default="infer", help="what to measure (default infer)")
    add("--batch-size", type=positive, default=1, metavar="N", help="clips in a batch (default 1)")
    add("--frames", type=positive, metavar="N", help="frames of a clip (default: as in the model's test or training)")
    add("--size", type=positive, metavar="PIXELS", help="height and width of a clip (default: likewise)")
    add("--num-warm-iter", type=positive, metavar="N", help="calls that are not timed (default: 2 on cpu, else 10)")
    add("--num-bench-iter", type=positive, metavar="N", help="calls that are timed (default: 10 on cpu, else 40)")
    add("--dtype", choices=DTYPES, default="float32", help="of weights and input (default float32)")
    add("--amp-dtype", choices=("none", "bf16", "fp16"), default="none", help="autocast (default none)")
    add("--channels-last", action="store_true", help="keep weights and input in torch's channels-last layout")
    add("--torchcompile", action="store_true", help="compile the model; the first, slow call is not timed")
    add("--optimize", action="store_true", help="inference by videozoo.optimize, compared with the plain model")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ...")
    add(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="load the published weights (default: random ones, which take the same time)",
    )
    add("--results-file", metavar="FILE", help="write the numbers to a .json or .csv file")
    add("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")


def run_bench(args: argparse.Namespace) -> int:
    """Measure, print and write."""
    if args.results_file and Path(args.results_file).suffix not in (".json", ".csv"):
        args.usage_error(f"--results-file {args.results_file} must end in .json or .csv")
    if args.results_file and Path(args.results_file).is_dir():
        args.usage_error(f"--results-file {args.results_file} is a folder: name the file to write")
    if args.optimize and args.bench != "infer":
        args.usage_error("--optimize is for inference, --bench train measures training")
    if args.dtype == "fp16" and args.bench != "infer":
        args.usage_error("--dtype fp16 is for inference: training takes --amp-dtype")
    from ..console import dumps, pick_device, say

    args.device = pick_device(args.device)
    row = measure_model(args)
    print(describe(row), flush=True)
    if args.results_file:
        from ..evaluation.report import write_page
        from ..evaluation.result import csv_text

        write_page(args.results_file, csv_text([row]) if args.results_file.endswith(".csv") else dumps(row) + "\n")
        say(f"wrote {args.results_file}")
    return 0


# Measuring -----------------------------------------------------------------------------------------------------------


def measure_model(args: argparse.Namespace) -> dict[str, Any]:
    """What ``args`` ask for as one row; names of columns are timm's where timm has them, times in milliseconds."""
    from ..machine import machine_facts
    from .measure import memory_told

    row: dict[str, Any] = {"model": args.model}
    with memory_told(args.batch_size, args.device):
        for kind in ("infer", "train") if args.bench == "both" else (args.bench,):
            row |= _measure(args, kind)
    settings = ("dtype", "amp_dtype", "channels_last", "torchcompile", "optimize")
    return row | {key: getattr(args, key) for key in settings} | machine_facts(args.device)


def _measure(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    from .measure import in_fresh_process, inference_step, interleave, multiply_adds, peak_memory, relative_difference

    plain, inputs = _plain(args, kind)
    facts: dict[str, Any] = {"param_count": round(sum(p.numel() for p in plain.parameters()) / 1e6, 2)}
    if kind == "infer":
        facts["infer_gmacs"] = round(multiply_adds(plain, inputs) / args.batch_size / 1e9, 3)
        reference = inference_step(plain, inputs)()
    step = _step(args, kind, plain, inputs)
    if kind == "infer" and _is_changed(args):
        facts["infer_difference"] = relative_difference(step(), reference)
    on_gpu = args.device.startswith("cuda")
    warm, rounds = args.num_warm_iter or (10 if on_gpu else 2), args.num_bench_iter or (40 if on_gpu else 10)
    timing = interleave({kind: step}, args.device, warm=warm, rounds=rounds)[kind]
    memory = in_fresh_process(peak_memory, _Made(args, kind), args.device)
    return facts | {
        f"{kind}_samples_per_sec": round(args.batch_size / timing.median, 3),
        f"{kind}_step_time": round(1000 * timing.median, 3),
        f"{kind}_step_best": round(1000 * timing.best, 3),
        f"{kind}_step_spread": round(timing.spread, 4),
        f"{kind}_peak_mib": round(memory / MIB, 1),
        f"{kind}_batch_size": args.batch_size,
        f"{kind}_input": "x".join(map(str, inputs[0].shape[1:])),
    }


def _is_changed(args: argparse.Namespace) -> bool:
    """Whether the options ask for other arithmetic than the plain model's."""
    changed = args.channels_last or args.torchcompile or args.optimize
    return changed or args.dtype != "float32" or args.amp_dtype != "none"


class _Made:
    """Builds the step of the options anew, in another process."""

    def __init__(self, args: argparse.Namespace, kind: str) -> None:
        wanted = {key: value for key, value in vars(args).items() if key not in ("run", "usage_error")}
        self.args, self.kind = argparse.Namespace(**wanted), kind

    def __call__(self) -> Any:
        return _step(self.args, self.kind, *_plain(self.args, self.kind))


def _plain(args: argparse.Namespace, kind: str) -> tuple[Any, tuple[Any, ...]]:
    """The model as it is created, on the device, in its mode, and its input."""
    from ..console import create_from_args
    from .measure import example_inputs

    model = create_from_args(args)[0].to(args.device).train(kind == "train")
    where = {"frames": args.frames, "size": args.size, "training": kind == "train", "device": args.device}
    return model, example_inputs(model, args.batch_size, **where)


def _step(args: argparse.Namespace, kind: str, model: Any, inputs: tuple[Any, ...]) -> Any:
    """What is timed: ``model`` with the options put to it (in place)."""
    import torch

    from ..layers import channels_last, weights_channels_last
    from .measure import DTYPES as TYPES
    from .measure import inference_step, training_step

    if args.optimize:
        from .. import optimize

        model = optimize(model, reversible=False)
    model = model.to(TYPES[args.dtype])
    x = inputs[0].to(TYPES[args.dtype])
    if args.channels_last:
        weights_channels_last(model)
        x = channels_last(x) if x.ndim in (4, 5) else x
    run = torch.compile(model) if args.torchcompile else model
    if kind == "infer":
        return inference_step(run, (x, *inputs[1:]), amp_dtype=args.amp_dtype)
    return training_step(model, (x, *inputs[1:]), amp_dtype=args.amp_dtype, forward=run)


# Output --------------------------------------------------------------------------------------------------------------


def describe(row: dict[str, Any]) -> str:
    """Lines for people."""
    from ..machine import describe_machine

    gmacs = f", {row['infer_gmacs']:.1f} G multiply-adds a clip" if "infer_gmacs" in row else ""
    lines = [f"{row['model']}  ({row['param_count']:.2f} million parameters{gmacs})"]
    for kind, title in (("infer", "inference"), ("train", "training step")):
        if f"{kind}_step_time" not in row:
            continue
        time, best, spread, rate, memory, batch, shape = (
            row[f"{kind}_{key}"]
            for key in ("step_time", "step_best", "step_spread", "samples_per_sec", "peak_mib", "batch_size", "input")
        )
        lines += [
            f"  {title}, batch {batch} of {shape}",
            f"    {time:.1f} ms (best {best:.1f}, quartiles {100 * spread:.0f} % apart), {rate:.3g} clips/s",
            f"    {memory:.0f} MiB at most, weights included",
        ]
        if kind == "infer" and "infer_difference" in row:
            apart = f"{row['infer_difference']:.1e}"
            lines.append(f"    output differs from the plain model's by at most {apart} of its largest value")
    settings = [row["dtype"] if row["amp_dtype"] == "none" else f"{row['amp_dtype']} autocast"]
    names = {"channels_last": "channels-last", "torchcompile": "torch.compile", "optimize": "videozoo.optimize"}
    settings += [name for key, name in names.items() if row[key]]
    return "\n".join([*lines, f"  {', '.join(settings)} on {describe_machine(row)}"])
