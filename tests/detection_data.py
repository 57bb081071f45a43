"""Small generated data sets of persons who act: films with annotations in AVA's form, and videos with tubes."""

import pickle
from pathlib import Path

import av
import numpy as np

LEFT, RIGHT = (0.05, 0.2, 0.45, 0.8), (0.55, 0.2, 0.95, 0.8)  # boxes as fractions
SIDE = 64


def film(seed: int, count: int) -> np.ndarray:
    """uint8 frames (T, 64, 96, 3): on a dark ground a white person and a striped one, in turn on the left."""
    frames = np.full((count, SIDE, 96, 3), 20 + 3 * seed, np.uint8)
    for box, striped in ((LEFT, seed % 2 == 0), (RIGHT, seed % 2 == 1)):
        x1, y1, x2, y2 = (round(v * side) for v, side in zip(box, (96, SIDE, 96, SIDE), strict=True))
        frames[:, y1:y2, x1:x2] = 230
        if striped:
            frames[:, y1:y2:4, x1:x2] = 0
            frames[:, y1 + 1 : y2 : 4, x1:x2] = 0
    return frames


def write_film(path: Path, frames: np.ndarray, rate: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def write_ava(root: Path, films: int = 4, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """AVA v2.1 with ``films`` films of two seconds, second 901 being annotated: white persons stand (12), striped ones
    talk (79). The proposals are the persons; in the film before the last there is one more that nobody is in."""
    lines, proposals = [], {}
    for number in range(films):
        write_film(root / "videos" / f"film{number}.mp4", film(number, 60))
        for person, (box, action) in enumerate(zip((LEFT, RIGHT), (79, 12)[:: 1 - 2 * (number % 2)], strict=True)):
            lines.append(f"film{number},0901,{','.join(map(str, box))},{action},{person}")
        rows = [[*LEFT, 0.99], [*RIGHT, 0.95]]
        proposals[f"film{number},0901"] = np.array(rows + [[0.4, 0.0, 0.6, 0.2, 0.91]] * (number == films - 2))
    for split in splits:
        (root / f"ava_{split}_v2.1.csv").write_text("\n".join(lines) + "\n")
        name = f"ava_dense_proposals_{split}.FAIR.recall_93.9.pkl"
        (root / name).write_bytes(pickle.dumps(proposals, protocol=2))
    return root


def write_jhmdb(root: Path) -> Path:
    """JHMDB with two videos of six frames for either split; the left person of v0 stands, the right one of v1 talks."""
    table = {"labels": ["stand", "talk", *(f"other {i}" for i in range(19))], "nframes": {}, "resolution": {}}
    names = [f"{name}/v{i}" for i, name in enumerate(("stand", "talk"))]
    tubes = {}
    for i, name in enumerate(names):
        for number, frame in enumerate(film(i, 6), 1):
            path = root / "Frames" / name / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_png(path, frame)
        box = np.array((LEFT, RIGHT)[i]) * np.array([96, SIDE, 96, SIDE])
        tubes[name] = {i: [np.array([[t, *box] for t in range(1, 7)], np.float32)]}
        table["nframes"][name], table["resolution"][name] = 6, (SIDE, 96)
    table |= {"gttubes": tubes, "train_videos": [names] * 3, "test_videos": [names] * 3}
    (root / "JHMDB-GT.pkl").write_bytes(pickle.dumps(table, protocol=2))
    return root


def _write_png(path: Path, frame: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(frame).save(path)
