"""Trains and measures the camera-motion model that comes with the package, and shows what it gains by seeing time.

    python -m pip install ".[train,pictures]"
    python benchmarks/camera_motion.py                                    # data, training, test of the packaged model
    python benchmarks/camera_motion.py --models tsn_r18w16_8x4 tsm_r18w16_8x4 mc3_r18w16_8x4
    python benchmarks/camera_motion.py --package                          # ... and replace the packaged weights

It makes the data set under --out, runs 'videozoo finetune --recipe camera_motion' for each model and 'videozoo eval'
on the test clips, whose pictures no other clip shows. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from videozoo import checkpoint, cli
from videozoo.catalog import packaged_weights

PACKAGED = "mc3_r18w16_8x4"


def call(*arguments: object) -> None:
    """A command of videozoo; the script ends where it fails."""
    print("videozoo", *arguments, flush=True)
    if code := cli.main([str(argument) for argument in arguments]):
        raise SystemExit(code)


def train_and_test(model: str, data: Path, out: Path, options: list[str]) -> dict[str, object]:
    start = time.monotonic()
    shared = ["--dataset", "camera_motion", "--recipe", "camera_motion", "--device", "cpu"]
    call("finetune", data, "--model", model, *shared, "--out", out / model, *options)
    minutes = (time.monotonic() - start) / 60
    results = out / f"{model}.json"
    call("eval", f"local-dir:{out / model}", "--data", data, "--split", "test", "--results-file", results)
    facts = json.loads(results.read_text())
    return {"model": model, "top1": facts["metrics"]["top1"], "videos": facts["videos"], "minutes": minutes}


def package(folder: Path) -> None:
    """The trained weights in half precision as the package's own; prints the hash that the entry needs."""
    target = packaged_weights(f"{PACKAGED}_camera_motion.safetensors")
    state = checkpoint.load_state_dict(folder / "model.safetensors")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    checkpoint.save_state_dict(halves, target)
    print(f"{target}: {target.stat().st_size / 2**20:.2f} MiB, sha256 = {checkpoint.sha256_file(target)!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/camera_motion"), help="folder for data and runs")
    parser.add_argument("--models", nargs="+", default=[PACKAGED], metavar="NAME")
    parser.add_argument("--package", action="store_true", help=f"write the weights of {PACKAGED} into the package")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of 'videozoo finetune'")
    args = parser.parse_args()
    data = args.out / "data"
    call("data", "camera-motion", data)
    rows = [train_and_test(model, data, args.out, args.options or ["--workers", "1"]) for model in args.models]
    print(f"\n{'model':<20}{'top-1':>8}{'test clips':>12}{'minutes':>10}   ({torch.get_num_threads()} threads)")
    for row in rows:
        print(f"{row['model']:<20}{row['top1']:>8.2f}{row['videos']:>12}{row['minutes']:>10.1f}")
    if args.package:
        package(args.out / PACKAGED)


if __name__ == "__main__":
    main()
