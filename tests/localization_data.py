"""Generated features with segments that can be learned, on disk as ActivityNet is, and small networks for them."""

import json

import numpy as np
import torch

import videozoo
from videozoo.models.ssn import SSN

WIDTH, POSITIONS = 8, 20
STRIDE, FPS = 16, 32.0


@videozoo.register_model
def small_ssn(**kwargs):
    """SSN on a ResNet-18."""
    return SSN(18, **{"drop_rate": 0.0, **kwargs})


def generated_videos(count, width=WIDTH, positions=POSITIONS, seed=0, shift=0.0):
    """Features with a mark inside each segment and at its borders, and the segments, `shift` positions later."""
    rng = np.random.default_rng(seed)
    features = 0.3 * rng.standard_normal((count, width, positions)).astype(np.float32)
    segments = []
    for video in features:
        start, length = rng.integers(1, positions // 2), rng.integers(3, positions // 2 - 1)
        video[0, start : start + length] += 2
        video[1, start] += 2
        video[2, start + length] += 2
        segments.append([((start + shift) / positions, (start + length + shift) / positions)])
    return torch.from_numpy(features), segments


def write_split(root, split, count, seed, shift=0.0, labels=("Archery", "Kayaking")):
    """`anet_anno_SPLIT.json` and `features/v_SPLIT0.npy`, ...; returns features and segments."""
    features, segments = generated_videos(count, seed=seed, shift=shift)
    (root / "features").mkdir(parents=True, exist_ok=True)
    frames, table = POSITIONS * STRIDE, {}
    seconds = frames / FPS
    for number, (rows, found) in enumerate(zip(features, segments, strict=True)):
        name = f"v_{split}{number}"
        np.save(root / "features" / f"{name}.npy", rows.numpy().T)
        label = labels[number % len(labels)]
        annotations = [{"segment": [a * seconds, b * seconds], "label": label} for a, b in found]
        table[name] = {
            "duration_second": seconds,
            "duration_frame": frames,
            "feature_frame": frames,
            "annotations": annotations,
        }
    (root / f"anet_anno_{split}.json").write_text(json.dumps(table))
    return features, segments


def save_small(name, folder, **kwargs):
    """A small localiser with random weights as a folder that `local-dir:` takes; the model and its name."""
    torch.manual_seed(0)
    model = videozoo.create_model(name, **kwargs).eval()
    videozoo.save_pretrained(model, folder)
    return model, f"local-dir:{folder}"


def small_bmn(folder, **kwargs):
    """BMN on `WIDTH` features and `POSITIONS` positions."""
    return save_small(
        "bmn", folder, **{"in_chans": WIDTH, "num_frames": POSITIONS, "hidden": 16, "points": 8, **kwargs}
    )


def small_bsn(folder):
    """Both networks of BSN on `WIDTH` features."""
    pairs = save_small("bsn_tem", folder / "tem", in_chans=WIDTH, hidden=16), save_small("bsn_pem", folder / "pem")
    return tuple(zip(*pairs, strict=True))
