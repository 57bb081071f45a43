"""What is happening in a video: the most probable labels, by the model's own test protocol.

    python examples/predict.py clip.mp4
    python examples/predict.py *.mp4 --model tsm_r50_f8_ssv2 --topk 3 --views fast

The published weights are downloaded once; --checkpoint loads a file of your own in their place.
"""

import argparse

import torch

import videozoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", help="video files, or folders of JPEG frames")
    parser.add_argument("--model", default="slowfast_r50_k400", help="see 'videozoo list'")
    parser.add_argument("--checkpoint", help="weights to load instead of the published ones")
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--views", choices=("full", "fast"), default="full", help="fast: one clip from the middle")
    args = parser.parse_args()

    model = videozoo.create_model(args.model, pretrained=not args.checkpoint, checkpoint_path=args.checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for path in args.videos:
        print(path)
        for label, probability in videozoo.predict(model, path, args.topk, views=args.views, device=device):
            print(f"  {100 * probability:5.1f} %  {label}")


if __name__ == "__main__":
    main()
