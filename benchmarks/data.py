"""Reading of clips: this package beside decord as mmaction2 uses it, and torchcodec, in turns in one run.

    python benchmarks/data.py                              # videos made for it: 340x256 and 1280x720, key frames rare
    python benchmarks/data.py --videos a.mp4 b.mp4 --rounds 9
    python benchmarks/data.py --workers 0 1 2 4            # also clips/s of a DataLoader, beside other libraries

Each access opens the file, reads the frames of a clip or a test and closes it, with one decoder thread; ours reads
each frame once, as `create_transform` does, which cuts all views from it. Before anything is timed, the frames of all
readers are compared; those of other readers that differ are told, and a difference of our fast ways from plain decoding
is an error. Transforms are timed beside those of mmaction2, PyTorchVideo and torchvision. Libraries that are not
installed are left out. Rows go to OUT.csv.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import missing_peers
from pipelines import PIPELINES, reads_videos, training_loader

from videozoo.benchmark import interleave, relative_difference
from videozoo.data import open_video
from videozoo.data.packets import MEMORY, file_key
from videozoo.data.sampling import uniform_clips
from videozoo.data.transforms import resize
from videozoo.evaluation.report import write_page
from videozoo.evaluation.result import csv_text
from videozoo.machine import describe_machine, machine_facts

OURS, CACHED = "videozoo", "videozoo, opened before"
RESIZED, SCALED = "videozoo, resized to 256", "videozoo, size=256"
FAST = "videozoo, resize_backend=decoder"
MADE = {"256p": (340, 256), "720p": (1280, 720)}

Read = Callable[[str, np.ndarray], np.ndarray]


def main(argv: list[str] | None = None) -> int:
    """Compare, time and write; returns 1 if our own frames depend on how they are read."""
    args = parse(argv)
    facts = machine_facts() | {"date": date.today().isoformat()}
    print(describe_machine(facts))
    readers = available_readers()
    for name, reason in missing_peers().items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        videos = args.videos or [make_video(Path(folder) / f"{k}.mp4", *size, args.frames) for k, size in MADE.items()]
        for video in map(str, videos):
            for name, clips in accesses(video).items():
                rows += measure(video, name, clips, readers, args)
            rows += transform_rows(video, args)
        if args.workers:
            rows += loader_rows(str(videos[0]), args)
    if args.out:
        keys = list(dict.fromkeys(key for row in rows for key in row))
        write_page(args.out, csv_text([{key: row.get(key, "") for key in keys} | facts for row in rows]))
        print(f"wrote {args.out}")
    return 1 if any(row.get("frames_equal") == "NO" for row in rows) else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", nargs="+", type=Path, metavar="FILE", help="videos to read in place of made ones")
    add("--frames", type=int, default=300, metavar="N", help="length of the made videos (default 300)")
    add("--rounds", type=int, default=7, metavar="N", help="timed reads of each kind (default 7)")
    add("--workers", nargs="*", type=int, default=[], metavar="N", help="numbers of DataLoader workers to time")
    add("--clips", type=int, default=48, metavar="N", help="clips of one timing of the DataLoader (default 48)")
    add("--out", type=Path, metavar="FILE.csv", help="write the rows")
    return parser.parse_args(argv)


def make_video(path: Path, width: int, height: int, frames: int, key_frames: int = 250) -> Path:
    """H.264 with one key frame in so many: coloured patches that drift over a still texture, with a little noise."""
    import av

    draw = np.random.default_rng(0)
    texture = draw.integers(60, 200, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
    still = np.kron(texture, np.ones((16, 16, 1), np.uint8))[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=30, options={"crf": "23", "preset": "veryfast", "g": str(key_frames)}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            image = np.roll(still, (number, 2 * number), (0, 1)) // 2 + still // 2
            image = image + draw.integers(0, 6, (height, width, 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    return path


def accesses(video: str) -> dict[str, np.ndarray]:
    """Frame numbers (clips, frames) of three reads: segments of the video, a dense clip, a test of ten of these."""
    with open_video(video) as reader:
        count = len(reader)
    reads = {"8 uniform": (1, 1, 8), "32x2": (32, 2, 1), "10 x 32x2": (32, 2, 10)}
    return {
        name: uniform_clips(count, frames=frames, stride=stride, clips=number).reshape(number, -1)
        for name, (frames, stride, number) in reads.items()
    }


# Readers -------------------------------------------------------------------------------------------------------------


def read_ours(video: str, frames: np.ndarray) -> np.ndarray:
    """As if the file had never been opened."""
    MEMORY.forget(file_key(video))
    return read_again(video, frames)


def read_again(video: str, frames: np.ndarray, size: int | None = None) -> np.ndarray:
    with open_video(video, num_threads=1, size=size) as reader:
        return reader.get(np.unique(frames))


def read_resized(video: str, frames: np.ndarray) -> np.ndarray:
    """With the resizing of the published protocols after decoding."""
    images = torch.from_numpy(read_again(video, frames))
    return resize(images, (-1, 256)).numpy()


def read_scaled(video: str, frames: np.ndarray) -> np.ndarray:
    return read_again(video, frames, size=256)


def read_decord(video: str, frames: np.ndarray) -> np.ndarray:
    """mmaction2's way: the file as bytes, one thread, all frames of all clips in one call."""
    import decord

    reader = decord.VideoReader(io.BytesIO(Path(video).read_bytes()), num_threads=1)
    return reader.get_batch(frames).asnumpy()


def read_decord_by_clip(video: str, clips: np.ndarray) -> np.ndarray:
    """One call for each clip of (clips, frames)."""
    import decord

    reader = decord.VideoReader(io.BytesIO(Path(video).read_bytes()), num_threads=1)
    return np.concatenate([reader.get_batch(frames).asnumpy() for frames in clips])


def read_torchcodec(video: str, frames: np.ndarray) -> np.ndarray:
    with open_video(video, reader="torchcodec", num_threads=1) as reader:
        return reader.get(frames)


def available_readers() -> dict[str, Read]:
    """Readers by name; what cannot be imported is told."""
    found: dict[str, Read] = {OURS: read_ours, CACHED: read_again}
    found |= {RESIZED: read_resized, SCALED: read_scaled}
    try:
        import decord  # noqa: F401

        found["decord"] = read_decord
    except (ImportError, OSError) as error:
        print(f"decord is left out: it cannot be imported ({error})", file=sys.stderr)
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401

        found["torchcodec"] = read_torchcodec
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        print(f"torchcodec is left out: it cannot be imported ({reason})", file=sys.stderr)
    return found


def plain_frames(video: str, wanted: set[int]) -> np.ndarray:
    """The wanted frames in order, of a file that is decoded from the start in the simplest way there is."""
    import av

    images = {}
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                images[number] = frame.to_ndarray(format="rgb24")
    return np.stack([images[number] for number in sorted(wanted)])


def measure(video: str, access: str, clips: np.ndarray, readers: dict[str, Read], args: Any) -> list[dict[str, Any]]:
    """Rows of one access: time of each reader, and the factor against decord."""
    frames = clips.reshape(-1)
    if "decord" in readers and min(clips.shape) > 1:
        readers = readers | {"decord, clip by clip": lambda video, _: read_decord_by_clip(video, clips)}
    distinct, first = np.unique(frames, return_index=True)
    expected = plain_frames(video, set(distinct.tolist()))
    equal = {}
    for name, read in readers.items():
        images = read(video, frames)
        images = images if len(images) == len(distinct) else images[first]
        same = images.shape == expected.shape and np.array_equal(images, expected)
        equal[name] = (
            "scaled" if name in (RESIZED, SCALED) else "yes" if same else "NO" if name in (OURS, CACHED) else "no"
        )
    steps = {name: lambda read=read: read(video, frames) for name, read in readers.items()}
    timings = interleave(steps, rounds=args.rounds)
    peer = timings.get("decord")
    height, width = expected.shape[1:3]
    print(
        f"\n{Path(video).stem} ({width}x{height}), {access}: {len(frames)} frames, {len(set(frames.tolist()))} distinct"
    )
    rows = []
    for name, timing in timings.items():
        ratio = peer.median / timing.median if peer else None
        rows.append(
            {"video": Path(video).stem, "size": f"{width}x{height}", "access": access, "reader": name}
            | {"median_ms": round(1e3 * timing.median, 2), "best_ms": round(1e3 * timing.best, 2)}
            | {"spread": round(timing.spread, 3), "ratio": round(ratio, 3) if ratio else "", "rounds": args.rounds}
            | {"ratio_of_best": round(peer.best / timing.best, 3) if peer else "", "frames_equal": equal[name]}
        )
        factor = f"{ratio:6.2f} x decord's speed (best {peer.best / timing.best:.2f})" if peer else ""
        print(f"  {name:<26}{1e3 * timing.median:9.1f} ms{factor}   frames equal: {equal[name]}", flush=True)
    return rows


# Whole pipelines ----------------------------------------------------------------------------------------------------


def available_pipelines(frames: int, stride: int) -> dict[str, Any]:
    """How each library that is installed makes clips of 224 pixels, ours also with resizing in the decoder."""
    found = {name: PIPELINES[name](frames, stride, 224) for name in PIPELINES if name not in missing_peers()}
    return {OURS: found.pop(OURS), FAST: PIPELINES[OURS](frames, stride, 224, "decoder"), **found}


@contextmanager
def one_thread() -> Iterator[None]:
    """torch, and OpenCV where another library has loaded it, with one thread within the block."""
    threads, opencv = torch.get_num_threads(), sys.modules.get("cv2")
    torch.set_num_threads(1)
    if opencv:
        opencv.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if opencv:
            opencv.setNumThreads(-1)


def transform_rows(video: str, args: Any) -> list[dict[str, Any]]:
    """Milliseconds from 32 decoded frames to the input of a test, in one thread, as a worker has it."""
    with open_video(video) as reader:
        frames = reader.get(np.arange(32))
    pipelines = {name: pipeline for name, pipeline in available_pipelines(32, 2).items() if name != FAST}
    inputs = {name: pipeline.test_clip(frames) for name, pipeline in pipelines.items()}
    steps = {name: lambda pipeline=pipeline: pipeline.test_clip(frames) for name, pipeline in pipelines.items()}
    with one_thread():
        timings = interleave(steps, rounds=args.rounds)
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    print(f"\nTransform, 32 decoded frames of {Path(video).stem} ({size}): short side 256, centre of 224, normalised")
    best = min((timing.median for name, timing in timings.items() if name != OURS), default=None)
    rows = []
    for name, timing in timings.items():
        apart = relative_difference(inputs[name], inputs[OURS])
        rows.append(
            {"video": Path(video).stem, "size": size, "access": "transform", "reader": name, "rounds": args.rounds}
            | {"median_ms": round(1e3 * timing.median, 2), "best_ms": round(1e3 * timing.best, 2)}
            | {"spread": round(timing.spread, 3), "ratio": round(best / timing.median, 3) if best else ""}
            | {"difference": "" if name == OURS else f"{apart:.1e}"}
        )
        factor = f"{best / timing.median:6.2f} x the fastest other's speed" if best else ""
        print(f"  {name:<34}{1e3 * timing.median:9.1f} ms{factor}   differs from ours by {apart:.1e}", flush=True)
    return rows


def loader_rows(video: str, args: Any) -> list[dict[str, Any]]:
    """Clips a second that a DataLoader gives, ready for the network, against the number of workers."""
    print(f"\nDataLoader, clips of 8 x 8 frames of {Path(video).stem}, cropped and resized to 224, batches of 4")
    pipelines = {name: pipeline for name, pipeline in available_pipelines(8, 8).items() if reads_videos(type(pipeline))}
    rows = []
    for workers in args.workers:
        steps = {name: drain(pipeline, video, args.clips, workers) for name, pipeline in pipelines.items()}
        timings = interleave(steps, rounds=args.rounds)
        best = min((timing.median for name, timing in timings.items() if name not in (OURS, FAST)), default=None)
        for name, timing in timings.items():
            ratio = round(best / timing.median, 3) if best else ""
            rows.append(
                {"video": Path(video).stem, "access": "DataLoader", "reader": name, "workers": workers}
                | {"clips_per_s": round(args.clips / timing.median, 2), "spread": round(timing.spread, 3)}
                | {"ratio": ratio, "rounds": args.rounds}
            )
            factor = f"{ratio:6.2f} x the fastest other" if best else ""
            print(f"  {workers} workers, {name:<34}{args.clips / timing.median:7.1f} clips/s{factor}", flush=True)
    return rows


def drain(pipeline: Any, video: str, clips: int, workers: int) -> Callable[[], None]:
    """A step that reads all clips once; the first call starts the workers."""
    loader = training_loader(pipeline, video, clips, 4, workers)

    def step() -> None:
        for batch in loader:
            pipeline.network_input(batch)

    return step


if __name__ == "__main__":
    sys.exit(main())
