"""What is happening right now: scores of a camera, a network stream or a growing file while it goes on.

    python examples/stream.py 0
    python examples/stream.py rtsp://192.168.0.20/stream --model slowfast_r50_k400 --every 16
    python examples/stream.py recording.mkv --idle 5

The published weights are downloaded once; --checkpoint loads a file of your own in their place. Ctrl-C ends it.
"""

import argparse
from contextlib import suppress

import torch

import videozoo
from videozoo.data import follow_video, open_camera


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="number of a camera, address of a stream, or a file that is being written")
    parser.add_argument("--model", default="mc3_r18w16_8x4_camera_motion", help="see 'videozoo list'")
    parser.add_argument("--checkpoint", help="weights to load instead of the published ones")
    parser.add_argument("--every", type=int, default=8, help="frames from one prediction to the next")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without a frame that end it")
    args = parser.parse_args()

    model = videozoo.create_model(args.model, pretrained=not args.checkpoint, checkpoint_path=args.checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = videozoo.Stream(model, every=args.every, topk=1, device=device)
    source = open_camera(args.source) if args.source.isdigit() else follow_video(args.source, idle=args.idle)
    with source, suppress(KeyboardInterrupt):
        # A camera goes on while the model works, so windows that come too fast are dropped; a recording waits.
        for scores in stream.run(source, drop=source.is_live):
            label, probability = scores.top[0]
            print(f"{scores.seconds:7.1f} s  {100 * probability:5.1f} %  {label}", flush=True)
    print(f"{stream.predictions} predictions from {stream.frames} frames, {stream.dropped} windows dropped")


if __name__ == "__main__":
    main()
