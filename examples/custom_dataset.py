"""A data set in a format of your own: scenes of long videos, which a table names. Fine-tune on it and measure.

    python examples/custom_dataset.py scenes.csv --media videos --model tsm_r50_k400 --out my-model

scenes.csv has the columns video, first_frame, frames, label, split (train or val); videos are relative to --media.
A folder for each class (DIR/train/CLASS/*.mp4) needs none of this: `videozoo finetune DIR` takes it as it is.
"""

import argparse
import csv
from pathlib import Path

import videozoo
from videozoo import training
from videozoo.data import Dataset
from videozoo.data.annotations import Sample
from videozoo.evaluation import evaluate


def read_scenes(path: Path, media: Path, split: str) -> Dataset:
    """All that training and evaluation want: samples with the number of their class, and the classes' names."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})  # of all splits, so that they agree on the numbers
    samples = [
        Sample(row["video"], names.index(row["label"]), int(row["frames"]), int(row["first_frame"]))
        for row in rows
        if row["split"] == split
    ]
    return Dataset(path.stem, split, samples, media, "videos", names, len(names), source=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--media", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--model", default="tsm_r50_k400", help="see 'videozoo list'")
    parser.add_argument("--checkpoint", help="weights to start from instead of the published ones")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default="my-model", help="folder for the result")
    args = parser.parse_args()

    train, val = (read_scenes(args.table, args.media, split) for split in ("train", "val"))
    config = training.TrainConfig(epochs=args.epochs)
    model = training.prepare_model(args.model, train, config, checkpoint_path=args.checkpoint)
    training.finetune(model, train, val, args.out, config, log=print)  # goes on if it was interrupted
    best = videozoo.create_model(f"local-dir:{args.out}", pretrained=True)
    print(evaluate(best, val).metrics)


if __name__ == "__main__":
    main()
