"""Features of a video: the output of every stage for one view, and one vector for the whole video.

    python examples/features.py clip.mp4 --out features.npz
    python examples/features.py clip.mp4 --model tsm_r50_f8_ssv2

The file holds `video`, the mean over all views of what the classifier would see, and `views`, one row a view.
"""

import argparse

import numpy as np
import torch

import videozoo


def shapes(stage: torch.Tensor | tuple[torch.Tensor, ...]) -> str:
    """Models with several pathways, such as SlowFast, give a tensor for each."""
    tensors = stage if isinstance(stage, tuple) else (stage,)
    return ", ".join(" x ".join(map(str, tensor.shape[1:])) for tensor in tensors)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="video file, or folder of JPEG frames")
    parser.add_argument("--model", default="slowonly_r50_k400", help="see 'videozoo list'")
    parser.add_argument("--checkpoint", help="weights to load instead of the published ones")
    parser.add_argument("--out", help="file.npz to write")
    args = parser.parse_args()

    # num_classes=0: no classifier, the model returns pooled features. For stages alone there is features_only=True.
    model = videozoo.create_model(
        args.model, pretrained=not args.checkpoint, checkpoint_path=args.checkpoint, num_classes=0
    ).eval()
    transform = videozoo.create_transform(model)
    with videozoo.open_video(args.video) as video:
        views = transform.views(video)  # uint8, cut out on demand: as floats all at once they would be large

    final, stages = model.forward_intermediates(transform.normalize(views[:1]))
    print(f"one view, {len(stages)} stages (channels x time x height x width):")
    for level, stage in zip(model.feature_info, stages, strict=True):
        print(f"  {level['module']}: {shapes(stage)}")

    rows = [model.forward_head(final)] + [model(transform.normalize(views[i : i + 1])) for i in range(1, len(views))]
    pooled = torch.cat(rows)  # (views, features)
    print(f"whole video: {len(views)} views of {model.num_features} features")
    if args.out:
        np.savez(args.out, video=pooled.mean(0).numpy(), views=pooled.numpy())


if __name__ == "__main__":
    main()
