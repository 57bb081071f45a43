"""Speed and memory of networks, ours beside other libraries' with the same weights and shapes, in turns in one run.

    python benchmarks/speed.py                                     # inference of all cases, batch 1
    python benchmarks/speed.py x3d_m slowfast_r50 --bench train --batch-size 1 2 --rounds 7
    python benchmarks/speed.py x3d_m --bench train-data --batch-size 2 --workers 1    # with reading, waiting included
    python benchmarks/speed.py --bench memory-infer memory-train --batch-size 1 8     # each network in a fresh process
    python benchmarks/speed.py --device cuda --batch-size 8 --bench infer train memory-train

Libraries that are not installed are named and left out. Before anything is timed, outputs are compared: logits of each
library's network with those of ours that has its weights; a difference is told, and the exit code is then 1. Rows go to
OUT.csv with the versions and the machine, and all rows of that file to OUT.html; measured again, a row is replaced.
"""

from __future__ import annotations

import argparse
import copy
import csv
import fnmatch
import gc
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import peers
import torch
from data import make_video
from pipelines import PIPELINES, reads_videos, training_loader
from speed_report import speed_report
from torch import nn

import videozoo
from videozoo.benchmark import (
    Timing,
    in_fresh_process,
    inference_step,
    interleave,
    multiply_adds,
    peak_memory,
    relative_difference,
    training_step,
)
from videozoo.evaluation.report import write_page
from videozoo.evaluation.result import csv_text
from videozoo.layers import channels_last, weights_channels_last
from videozoo.machine import describe_machine, known_trouble, machine_facts

BOUNDS = {"float32": 1e-4, "bf16": 5e-2}  # largest difference of logits, relative to the largest logit
TRAIN_BOUND = 1e-3  # in training mode: statistics of the batch amplify rounding
OURS = "videozoo"


@dataclass(frozen=True)
class Peer:
    """A network of another library, and the entry of ours that takes its weights."""

    library: str
    entry: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """Networks to compare, on clips of so many frames of ``size`` pixels; the first one's entry is measured as ours."""

    frames: int
    size: int
    peers: tuple[Peer, ...]


def _mma(entry: str, build: Callable[[], nn.Module]) -> Peer:
    return Peer("mmaction2", entry, build)


def _ptv(entry: str, name: str, alpha: int = 0) -> Peer:
    return Peer("pytorchvideo", f"{entry}.ptv", peers.ptv(name, alpha))


def _tv(entry: str, name: str) -> Peer:
    return Peer("torchvision", f"{entry}.tv", peers.tv(name))


CASES = {
    "tsn_r50": Case(8, 224, (_mma("tsn_r50_f8_k400", peers.mma_tsn),)),
    "tsm_r50": Case(8, 224, (_mma("tsm_r50_f8_k400", peers.mma_tsm),)),
    "i3d_r50_32x2": Case(32, 224, (_mma("i3d_r50_32x2_k400", peers.mma_i3d),)),
    "i3d_r50_8x8": Case(8, 224, (_ptv("i3d_r50_8x8_k400", "i3d_r50"),)),
    "slowonly_r50": Case(
        8, 224, (_mma("slowonly_r50_8x8_k400", peers.mma_slowonly), _ptv("slowonly_r50_8x8_k400", "slow_r50"))
    ),
    "slowfast_r50": Case(
        32,
        224,
        (_mma("slowfast_r50_8x8_k400", peers.mma_slowfast), _ptv("slowfast_r50_8x8_k400", "slowfast_r50", alpha=4)),
    ),
    "x3d_m": Case(16, 224, (_mma("x3d_m_16x5_k400.mma0", peers.mma_x3d), _ptv("x3d_m_16x5_k400", "x3d_m"))),
    "r2plus1d_r18": Case(16, 112, (_tv("r2plus1d_r18_16x2_k400", "r2plus1d_18"),)),
    "r2plus1d_r34": Case(8, 224, (_mma("r2plus1d_r34_8x8_k400", peers.mma_r2plus1d),)),
    "r3d_r18": Case(16, 112, (_tv("r3d_r18_16x2_k400", "r3d_18"),)),
    "s3d": Case(64, 224, (_tv("s3d_128x2_k400", "s3d"),)),
    "ircsn_r101": Case(32, 224, (_ptv("ircsn_r101_32x2_k400", "csn_r101"),)),
    "ircsn_r152": Case(32, 224, (_mma("ircsn_r152_32x2_k400", peers.mma_csn),)),
    "test": Case(4, 32, (_tv("r3d_r18_16x2_k400", "r3d_18"),)),  # small, for trying the script
}


def main(argv: list[str] | None = None) -> int:
    """Measure the cases; returns 1 if any outputs differ."""
    args = parse(argv)
    if args.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
        if trouble := known_trouble():
            print(f"warning: {trouble}", file=sys.stderr)
    missing = peers.missing_peers()
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    facts = machine_facts(args.device) | {"date": date.today().isoformat()}
    print(describe_machine(facts))
    agrees = True
    for name in chosen(args.cases):
        for bench in args.bench:
            for batch in args.batch_size:
                rows = MEASURE[bench](name, batch, args, missing)
                rows = [row | {key: row.get(key, fact) for key, fact in facts.items()} for row in rows]
                agrees &= all(row["agrees"] != "no" for row in rows)
                show(rows)
                keep(args.out, rows)
                gc.collect()
    print(args.out.with_suffix(".html"))
    return 0 if agrees else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"shell pattern, default all of {', '.join(CASES)} but 'test'")
    add("--bench", nargs="+", choices=list(MEASURE), default=["infer"], help="what to measure (default infer)")
    add("--batch-size", nargs="+", type=int, default=[1], metavar="N", help="clips in a batch (default 1)")
    add("--rounds", type=int, default=5, metavar="N", help="timed calls, or processes for memory (default 5)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", metavar="DEVICE")
    add("--tf32", action="store_true", help="let float32 products of a GPU round to TF32, for all libraries")
    add("--no-bf16", dest="bf16", action="store_false", help="leave out the rows in bf16")
    add("--video", type=Path, metavar="FILE", help="that train-data reads (default: one of 340x256 made for it)")
    add("--workers", type=int, default=1, metavar="N", help="reading processes of train-data (default 1)")
    add("--iterations", type=int, default=8, metavar="N", help="training steps of one timing of train-data (default 8)")
    add("--out", type=Path, default=Path("speed"), metavar="FILE", help="without suffix (default speed)")
    return parser.parse_args(argv)


def chosen(patterns: list[str]) -> list[str]:
    """Names of the cases that match; a pattern that matches none ends the script."""
    if not patterns:
        return [name for name in CASES if name != "test"]
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(CASES, pattern)
        if not matches:
            raise SystemExit(f"no case is called {pattern!r}: choose of {', '.join(CASES)}.")
        found |= dict.fromkeys(matches)
    return list(found)


# Networks ------------------------------------------------------------------------------------------------------------


def variants(
    case: Case, bench: str, args: argparse.Namespace, without: Any, memory: bool = False
) -> Iterator[tuple[str, str, Callable]]:
    """(library, precision, builder of the network) of what is measured; ``memory``: also what differs in that only."""
    source = None if case.peers[0].library in without else case.peers[0]
    ours = partial(_ours, case, args.device, source)
    yield OURS, "float32", ours
    how = {"float32": None} | ({"bf16": torch.bfloat16} if args.bf16 else {})
    if bench == "infer" and "optimize" in dir(videozoo):
        for precision, dtype in how.items():
            yield f"{OURS} optimize", precision, partial(_optimized, ours, dtype)
            if memory:
                yield f"{OURS} optimize, irreversible", precision, partial(_optimized, ours, dtype, reversible=False)
    if bench == "train":
        yield f"{OURS} channels-last", "float32", partial(_channels_last, ours)
    for peer in case.peers:
        if peer.library not in without:
            yield peer.library, "float32", partial(_theirs, peer, args.device)


def _clip(case: Case, batch: int, device: str) -> torch.Tensor:
    drawn = torch.randn(batch, 3, case.frames, case.size, case.size, generator=torch.Generator().manual_seed(0))
    return drawn.to(device)


def _theirs(peer: Peer, device: str) -> nn.Module:
    torch.manual_seed(0)
    return peers.randomise(peer.build()).to(device)


def _ours(case: Case, device: str, source: Peer | None) -> nn.Module:
    """Our network with the weights of ``source``, or random ones."""
    if source is not None:
        return peers.same_in_ours(source.entry, _theirs(source, device)).to(device)
    return peers.randomise(videozoo.create_model(case.peers[0].entry, pretrained=False)).to(device)


def _optimized(ours: Callable[[], nn.Module], dtype: torch.dtype | None, reversible: bool = True) -> nn.Module:
    return videozoo.optimize(ours(), dtype=dtype, reversible=reversible)


def _channels_last(ours: Callable[[], nn.Module]) -> nn.Module:
    """As `videozoo finetune` trains on a CPU."""
    return weights_channels_last(ours())


def _without_dropout(model: nn.Module) -> nn.Module:
    """In training mode; without dropout, whose draws would differ from library to library."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model.train()


def _input(model: nn.Module, x: torch.Tensor, library: str, precision: str) -> torch.Tensor:
    if library.endswith("channels-last"):
        x = channels_last(x)
    return x.bfloat16() if precision == "bf16" else x


# Measuring -----------------------------------------------------------------------------------------------------------


def logits(model: nn.Module, clip: torch.Tensor) -> torch.Tensor:
    """Output without leaving a trace: in training a forward pass moves the statistics of the norms."""
    with torch.no_grad():
        return (copy.deepcopy(model) if model.training else model)(clip)


def difference_from_peer(peer: Peer, theirs: nn.Module, x: torch.Tensor) -> float:
    """How far logits of our network with their weights are from theirs."""
    same = peers.same_in_ours(peer.entry, theirs).to(x.device)
    if theirs.training:
        _without_dropout(same)
    return relative_difference(logits(same, x), logits(theirs, x))


def measure_time(name: str, batch: int, args: argparse.Namespace, missing: Any, bench: str) -> list[dict[str, Any]]:
    """Rows of one case: all variants and libraries in turns."""
    case = CASES[name]
    x = _clip(case, batch, args.device)
    by_library = {peer.library: peer for peer in case.peers}
    steps, rows = {}, {}
    plain = None
    for library, precision, build in variants(case, bench, args, missing):
        model = build()
        if bench == "train":
            _without_dropout(model)
        clip = _input(model, x, library, precision)
        difference = None
        if library in by_library:
            difference = difference_from_peer(by_library[library], model, x)
        elif plain is None:
            gmacs = multiply_adds(model, (x,)) / batch / 1e9
            plain = logits(model, x)
        else:
            difference = relative_difference(logits(model, clip), plain)
        bound = TRAIN_BOUND if bench == "train" else BOUNDS[precision]
        agrees = "" if difference is None else "yes" if difference <= bound else "no"
        steps[library, precision] = (training_step if bench == "train" else inference_step)(model, (clip,))
        rows[library, precision] = {"difference": difference, "agrees": agrees}
    timings = interleave(steps, args.device, rounds=args.rounds)
    rows = {key: row | {"gmacs": round(gmacs, 2)} for key, row in rows.items()}
    return rows_of_times(name, bench, batch, args, timings, rows)


def rows_of_times(
    name: str, bench: str, batch: int, args: argparse.Namespace, timings: dict[Any, Timing], more: dict[Any, Any]
) -> list[dict[str, Any]]:
    """Rows of steps by (library, precision), with the factor against the fastest other library, and more facts."""
    best = min((t.median for (library, _), t in timings.items() if library in peers.MODULES), default=None)
    return [
        facts_of_case(name, bench, batch)
        | {"library": library, "precision": precision, "rounds": args.rounds}
        | {"median_ms": round(1e3 * t.median, 2), "best_ms": round(1e3 * t.best, 2), "spread": round(t.spread, 3)}
        | {"clips_per_s": round(batch / t.median, 3), "ratio": round(best / t.median, 3) if best else None}
        | more.get((library, precision), {})
        for (library, precision), t in timings.items()
    ]


def facts_of_case(name: str, bench: str, batch: int) -> dict[str, Any]:
    """A row with what all libraries share."""
    case = CASES[name]
    facts = {"case": name, "bench": bench, "batch": batch, "entry": case.peers[0].entry, "agrees": ""}
    return {**dict.fromkeys(COLUMNS), **facts, "input": f"3x{case.frames}x{case.size}x{case.size}"}


def measure_training_with_data(name: str, batch: int, args: argparse.Namespace, missing: Any) -> list[dict[str, Any]]:
    """Rows of training steps that wait for their clips, which each library reads in its own way."""
    case, steps = CASES[name], {}
    with tempfile.TemporaryDirectory() as folder:
        video = args.video or make_video(Path(folder) / "film.mp4", 340, 256, 300)
        for library, precision, build in variants(case, "train", args, missing):
            pipeline_of = PIPELINES[library.split()[0]]
            if not reads_videos(pipeline_of):
                continue
            pipeline, model = pipeline_of(case.frames, 2, case.size), _without_dropout(build())
            clip = _input(model, _clip(case, batch, args.device), library, precision)
            loader = training_loader(pipeline, str(video), batch * args.iterations, batch, args.workers)
            train = training_step(model, (clip,))

            def epoch(clip: Any = clip, train: Any = train, pipeline: Any = pipeline, loader: Any = loader) -> None:
                for clips in loader:
                    clip.copy_(pipeline.network_input(clips, args.device))
                    train()

            steps[library, precision] = epoch
        epochs = interleave(steps, args.device, rounds=args.rounds)
    timings = {key: Timing(tuple(s / args.iterations for s in epoch.seconds)) for key, epoch in epochs.items()}
    return rows_of_times(name, "train-data", batch, args, timings, {})


def measure_memory(name: str, batch: int, args: argparse.Namespace, missing: Any, bench: str) -> list[dict[str, Any]]:
    """Median peak memory of each variant and library, each time in a fresh process."""
    case, found = CASES[name], {}
    for library, precision, _ in variants(case, bench, args, missing, memory=True):
        key = (name, batch, bench, library, precision, args)
        found[library, precision] = median(in_fresh_process(_peak, *key) for _ in range(args.rounds)) / 2**20
    best = min((v for (library, _), v in found.items() if not library.startswith(OURS)), default=None)
    told = {"allocator": "returns freed blocks"} if args.device == "cpu" and platform.libc_ver()[0] == "glibc" else {}
    return [
        facts_of_case(name, f"memory-{bench}", batch)
        | {"library": library, "precision": precision, "rounds": args.rounds}
        | {"peak_mib": round(mib, 1), "ratio": round(best / mib, 3) if best else None}
        | told
        for (library, precision), mib in found.items()
    ]


def _peak(name: str, batch: int, bench: str, library: str, precision: str, args: argparse.Namespace) -> int:
    """Runs in the fresh process: imports first, so that they do not count."""
    without = set(peers.MODULES) - {library}  # our network takes random weights, so that no other library is loaded
    if library in peers.MODULES:
        peers.load_peer(library)
    builders = {(n, p): b for n, p, b in variants(CASES[name], bench, args, without, memory=True)}
    build = builders[library, precision]

    def make() -> Callable[[], Any]:
        model = build()
        clip = _input(model, _clip(CASES[name], batch, args.device), library, precision)
        return training_step(model.train(), (clip,)) if bench == "train" else inference_step(model, (clip,))

    return peak_memory(make, args.device)


MEASURE = {
    "infer": partial(measure_time, bench="infer"),
    "train": partial(measure_time, bench="train"),
    "train-data": measure_training_with_data,
    "memory-infer": partial(measure_memory, bench="infer"),
    "memory-train": partial(measure_memory, bench="train"),
}

# Results -------------------------------------------------------------------------------------------------------------

COLUMNS = [
    "case",
    "bench",
    "batch",
    "input",
    "library",
    "precision",
    "entry",
    "gmacs",
    "median_ms",
    "best_ms",
    "spread",
]
COLUMNS += ["clips_per_s", "ratio", "rounds", "peak_mib", "difference", "agrees"]
KEY = ("case", "bench", "batch", "library", "precision", "device")


def show(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(f"\n{first['case']}, {first['bench']}, batch {first['batch']} of {first['input']}", flush=True)
    for row in rows:
        label = f"  {row['library']:<34}{row['precision']:<9}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:6.2f} x"
        if row["peak_mib"] is not None:
            print(f"{label}{row['peak_mib']:9.0f} MiB{ratio}", flush=True)
            continue
        apart = "" if row["difference"] is None else f"   output differs by {row['difference']:.1e}"
        wrong = "  WRONG" if row["agrees"] == "no" else ""
        times = f"{row['median_ms']:9.1f} ms (best {row['best_ms']:.1f}, spread {100 * row['spread']:.0f} %)"
        print(f"{label}{times}{ratio}{apart}{wrong}", flush=True)


def keep(out: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to the table in place of earlier measurements of the same, and write the page anew."""
    path = out.with_suffix(".csv")
    before = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            before = list(csv.DictReader(file))
    keys = {tuple(str(row[key]) for key in KEY) for row in rows}
    columns = [*COLUMNS, *(key for key in rows[0] if key not in COLUMNS)]
    rows = [row for row in before if tuple(row[key] for key in KEY) not in keys] + rows
    table = [{key: "" if row.get(key) is None else row[key] for key in columns} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, csv_text(table))
    write_page(path.with_suffix(".html"), speed_report([{k: str(v) for k, v in row.items()} for row in table]))


if __name__ == "__main__":
    sys.exit(main())
