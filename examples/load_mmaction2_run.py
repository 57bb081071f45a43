"""A checkpoint that you trained with MMAction2, on classes of your own, without MMAction2.

    python examples/load_mmaction2_run.py work_dirs/run/epoch_50.pth clip.mp4 --model tsm_r50_f8_k400 \
        --labels classes.txt --out my-model

classes.txt has a class name a line, in the order of the labels. --model is the entry whose network and test protocol
the run had; MMAction2's name for its configuration (tsm_r50_1x1x8_50e_kinetics400_rgb) works too. After --out,
`videozoo predict clip.mp4 --model local-dir:my-model` needs neither this script nor the checkpoint.
"""

import argparse
from pathlib import Path

import videozoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="file of the run: latest.pth, epoch_50.pth, ...")
    parser.add_argument("video")
    parser.add_argument("--model", required=True, help="see 'videozoo list'")
    parser.add_argument("--labels", required=True, type=Path, help="text file with a class name a line")
    parser.add_argument("--out", help="folder to save the model in")
    args = parser.parse_args()

    labels = args.labels.read_text(encoding="utf-8").split("\n")
    labels = [label.strip() for label in labels if label.strip()]
    # create_model(..., num_classes=n, checkpoint_path=file) loads it too, but for an n that is not the file's, as
    # transfer learning wants it, with a new classifier. load_checkpoint is strict: all weights must fit.
    model = videozoo.create_model(args.model, num_classes=len(labels))
    videozoo.load_checkpoint(model, args.checkpoint)
    model.pretrained_cfg["label_names"] = labels
    for label, probability in videozoo.predict(model, args.video):
        print(f"{100 * probability:5.1f} %  {label}")
    if args.out:
        videozoo.save_pretrained(model, args.out, labels=labels)


if __name__ == "__main__":
    main()
