"""Video that is not finished: cameras, network streams, and files that another process is still writing.

A :class:`LiveVideo` gives frames in the order in which they come, each with its time; it has no length, and nothing can
be read twice. Files of which all is there are opened with ``open_video``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .reader import VideoError

__all__ = ["LiveVideo", "follow_video", "open_camera"]

CAMERAS = {  # platform -> FFmpeg's input of cameras, and what it calls the camera of a number
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", ""),
}
PROTOCOLS = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
# What a network stream may use: no local files, to which a playlist from elsewhere could point.
NETWORK = ",".join((*PROTOCOLS, "httpproxy", "tls", "crypto"))
POLL = 0.1  # seconds between two looks at the end of a growing file


class LiveVideo:
    """Frames as they come: iterating gives ``(frame, seconds)``, uint8 RGB ``(H, W, 3)`` and the time since the first.

    Frames come upright and in the size of the first one. Packets that do not decode are left out and counted in
    ``broken``. Iterating may go on in one thread while another one closes the video, which ends the iteration. Made by
    ``open_camera`` and ``follow_video``; a context manager.
    """

    def __init__(self, name: str, container: Any, *, is_live: bool, growing: GrowingFile | None = None) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = name
        self.is_live = is_live
        """Whether frames that are not taken in time are lost or pile up, as those of a camera do."""
        self.broken = 0
        self.end = ""
        """Why no more frames come, once that is so and there is more to say than that the video is over."""
        self._container, self._growing, self._reformatter = container, growing, VideoReformatter()
        self._busy, self._closing = threading.Lock(), False
        if not container.streams.video:
            self.close()
            raise VideoError(name, "holds no video stream.")
        self._stream = container.streams.video[0]
        self._codec = self._stream.codec_context
        self._codec.thread_type = "SLICE"  # frame threads would hold frames back
        self._packets = container.demux(self._stream)
        self._time_base = self._stream.time_base
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 0.0  # 0.0 where unknown
        self._size: tuple[int, int] | None = None
        self._first: float | None = None
        self._seconds = 0.0

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        more = True
        while more:
            with self._busy:  # nobody closes a container that is being read
                packet = None if self._closing else self._next_packet()
                frames = [] if self._closing else self._decode(packet)
                more = packet is not None
            for frame in frames:
                yield self._picture(frame), self._time(frame)
        if self._size is None and not self._closing:
            raise VideoError(self.path, f"no frame decodes{f' ({self.end})' if self.end else ''}.")

    def _next_packet(self) -> Any:
        """The next packet with data, None at the end."""
        import av

        while not self._closing:
            try:
                packet = next(self._packets, None)
            except av.error.BlockingIOError:  # the camera has nothing yet
                time.sleep(POLL / 10)
                self._packets = self._container.demux(self._stream)
                continue
            except av.error.ExitError:
                self.end = "nothing came any more"
                return None
            except av.error.FFmpegError as err:
                self.end = f"reading failed: {err.strerror or err}"
                return None
            if packet is not None and packet.size:
                return packet
            if packet is None or packet.dts is None:
                break
        if self._growing is not None and self._growing.waited:
            self.end = f"the file did not grow for {self._growing.idle:g} s"
        return None

    def _decode(self, packet: Any) -> list[Any]:
        import av

        try:
            return self._codec.decode(packet)
        except av.error.FFmpegError:
            self.broken += 1
            return []

    def _picture(self, frame: Any) -> np.ndarray:
        self._size = self._size or (frame.width, frame.height)
        width, height = self._size
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4)) if frame.rotation else rgb

    def _time(self, frame: Any) -> float:
        """Seconds since the first frame; they never go back, and go on evenly where the stream does not tell them."""
        if frame.pts is None:
            self._seconds += 1 / (self.fps or 25.0) if self._first is not None else 0.0
            self._first = self._first or 0.0
        else:
            stamp = float(frame.pts * self._time_base)
            self._first = stamp if self._first is None else self._first
            self._seconds = max(self._seconds, stamp - self._first)
        return self._seconds

    def close(self) -> None:
        """End the iteration, wherever it runs, and give up camera, connection or file. Closing twice is fine."""
        self._closing = True
        if self._growing is not None:
            self._growing.stop()
        if self._busy.acquire(timeout=2.0):  # a camera that sends nothing keeps its reader: the process's end frees it
            try:
                self._container.close()
            finally:
                self._busy.release()
        if self._growing is not None:
            self._growing.close()

    def __enter__(self) -> LiveVideo:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class GrowingFile:
    """A file that is being written, to read in order: its end is where it has not grown for ``idle`` seconds."""

    def __init__(self, path: str, idle: float) -> None:
        self._file = open(path, "rb")
        self._stopped = threading.Event()
        self.idle = idle
        self.waited = False
        """Whether the end was reached by waiting."""

    def read(self, size: int) -> bytes:
        deadline = time.monotonic() + self.idle
        while not self._stopped.is_set():
            data = self._file.read(size)
            if data:
                return data
            if time.monotonic() >= deadline:
                self.waited = True
                self.stop()  # or FFmpeg, which asks again at the end, would wait again
            self._wait()
        return b""

    def _wait(self) -> None:
        self._stopped.wait(min(POLL, self.idle))

    def stop(self) -> None:
        """Make the file end here."""
        self._stopped.set()

    def close(self) -> None:
        self._file.close()


class GrowingMP4(GrowingFile):
    """An MP4 file, in which reading goes back and forth: the index of one that is complete may be at its end."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def open_camera(device: int | str = 0, *, input_format: str = "", timeout: float = 10.0) -> LiveVideo:
    """A camera of this machine.

    ``device`` is its number (Linux, macOS) or its name: ``"/dev/video2"``, on Windows as the system shows it.
    ``input_format`` is FFmpeg's name of the input (default: v4l2, avfoundation or dshow, as the system has it);
    ``timeout`` is how long to wait for an answer, in seconds.

    Raises:
        VideoError: there is no such camera, or it cannot be used.
    """
    import av

    known, pattern = CAMERAS.get(sys.platform, ("", ""))
    number = str(device).isdigit()
    if not input_format and (not known or (number and not pattern)):
        raise VideoError(
            f"camera {device}",
            "cameras have no numbers on this system: give the name that it shows, or an input_format of FFmpeg.",
        )
    name = pattern.format(device) if number and not input_format else str(device)
    name = f"video={name}" if (input_format or known) == "dshow" and not name.startswith("video=") else name
    try:
        container = av.open(name, format=input_format or known, timeout=(timeout, timeout))
    except (av.error.FFmpegError, OSError, ValueError) as err:
        raise VideoError(
            f"camera {device}", f"cannot be opened ({getattr(err, 'strerror', None) or err}): is it there and free?"
        ) from err
    return LiveVideo(f"camera {device}", container, is_live=container.duration is None)


def follow_video(source: str | os.PathLike[str], *, idle: float = 10.0) -> LiveVideo:
    """A network stream (``rtsp://``, ``http://``, ...), or a file that another process is still writing.

    It ends where the sender ends it, or when nothing has come for ``idle`` seconds. A growing file is read from its
    start, so its format must be one that is readable before it is complete: MPEG-TS, Matroska or fragmented MP4. An
    ordinary MP4 has its index at the end, so it is readable only once it is complete.

    Raises:
        VideoError: no such file, no answer, or nothing that is a video.
    """
    if not idle > 0:
        raise ValueError(f"idle={idle} must be above 0 seconds.")
    name = os.fspath(source)
    scheme = name.partition("://")[0].lower() if "://" in name else ""
    if scheme and scheme not in PROTOCOLS:
        raise VideoError(name, f"{scheme}:// cannot be followed: use {', '.join(PROTOCOLS)}, or the path of a file.")
    return _open_network(name, idle) if scheme else _open_growing(name, idle)


def _open_network(url: str, idle: float) -> LiveVideo:
    import av

    try:
        container = av.open(url, timeout=(idle, idle), options={"protocol_whitelist": NETWORK})
    except av.error.ExitError as err:
        raise VideoError(url, f"nothing came for {idle:g} s.") from err
    except (av.error.FFmpegError, OSError) as err:
        raise VideoError(url, f"is not there, or no video ({err.strerror or err}).") from err
    # A recording has a length: it waits for whoever reads it. What is being filmed does not.
    return LiveVideo(url, container, is_live=container.duration is None)


def _open_growing(path: str, idle: float) -> LiveVideo:
    import av

    if not os.path.isfile(path):
        raise VideoError(path, "there is no such file: name one that is being written, or the address of a stream.")
    with open(path, "rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
    growing = (GrowingMP4 if is_mp4 else GrowingFile)(path, idle)
    # A playlist may open nothing at all. "ignidx": what comes after the first samples is not looked for in advance.
    options = {"protocol_whitelist": "", "fflags": "+ignidx"}
    try:
        container = av.open(growing, options=options)
    except (av.error.FFmpegError, OSError) as err:
        growing.close()
        raise VideoError(
            path,
            f"is no video that can be read while it grows ({err.strerror or err}): "
            "write MPEG-TS, Matroska or fragmented MP4, for an ordinary MP4 has its index at the end.",
        ) from err
    if container.format.name == "tty":  # FFmpeg renders plain text as a video of a terminal
        container.close()
        growing.close()
        raise VideoError(path, "is a text file, not a video.")
    return LiveVideo(path, container, is_live=False, growing=growing)
