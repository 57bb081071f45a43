"""Write a model as ONNX and classify a video with onnxruntime alone; needs pip install "videozoo[export]".

    python examples/export.py clip.mp4
    python examples/export.py clip.mp4 --model tsm_r50_k400 --out tsm.onnx

The published weights are downloaded once; --checkpoint loads a file of your own in their place.
"""

import argparse
import json

import numpy as np
import onnxruntime

import videozoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--model", default="mc3_r18w16_8x4_camera_motion", help="see 'videozoo list'")
    parser.add_argument("--checkpoint", help="weights to load instead of the published ones")
    parser.add_argument("--out", default="model.onnx", help="file to write")
    parser.add_argument("--topk", type=int, default=5, help="labels to show")
    args = parser.parse_args()

    model = videozoo.create_model(args.model, pretrained=not args.checkpoint, checkpoint_path=args.checkpoint).eval()
    done = videozoo.export_model(model, args.out)
    print(f"{done.path}: differs from the model by {done.deviation:.0e}")

    # From here on the file is enough; of videozoo only the transform is used, to read, crop and normalise the video.
    session = onnxruntime.InferenceSession(args.out, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["videozoo"])
    views = videozoo.create_transform(facts["data_config"])(args.video)  # (views, C, T, H, W)
    logits = np.concatenate([session.run(None, {"clips": view[None].numpy()})[0] for view in views])
    if facts["multi_label"]:
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
    scores = scores.mean(0)
    for index in np.argsort(-scores)[: args.topk]:
        print(f"  {100 * scores[index]:5.1f} %  {facts['labels'][index]}")


if __name__ == "__main__":
    main()
