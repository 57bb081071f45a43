"""An architecture of your own: registered from outside the package, it is made, used and saved as any other.

    python examples/custom_architecture.py clip.mp4 --out my-model

A program that loads the folder later (local-dir:my-model) has to import the registration first.
"""

import argparse

import torch
from torch import nn

import videozoo
from videozoo.models.recognizer import Recognizer, level


class TinyNet(Recognizer):
    """A stem and two stages of 3-D convolutions; the rest (classifier, features, ...) comes from ``Recognizer``."""

    def __init__(self, width: int, num_classes: int = 400, in_chans: int = 3):
        widths = (width, 2 * width, 4 * width)
        reductions = ((1, 4), (2, 8), (4, 16))  # of time and space
        stages = [level(*stage) for stage in zip(widths, reductions, ("conv1", "layer1", "layer2"), strict=True)]
        super().__init__(num_classes=num_classes, num_features=widths[-1], in_chans=in_chans, feature_info=stages)
        self.conv1 = nn.Conv3d(in_chans, width, (1, 7, 7), (1, 4, 4), (0, 3, 3))
        self.layer1 = nn.Sequential(nn.Conv3d(width, 2 * width, 3, 2, 1), nn.BatchNorm3d(2 * width), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv3d(2 * width, 4 * width, 3, 2, 1), nn.BatchNorm3d(4 * width), nn.ReLU())
        self.init_weights()

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return (self.conv1, self.layer1, self.layer2)[index](x)


@videozoo.register_model
def tiny_w16(**kwargs):
    """The name of the function is that of the architecture."""
    return TinyNet(16, **kwargs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="video file, or folder of JPEG frames")
    parser.add_argument("--out", required=True, help="folder to save the model in")
    args = parser.parse_args()

    # What the network wants from a video travels with it: into the transform, predict, and the saved folder.
    wanted = {"sampling": {"frames": 8, "stride": 2}, "test": {"clips": 1, "resize": 128, "size": 112}}
    model = videozoo.create_model("tiny_w16", num_classes=2, pretrained_cfg_overlay=wanted).eval()
    clip = videozoo.create_transform(model)(args.video)  # (1, 3, 8, 112, 112)
    print("clip", tuple(clip.shape), "logits", tuple(model(clip).shape))
    print("stages", *(tuple(stage.shape) for stage in model.forward_intermediates(clip, intermediates_only=True)))

    videozoo.save_pretrained(model, args.out, labels=["still", "moving"])
    again = videozoo.create_model(f"local-dir:{args.out}", pretrained=True)
    print("random weights, saved and loaded:", videozoo.predict(again, args.video))


if __name__ == "__main__":
    main()
