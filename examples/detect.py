"""Who does what in a video: persons, their boxes and their actions, second by second.

    python examples/detect.py street.mp4 --out street_actions.mp4
    python examples/detect.py street.mp4 --boxes persons.json --every 0.5

Persons are found by torchvision's detector, unless --boxes has them: {"frames": {"15": [[x1, y1, x2, y2, score], ...]}}
"""

import argparse

import torch

import videozoo
from videozoo.detection.boxes import top_actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="video file, or folder of JPEG frames")
    parser.add_argument("--model", default="slowfast_r50_ava21", help="see 'videozoo list --task detection'")
    parser.add_argument("--checkpoint", help="weights to load instead of the published ones")
    parser.add_argument("--boxes", help="JSON file with the persons")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one look to the next")
    parser.add_argument("--out", help="annotated video to write")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = videozoo.create_model(args.model, pretrained=not args.checkpoint, checkpoint_path=args.checkpoint).eval()
    # For a clip of your own there is the model itself: model(clip, [boxes]) -> (K, classes) logits. For a detector of
    # your own, a function in place of the file: from a frame, uint8 (H, W, 3), to rows x1, y1, x2, y2, score.
    found = videozoo.detect(model, args.video, args.boxes, every=args.every, out=args.out, device=device)
    fps = found.video["fps"] or 25.0
    for moment in found.moments:
        print(f"{moment.frame / fps:7.2f} s, persons: {len(moment.numbers)}")
        for number, box, row in zip(moment.numbers, moment.boxes, moment.probabilities, strict=True):
            actions = ", ".join(f"{label} {p:.2f}" for label, p in top_actions(row.tolist(), found.labels, 3))
            print(f"  person {number} at {box[:4].round().astype(int).tolist()}: {actions}")


if __name__ == "__main__":
    main()
