"""``videozoo predict --webcam`` and ``--follow``: running scores. Torch and decoders are imported when they run."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TextIO

from ..console import bar, create_from_args, optimize_from_args, pick_device, positive, say, stopped_by_sigterm

if TYPE_CHECKING:
    from ..data.live import LiveVideo
    from .stream import Stream, StreamScores

IDLE = 10.0  # seconds
OPTIONS = ("every", "window", "fps", "idle")  # that only live video has


def add_live_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of live video to ``predict``."""
    add = parser.add_argument_group(
        "live video", "scores while it goes on, of the newest frames; Ctrl-C ends it. --views is 'fast' by default."
    ).add_argument
    add("--webcam", metavar="N", help="a camera of this machine, by number or name")
    add("--follow", metavar="URL|FILE", help="rtsp://, http://, ... or a file that is being written")
    add("--every", type=positive, metavar="N", help="frames from one prediction to the next (default 8)")
    add("--window", type=positive, metavar="N", help="frames that a prediction is about (default: the model's own)")
    add("--fps", type=_above_zero, metavar="RATE", help="frames a second to look at (default: all that come)")
    add("--idle", type=_above_zero, metavar="SECONDS", help=f"end when nothing has come for so long (default {IDLE:g})")


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def is_live(args: argparse.Namespace) -> bool:
    """Whether ``predict`` was given live video; wrong combinations of options are told and end the command."""
    sources = [bool(args.videos), args.webcam is not None, args.follow is not None]
    if sum(sources) != 1:
        args.usage_error("give one of: VIDEO, --webcam N, --follow URL|FILE")
    if args.videos:
        for name in OPTIONS:
            if getattr(args, name) is not None:
                args.usage_error(f"--{name} is for live video: give --webcam or --follow in place of {args.videos[0]}")
        return False
    if args.reader not in ("auto", "pyav"):
        args.usage_error(f"--reader {args.reader} does not read live video: leave it out")
    if args.out and not args.out.endswith(".jsonl"):
        args.usage_error(f"--out {args.out}: of live video there is no page, name a FILE.jsonl for its predictions")
    return True


def predict_live(args: argparse.Namespace) -> int:
    """Show running scores until the video ends or Ctrl-C is pressed, and tell how it went."""
    from ..data.live import follow_video, open_camera
    from . import Stream

    model, _, caveat = create_from_args(args)
    if caveat:
        say(f"warning: {caveat}")
    idle = args.idle or IDLE
    options = {key: getattr(args, key) for key in ("every", "window", "fps", "views", "topk", "batch_size")}
    given = {key: value for key, value in options.items() if value is not None}
    device = pick_device(args.device)
    optimize_from_args(model, args, device)
    stream = Stream(model, device=device, **given)
    began, interrupted = time.perf_counter(), False
    opened = open_camera(args.webcam, timeout=idle) if args.follow is None else follow_video(args.follow, idle=idle)
    with opened as video, _lines(args.out) as write:
        try:
            with stopped_by_sigterm():
                _show(stream, video, args.json, caveat, write)
        except KeyboardInterrupt:
            interrupted = True
    say(_summary(stream, video, time.perf_counter() - began, interrupted))
    if args.out:
        say(f"wrote {args.out}")
    return 0


def _show(stream: Stream, video: LiveVideo, as_json: bool, caveat: str, write: Callable[[str], None]) -> None:
    from ..prediction import full_name

    name = full_name(stream.model.pretrained_cfg)
    block = Block(sys.stdout) if sys.stdout.isatty() else None
    with closing(stream.run(video, drop=video.is_live)) as results:
        for scores in results:
            line = json.dumps({"model": name, "trained": not caveat, **scores.to_dict()})
            write(line)
            if as_json:
                print(line, flush=True)
            elif block:
                block.show(_block_lines(stream, scores, video, caveat))
            else:
                print(_plain_line(scores, caveat), flush=True)


@contextmanager
def _lines(path: str | None) -> Iterator[Callable[[str], None]]:
    """Writes lines to a file as they come, so that what was seen is there whatever happens."""
    if path is None:
        yield lambda line: None
        return
    with open(path, "w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file, flush=True)


class Block:
    """Lines of a terminal that are replaced in place."""

    def __init__(self, output: TextIO) -> None:
        self._output, self._shown = output, 0

    def show(self, lines: list[str]) -> None:
        """Put these lines where those before stand, cut to the width of the terminal: none takes two rows."""
        width = shutil.get_terminal_size().columns - 1
        back = f"\x1b[{self._shown}A\x1b[J" if self._shown else ""
        print(back + "\n".join(line[:width] for line in lines), file=self._output, flush=True)
        self._shown = len(lines)


def _block_lines(stream: Stream, scores: StreamScores, video: LiveVideo, caveat: str) -> list[str]:
    width = max(len(label) for label, _ in scores.top)
    rate = f", {video.fps:.4g} a second" if video.fps else ""
    lines = [f"{video.path}{rate}  {_time(scores)}"]
    lines += [f"  {label:<{width}}  {100 * p:5.1f} %  {bar(p)}".rstrip() for label, p in scores.top]
    dropped = f", {stream.dropped} windows dropped" if stream.dropped else ""
    lines.append(f"  {stream.window} frames, every {stream.every}: prediction {stream.predictions}{dropped}")
    return lines + [f"  MEANINGLESS: {caveat}"] * bool(caveat)


def _plain_line(scores: StreamScores, caveat: str) -> str:
    labels = ", ".join(f"{label} {100 * p:.1f} %" for label, p in scores.top)
    return f"{_time(scores)}  {labels}{'  MEANINGLESS' if caveat else ''}"


def _time(scores: StreamScores) -> str:
    return f"{scores.seconds:.1f} s"


def _summary(stream: Stream, video: LiveVideo, seconds: float, interrupted: bool) -> str:
    why = "interrupted" if interrupted else video.end or "the video is over"
    text = f"{why}: {stream.predictions} predictions from {stream.frames} frames in {seconds:.1f} s"
    if stream.dropped:
        text += f"; {stream.dropped} windows dropped, for frames come faster than the model works"
    if not stream.predictions and stream.frames:
        text += f"; the first needs {stream.window} frames"
    return text + (f"; {video.broken} packets did not decode" if video.broken else "")
