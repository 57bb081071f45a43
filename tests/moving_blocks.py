"""Videos to learn from: a bright block over a dark ground, which moves to the left or to the right."""

from pathlib import Path

import numpy as np

SIZE = 32
INPUT = {"size": SIZE, "resize": SIZE, "clips": 1, "crops": 1}
MOVES = ((False, "left"), (True, "right"))


def moving_block(right: bool, seed: int, count: int = 12) -> np.ndarray:
    """uint8 frames (T, H, W, 3); the ground tells nothing."""
    rng = np.random.default_rng(seed)
    frames = np.full((count, SIZE, SIZE + 16, 3), rng.integers(0, 80, 3), np.uint8)
    y, color = rng.integers(4, 16), rng.integers(160, 256, 3)
    for t in range(count):
        x = 2 + 3 * t if right else SIZE + 2 - 3 * t
        frames[t, y : y + 10, max(x, 0) : x + 10] = color
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def write_videos(root: Path) -> Path:
    """Four videos a class for training and two for validation: ``root/SPLIT/CLASS/NUMBER.mp4``."""
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        for right, name in MOVES:
            for number in numbers:
                write_video(root / split / name / f"{number}.mp4", moving_block(right, 10 * number + right))
    return root
