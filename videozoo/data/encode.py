"""Videos as smaller videos or as folders of frames, many at a time, resumable.

An output is written under a hidden name beside its place and moved there when it is complete. What exists is kept if it
has as many frames as its source, and made again otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .pyav import PyAVReader
from .reader import VideoError, VideoReader, open_video

__all__ = ["Job", "encode_video", "extract_frames", "run_jobs"]

_CHUNK = 32  # frames decoded together
_RETRY_ALONE = "the process that worked on it died, which damaged files can do to decoders."


@dataclass(frozen=True)
class Job:
    """A source, a target and how: `short_side` in pixels (0: as it is), `dense` key frames for `encode_video`."""

    source: str
    target: str
    short_side: int = 0
    dense: bool = False


class _ExactReader(PyAVReader):
    """Rounds colours, which decoders truncate for speed: encoding would make the loss permanent."""

    def _convert(self, frame: Any, out: np.ndarray) -> None:
        from av.video.reformatter import Interpolation

        flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        super()._convert(frame.reformat(format="rgb24", interpolation=flags), out)


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even width and height with the given short side; never larger than the source."""
    scale = min(1.0, short_side / min(width, height)) if short_side else 1.0
    return tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))


def encode_video(job: Job) -> bool:
    """Writes an H.264 mp4 without sound, with the same frames; False if a complete one is there already.

    `dense` puts a key frame every 16 frames, which makes sparse reading cheaper and the file larger.
    """
    import av

    target = Path(job.target)
    with _ExactReader(job.source, num_threads=1) as video:
        if _frames_in(target) == len(video):
            return False
        width, height = scaled_size(video.width, video.height, job.short_side)
        part = target.with_name(f".{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with av.open(part, "w", format="mp4") as container:
                stream = container.add_stream("libx264", rate=_rate(video.fps))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.thread_count = 1
                stream.options = {"crf": "18", "preset": "medium", **({"g": "16"} if job.dense else {})}
                for image in _images(video):
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    return True


def extract_frames(job: Job) -> bool:
    """Writes `img_00001.jpg`, ... into the target folder; False if it is complete already."""
    from PIL import Image

    target = Path(job.target)
    with open_video(job.source, num_threads=1) as video:
        if target.is_dir() and len(list(target.glob("img_*.jpg"))) == len(video):
            return False
        size = scaled_size(video.width, video.height, job.short_side) if job.short_side else (video.width, video.height)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for number, array in enumerate(_images(video), 1):
                image = Image.fromarray(array)
                image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
                image.save(part / f"img_{number:05d}.jpg", quality=95)
            if target.exists():
                shutil.rmtree(target)
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def _frames_in(path: Path) -> int:
    """Frames of a video; -1 if there is none, or a damaged one."""
    try:
        with open_video(path, num_threads=1) as video:
            return len(video)
    except VideoError:
        return -1


def _rate(fps: float) -> Fraction:
    return Fraction(fps or 25.0).limit_denominator(1001)


def _images(video: VideoReader) -> Iterator[np.ndarray]:
    for start in range(0, len(video), _CHUNK):
        yield from video.get(range(start, min(start + _CHUNK, len(video))))


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], *, workers: int = 0, progress: bool = False, title: str = ""
) -> Iterator[tuple[int, Any]]:
    """`(number, result)` of every job as it finishes; the result is the exception for a job that failed with a
    `VideoError` or `OSError`, or whose process died. `workers` 0 means one for each core, 1 stays in this process.
    RuntimeError if no worker can start.
    """
    from tqdm import tqdm

    workers = min(workers or os.cpu_count() or 1, len(jobs))
    results = _inline(function, jobs) if workers <= 1 else _parallel(function, jobs, workers)
    yield from tqdm(results, total=len(jobs), desc=title, unit="video", disable=not progress)


def _attempt(function: Callable[[Any], Any], job: Any) -> Any:
    try:
        return function(job)
    except (VideoError, OSError) as error:
        return error


def _inline(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    for number, job in enumerate(jobs):
        yield number, _attempt(function, job)


def _pool(workers: int) -> ProcessPoolExecutor:
    """New processes that do not inherit the state of this one, cheap ones where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(workers, mp_context=context)


def _parallel(function: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """A dead process breaks its whole pool: the jobs under way are then repeated one by one, each in a new one."""
    waiting, pool = deque(range(len(jobs))), _pool(workers)
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise RuntimeError(
            "worker processes cannot start. In a script, call this below 'if __name__ == \"__main__\":', since every "
            "worker imports the script; or use workers=1."
        ) from None
    running: dict[Future, int] = {}
    try:
        while waiting or running:
            broken = not _submit(pool, function, jobs, waiting, running, 2 * workers)
            done = wait(running, return_when=FIRST_COMPLETED).done
            if broken or any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                pool.shutdown()
                for future, number in running.items():
                    intact = future.exception() is None
                    yield number, future.result() if intact else _alone(function, jobs[number])
                pool, running = _pool(workers), {}
                continue
            for future in done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    waiting: deque[int],
    running: dict[Future, int],
    limit: int,
) -> bool:
    """Starts jobs until `limit` are under way; False if the pool is broken."""
    while waiting and len(running) < limit:
        try:
            running[pool.submit(_attempt, function, jobs[waiting[0]])] = waiting[0]
        except BrokenProcessPool:
            return False
        waiting.popleft()
    return True


def _alone(function: Callable[[Any], Any], job: Any) -> Any:
    with _pool(1) as pool:
        try:
            return pool.submit(_attempt, function, job).result()
        except BrokenProcessPool:
            return VideoError(getattr(job, "source", job), _RETRY_ALONE)
