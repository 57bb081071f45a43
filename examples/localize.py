"""When something happens in a long video: segments with a score, by BMN on the scores of a classifier of frames.

    python examples/localize.py match.mp4 --labels
    python examples/localize.py features/match.npy --model local-dir:my-bmn

A file of features (.npy, .csv, .safetensors; a row a position), as `videozoo features` writes it, saves the first step.
"""

import argparse

import torch

import videozoo
from videozoo.localization import create_localizers, localize_features, localize_video, proposal_chain
from videozoo.localization.video import feature_models, is_feature_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="video file, folder of JPEG frames, or file of features")
    parser.add_argument("--model", default="bmn_anet.mma0_clip", help="see 'videozoo list --task localization'")
    parser.add_argument("--classifier", help="what makes the features (default: what the localiser was trained with)")
    parser.add_argument("--random", action="store_true", help="random weights, to try it without a download")
    parser.add_argument("--labels", action="store_true", help="name segments by what the classifier says of the video")
    parser.add_argument("--topk", type=int, default=10)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = create_localizers(args.model, pretrained=not args.random)  # BSN is two networks, BMN one
    chain = proposal_chain([network.eval().to(device) for network in networks])
    if is_feature_file(args.source):
        found = localize_features(chain, [args.source])
    else:
        name = args.classifier or feature_models(networks[0].pretrained_cfg)[0]
        classifier = videozoo.create_model(name, pretrained=not args.random).eval()
        classes = "self" if args.labels else None
        found = localize_video(chain, [classifier], args.source, classes=classes, device=device)
    for start, end, score, label in found.segments[: args.topk]:
        print(f"{start:8.2f} to {end:8.2f} {found.unit}  score {score:.3f}  {label}".rstrip())
    if found.remark:
        print(found.remark)


if __name__ == "__main__":
    main()
