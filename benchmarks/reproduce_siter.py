"""Seconds per training iteration in the settings of MMAction2's published table, beside its numbers.

    python benchmarks/reproduce_siter.py --data k400=/data/kinetics400 --data anet=/data/activitynet
    torchrun --nproc-per-node 8 benchmarks/reproduce_siter.py --data k400=/data/kinetics400 --out siter.csv
    python benchmarks/reproduce_siter.py --rows slowonly_videos bmn --batch-size 2 --iterations 4 --warm 1

An iteration is waiting for data, forward, backward and the optimiser's step; its mean is taken after the first ones (50
in the published table). Clips per GPU, workers and source of the frames are those of the row; where no data is given,
videos, frames and features are made for the run, and the row says so. The published numbers are of eight V100 with
PyTorch 1.4 in float32, one GPU for BSN and two for BMN: other machines, other batches and made data do not compare.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from data import make_video

import videozoo
from videozoo.data.activitynet import FeatureSet, load_feature_set
from videozoo.data.annotations import Sample
from videozoo.data.datasets import Dataset, load_dataset
from videozoo.data.encode import Job, extract_frames
from videozoo.evaluation.report import write_page
from videozoo.evaluation.result import csv_text
from videozoo.machine import describe_machine, machine_facts
from videozoo.training.clips import ClipBatches, training_loader
from videozoo.training.config import TrainConfig
from videozoo.training.localization import NOT_FOR_LOCALIZERS, CandidateSet
from videozoo.training.loop import training_steps
from videozoo.training.parameters import make_optimizer
from videozoo.training.tasks import make_task


@dataclass(frozen=True)
class Published:
    """A row of the published table: ``gpus`` of ``batch`` each, seconds an iteration, GB of one GPU."""

    model: str
    source: str
    batch: int
    seconds: float
    memory: float | None = None
    gpus: int = 8
    workers: int = 4
    sampling: tuple[int, int, int] = (1, 1, 1)  # frames of a clip, stride, clips


ROWS = {
    "tsn_rawframes": Published("tsn_r50_f3", "rawframes", 32, 0.32, 8.1, sampling=(1, 1, 3)),
    "tsn_videos": Published("tsn_r50_f3", "videos", 32, 1.42, 8.1, sampling=(1, 1, 3)),
    "tsn_dense": Published("tsn_r50_f3", "dense", 32, 0.61, 8.1, sampling=(1, 1, 3)),
    "i3d_heavy_videos": Published("i3d_heavy_r50_8x8", "videos", 8, 0.34, 4.6, sampling=(8, 8, 1)),
    "i3d_heavy_dense": Published("i3d_heavy_r50_8x8", "dense", 8, 0.35, 4.6, sampling=(8, 8, 1)),
    "i3d_rawframes": Published("i3d_r50_32x2", "rawframes", 8, 0.43, 5.0, sampling=(32, 2, 1)),
    "tsm_rawframes": Published("tsm_r50_f8", "rawframes", 8, 0.31, 6.9, sampling=(1, 1, 8)),
    "slowonly_videos": Published("slowonly_r50_4x16", "videos", 8, 0.32, 3.1, sampling=(4, 16, 1)),
    "slowonly_dense": Published("slowonly_r50_4x16", "dense", 8, 0.25, 3.1, sampling=(4, 16, 1)),
    "slowfast_videos": Published("slowfast_r50_4x16", "videos", 8, 0.69, 6.1, sampling=(32, 2, 1)),
    "slowfast_dense": Published("slowfast_r50_4x16", "dense", 8, 0.68, 6.1, sampling=(32, 2, 1)),
    "r2plus1d_videos": Published("r2plus1d_r34_8x8", "videos", 8, 0.45, 5.1, sampling=(8, 8, 1)),
    "r2plus1d_dense": Published("r2plus1d_r34_8x8", "dense", 8, 0.44, 5.1, sampling=(8, 8, 1)),
    "bsn_tem": Published("bsn_tem", "features", 16, 0.074, gpus=1, workers=8),
    "bsn_pem": Published("bsn_pem", "candidates", 16, 0.040, gpus=1, workers=8),
    "bmn": Published("bmn", "features", 8, 3.27, gpus=2, workers=8),
}
MADE_VIDEOS, MADE_FRAMES = 8, 300


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision=args.precision)
    facts = machine_facts(str(accelerator.device)) | {"date": date.today().isoformat()}
    is_first = accelerator.is_main_process
    if is_first:
        count = accelerator.num_processes
        print(f"{describe_machine(facts)}, {count} process{'es' * (count > 1)}, precision {args.precision}")
        print(f"{'':<18}{'s/iter':>9}{'data':>8}{'GB':>7}   {'published':>9}{'GB':>6}   measured on")
    rows = []
    with tempfile.TemporaryDirectory(prefix="siter") as folder:
        for name in args.rows or ROWS:
            rows.append(measure(name, args, accelerator, Path(folder)) | facts)
            if is_first:
                print(describe(rows[-1]), flush=True)
    if is_first and args.out:
        write_page(args.out, csv_text(rows))
        print(f"wrote {args.out}")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", choices=list(ROWS), metavar="ROW", help=f"default all: {', '.join(ROWS)}")
    add("--data", action="append", default=[], metavar="DATASET=DIR", help="k400, k400_dense, anet: folders of data")
    add("--batch-size", type=int, metavar="N", help="clips of one process in place of the row's")
    add("--workers", type=int, metavar="N", help="reading processes of one process in place of the row's")
    add("--size", type=int, default=224, metavar="PIXELS", help="of the clips (default 224)")
    add("--iterations", type=int, default=100, metavar="N", help="that are timed (default 100)")
    add("--warm", type=int, default=50, metavar="N", help="iterations before them (default 50)")
    add("--precision", choices=("no", "bf16", "fp16"), default="no", help="autocast (default no: float32)")
    add("--tf32", action="store_true", help="let float32 products of a GPU round to TF32")
    add("--device", choices=("auto", "cpu"), default="auto")
    add("--out", type=Path, metavar="FILE.csv", help="write the rows")
    return parser.parse_args(argv)


# Measuring -----------------------------------------------------------------------------------------------------------


def measure(name: str, args: argparse.Namespace, accelerator: Any, folder: Path) -> dict[str, Any]:
    """One row, in all processes alike."""
    row = ROWS[name]
    batch, workers = args.batch_size or row.batch, row.workers if args.workers is None else args.workers
    data, is_made = find_data(row, args, accelerator, folder)
    model = videozoo.create_model(row.model, pretrained=False, num_classes=0 if is_localizer(row) else data.num_classes)
    config = training_config(row, batch, workers, args)
    task = make_task(model, data, None, config, accelerator)
    model.to(accelerator.device).train()
    batches = ClipBatches(data, batch, rank=accelerator.process_index, world=accelerator.num_processes)
    loader = training_loader(task.clips, batches, workers, accelerator.device, task.collate)
    network, optimizer = accelerator.prepare(task.network(model), make_optimizer(model, config, config.lr))
    waiting = Waiting(endless(loader))
    on_gpu = accelerator.device.type == "cuda"
    steps = training_steps(network, waiting, optimizer, accelerator, task, config=config)
    marks = []
    for number, step in enumerate(steps):
        step.loss.item()  # waits for the device
        marks.append((time.perf_counter(), waiting.seconds))
        if number == args.warm + args.iterations - 1:
            break
    (start, waited), (end, waited_in_all) = marks[args.warm - 1], marks[-1]
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    return {
        "row": name,
        "model": row.model,
        "s_per_iter": round((end - start) / args.iterations, 4),
        "data_s": round((waited_in_all - waited) / args.iterations, 4),
        "gpu_mem": None if memory is None else round(memory, 2),
        "batch": batch,
        "gpus": accelerator.num_processes if on_gpu else 0,
        "processes": accelerator.num_processes,
        "workers": workers,
        "source": row.source,
        "made_data": is_made,
        "published_s_per_iter": row.seconds,
        "published_gpu_mem": row.memory,
        "published_batch": row.batch,
        "published_gpus": row.gpus,
        "iterations": args.iterations,
        "warm": args.warm,
        "precision": args.precision,
    }


def is_localizer(row: Published) -> bool:
    return row.source in ("features", "candidates")


def training_config(row: Published, batch: int, workers: int, args: argparse.Namespace) -> TrainConfig:
    """Plain SGD in float32 as the published runs; clips are resized to 256, cropped at random, resized and mirrored."""
    shared = {"batch_size": batch, "workers": workers, "precision": args.precision, "lr": 1e-3, "scale_lr": False}
    if is_localizer(row):
        return TrainConfig(**shared, **NOT_FOR_LOCALIZERS)
    frames, stride, clips = row.sampling
    data = {"sampling": "uniform", "num_frames": frames, "stride": stride, "segments": clips, "size": args.size}
    return TrainConfig(**shared, data=data)


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        loader.batch_sampler.epoch += 1
        yield from loader


class Waiting:
    """Batches, and the seconds that were spent waiting for them."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - start
        return batch


def describe(row: dict[str, Any]) -> str:
    memory = "-" if row["gpu_mem"] is None else f"{row['gpu_mem']:.1f}"
    published = "-" if row["published_gpu_mem"] is None else f"{row['published_gpu_mem']:.1f}"
    where = f"{row['gpus']} GPUs" if row["gpus"] else "CPU"
    made = "made " if row["made_data"] else ""
    remark = "" if row["batch"] == row["published_batch"] else f" (published: {row['published_batch']})"
    return (
        f"{row['row']:<18}{row['s_per_iter']:9.3f}{row['data_s']:8.3f}{memory:>7}   "
        f"{row['published_s_per_iter']:9.3f}{published:>6}   "
        f"{where}, batch {row['batch']}{remark}, {row['workers']} workers, {made}{row['source']}"
    )


# Data ----------------------------------------------------------------------------------------------------------------


def find_data(row: Published, args: argparse.Namespace, accelerator: Any, folder: Path) -> tuple[Any, bool]:
    """The data of a row, and whether they were made for it."""
    roots = dict(item.split("=", 1) for item in args.data)
    key = "anet" if row.source == "features" else "k400_dense" if row.source == "dense" else "k400"
    if row.source != "candidates" and key in roots:
        if key == "anet":
            return load_feature_set(roots[key], "train"), False
        data = load_dataset("k400", roots[key], split="train")
        if (data.kind == "rawframes") == (row.source == "rawframes"):
            return data, False
    count = max(MADE_VIDEOS, (args.batch_size or row.batch) * accelerator.num_processes)
    with accelerator.main_process_first():  # the folder of each process is its own: nothing is written twice
        make = {"features": made_features, "candidates": made_candidates}.get(row.source, made_videos)
        return make(row, count, folder), True


def made_videos(row: Published, count: int, folder: Path) -> Dataset:
    """One film of ten seconds, 340 x 256, under as many names as there are clips in a batch."""
    film = folder / ("dense.mp4" if row.source == "dense" else "film.mp4")
    if not film.exists():
        make_video(film, 340, 256, MADE_FRAMES, key_frames=16 if row.source == "dense" else 250)
    name, kind = film.name, "videos"
    if row.source == "rawframes":
        name, kind = "frames", "rawframes"
        if not (folder / name).exists():
            extract_frames(Job(str(film), str(folder / name)))
    samples = [Sample(name, number % 400, num_frames=MADE_FRAMES) for number in range(count)]
    classes = [str(number) for number in range(400)]
    return Dataset("made", "train", samples, folder, kind, classes, num_classes=400, source=folder)


def made_features(row: Published, count: int, folder: Path) -> FeatureSet:
    """Random features 100 x 400 with two segments a video."""
    draw = np.random.default_rng(0)
    samples = []
    for number in range(count):
        np.save(folder / f"v_{number}.npy", draw.normal(size=(100, 400)).astype(np.float32))
        segments = [[10.0, 30.0], [50.0, 55.0]]
        extra = {"segments": segments, "normalized": np.array(segments) / 100, "duration": 100.0}
        samples.append(Sample(f"v_{number}", -1, num_frames=3000, extra=extra))
    return FeatureSet("made", "train", samples, (folder,), folder)


def made_candidates(row: Published, count: int, folder: Path) -> CandidateSet:
    """Random descriptions of 500 candidates a video."""
    draw = np.random.default_rng(0)
    found = CandidateSet(made_features(row, count, folder), None)
    for number in range(count):
        found.descriptions[number] = draw.random((500, 32), np.float32)
        found.overlaps[number] = draw.random(500, np.float32)
    return found


if __name__ == "__main__":
    sys.exit(main())
