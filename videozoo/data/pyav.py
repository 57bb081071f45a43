"""The default reader: PyAV, frame-accurate, with sparse access that decodes no more than the key frames demand.

One pass over the packets, without decoding, gives the time stamp of every frame and the key frames. Frames are then
known by their time stamp, and reading seeks to the key frame before each group of wanted frames. Where time stamps
cannot be relied on (AVI and raw streams, damaged files, a header that claims another number of frames) the file is
decoded once to count, and frames are known by their place in the decoding order from the start.

What the pass over the packets found is kept for as long as the process lives, so that a file that is opened again, as
in the epochs of a training, is neither scanned nor decoded for its size.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from .packets import MEMORY, KnownFile, PacketIndex, file_key
from .reader import BaseReader, VideoError

__all__ = ["PyAVReader"]

# Containers that store presentation times, and codecs that show exactly one frame per packet.
_TIMED_FORMATS = {"mov", "mp4", "matroska", "webm", "mpegts", "flv"}
_ONE_FRAME_PER_PACKET = {"h264", "hevc", "mjpeg", "vp9", "av1", "libdav1d"}
_SEEK_WORTH = 8  # packets: a shorter gap is decoded through


class PyAVReader(BaseReader):
    """Video file reader; see `open_video`.

    `len` is the number of frames that decode, for ordinary files without decoding. Where frames turn out not to decode
    while they are read, the file is counted anew with a warning; indices beyond the new length are a `VideoError`, and
    reading goes on with the new numbers. Frames come upright: the rotation that phones store is applied.
    """

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int = 0) -> None:
        self.path = os.fspath(path)
        self._threads = num_threads
        self._container: Any = None
        self._broken = 0  # packets that did not decode
        self._open()
        self._file = file_key(self.path)
        known = MEMORY.get(self._file)
        if known is None:
            self._explore()
        else:
            self._index, self._count = known.index(), len(known.shown)
            self._size, self._quarter_turns = known.size, known.quarter_turns
        self.width, self.height = self._size[::-1] if self._quarter_turns % 2 else self._size
        self._shape = self.height, self.width  # of the frames that are given

    def scale_to(self, width: int, height: int) -> bool:
        """Frames come in this size from now on, scaled as their colours are converted, which costs little more.

        The scaler is FFmpeg's, bilinear with smoothing, so bytes differ from those of `resize`. `width` and `height`
        of the reader stay those of the video.
        """
        self._shape = height, width
        return True

    def _explore(self) -> None:
        """Find out which frames there are and their size, and remember it if the packets tell."""
        self._index = self._scan()
        first = None
        if self._index is not None:
            self._count = len(self._index.shown)
            first = self._first_frame()
        if first is None:
            first = self._count_by_decoding()
        if first is None:
            self.close()
            raise VideoError(self.path, "no frame decodes: the file is damaged or cut off too early.")
        self._size = first.width, first.height  # size and rotation are only certain once a frame is decoded
        self._quarter_turns = round(first.rotation / 90) % 4
        if self._index is not None:
            MEMORY.put(self._file, KnownFile.of(self._index, self._size, self._quarter_turns))

    def close(self) -> None:
        super().close()
        self._release()

    def _release(self) -> None:
        """Give up file and decoder at once: a forked process that had to collect its threads later would hang."""
        self._packets = self._ordered = self._codec = self._stream = self._reformatter = None
        if self._container is not None:
            self._container.close()
            self._container = None

    # Opening and indexing

    def _open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._release()
        try:
            # An absolute path cannot be taken for a protocol, and playlists cannot reach beyond local files.
            container = av.open(os.path.abspath(self.path), options={"protocol_whitelist": "file"})
        except (av.error.FFmpegError, OSError) as err:
            raise VideoError(
                self.path, f"not a video file, or damaged beyond reading ({err.strerror or err})."
            ) from err
        attached = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & attached and s.codec_context is not None]
        if not streams:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            container.close()
            raise VideoError(self.path, f"holds no video stream, only {', '.join(kinds)}.")
        if container.format.name == "tty":  # FFmpeg renders plain text as a video of a terminal
            container.close()
            raise VideoError(self.path, "is a text file, not a video.")
        self._container, self._stream = container, streams[0]
        self._codec = self._stream.codec_context
        self._codec.thread_type, self._codec.thread_count = "AUTO", self._threads
        self._reformatter = VideoReformatter()
        self._packets = self._demux()
        self._began = 0  # position where decoding started
        self._position: int | None = 0  # of the next packet; None: unknown, or the decoder is drained
        self._gone: set[int] = set()  # time stamps that this pass of the decoder will not give (any more)
        self._passed = 0  # frames given since the start, for reading in order
        self._ordered: Iterator[Any] | None = None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 0.0

    def _demux(self) -> Iterator[Any]:
        """Packets with data, then None. A file that breaks off ends there."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                packet = None
            if packet is None or (packet.size == 0 and packet.dts is None):
                yield None
                return
            if packet.size:
                yield packet

    def _scan(self) -> PacketIndex | None:
        """Read all packets once; None where they do not tell which frames there are."""
        packets = [(p.pts, p.dts, p.is_keyframe, p.is_discard, p.is_corrupt) for p in self._demux_all()]
        stamps = [pts for pts, *_ in packets]
        claimed = self._stream.frames
        plain = (
            packets
            and not _TIMED_FORMATS.isdisjoint(self._container.format.name.split(","))
            and self._codec.name in _ONE_FRAME_PER_PACKET
            and None not in stamps
            and len(set(stamps)) == len(stamps)
            and not any(corrupt for *_, corrupt in packets)
            and packets[0][2]  # begins with a key frame, and shows nothing before it
            and min(stamps) == stamps[0]
            and claimed in (0, len(packets))
        )
        if not plain:
            return None
        keys = sorted(
            (pts, position, pts if dts is None else dts)
            for position, (pts, dts, is_key, *_) in enumerate(packets)
            if is_key
        )
        shown = sorted(pts for pts, _, _, discarded, _ in packets if not discarded)
        return PacketIndex(shown, {pts: position for position, pts in enumerate(stamps)}, keys)

    def _demux_all(self) -> Iterator[Any]:
        self._position = None
        return (packet for packet in self._packets if packet is not None)

    def _first_frame(self) -> Any:
        """The first frame that decodes; reading goes on from there, so that its packets are not decoded twice."""
        self._seek(self._index.keys[0])
        for packet in self._packets:
            self._position = None if packet is None else self._position + 1
            frames = self._decode(packet)
            self._gone.update(frame.pts for frame in frames)
            if frames:
                return frames[0]
        return None

    def _count_by_decoding(self) -> Any:
        """Fall back to reading in order from the start, and find out how many frames that gives; returns the first."""
        MEMORY.forget(self._file)
        self._index = None
        self._open()
        self._broken = 0
        frames = self._frames_in_order()
        first = next(frames, None)
        self._count = 0 if first is None else 1 + sum(1 for _ in frames)
        lost = self._claimed_frames() - self._count
        if self._count and (self._broken or lost > max(2, 0.02 * self._count)):
            why = f"{self._broken} packets do not decode" if self._broken else f"about {lost} frames are missing"
            warnings.warn(
                f"{self.path}: the file is damaged or cut off; {why}, the {self._count} frames that decode are used.",
                stacklevel=4,
            )
        return first

    def _claimed_frames(self) -> int:
        """Frames that the container says it has, by their number or by its length; 0 if it says neither."""
        if self._stream.frames:
            return self._stream.frames
        seconds = (self._container.duration or 0) / 1e6
        return round(seconds * self.fps)

    # Reading

    def _read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self._shape, 3), np.uint8)
        if self._index is not None:
            if self._read_by_stamp(indices, out):
                return out
            self._count_by_decoding()
            if indices[-1] >= self._count:
                raise VideoError(
                    self.path, f"frame {indices[-1]} does not exist: only {self._count} frames decode. Sample again."
                )
        self._read_in_order(indices, out)
        return out

    def _read_by_stamp(self, indices: np.ndarray, out: np.ndarray) -> bool:
        """Fill `out`; False if a frame does not come although its packet is there."""
        index = self._index
        wanted = {index.shown[i]: row for row, i in enumerate(indices)}
        groups: dict[tuple[int, int, int], list[int]] = {}
        for stamp in wanted:
            groups.setdefault(index.key_before(stamp), []).append(stamp)
        last = max(wanted)
        for key in sorted(groups, key=lambda key: key[1]):
            group = [stamp for stamp in groups[key] if stamp in wanted]  # the rest came along with an earlier group
            if not group:
                continue
            ahead = self._position is not None and self._began <= key[1] <= self._position + _SEEK_WORTH
            if not ahead or not self._gone.isdisjoint(group):
                self._seek(key)
            if not self._decode_group(set(group), wanted, last, out):
                return False
        return True

    def _decode_group(self, group: set[int], wanted: dict[int, int], last: int, out: np.ndarray) -> bool:
        """Decode on until all of `group` has come; takes what comes out of `wanted` (time stamp -> row of `out`)."""
        for packet in self._packets:
            if packet is None:
                self._position = None
            else:
                self._skip_unneeded(packet.pts, wanted, last)
                self._position += 1
            for frame in self._decode(packet):
                self._gone.add(frame.pts)
                if frame.pts in wanted:
                    self._convert(frame, out[wanted.pop(frame.pts)])
                    group.discard(frame.pts)
            if not group:
                return True
        return False

    def _skip_unneeded(self, stamp: int, wanted: dict[int, int], last: int) -> None:
        """H.264 frames that no other frame refers to need not be decoded unless they are wanted."""
        if self._codec.name == "h264":
            skip = stamp not in wanted and stamp < last  # what is shown later may be asked for next
            self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
            if skip:
                self._gone.add(stamp)

    def _seek(self, key: tuple[int, int, int]) -> None:
        """Make the packets go on at key frame `key`, or at an earlier packet where the container cannot do better."""
        stamp, position, decode_stamp = key
        self._gone = set()
        for target in (stamp, decode_stamp):  # containers differ in which of the two they search by
            if self._jump(target) == position:
                return
        if self._position is None or self._position > position:
            self._open()

    def _jump(self, target: int) -> int | None:
        """Seek to time stamp `target`; the position where that led."""
        import av

        self._position = None
        try:
            self._container.seek(target, stream=self._stream)
            packets = self._demux()
            first = next(packets)
        except av.error.FFmpegError:
            return None
        if first is not None:
            self._began = self._position = self._index.position.get(first.pts)
            self._packets = _chain(first, packets)
        return self._position

    def _read_in_order(self, indices: np.ndarray, out: np.ndarray) -> None:
        if self._ordered is None or indices[0] < self._passed:
            self._open()
            self._ordered = self._frames_in_order()
        rows = {int(index): row for row, index in enumerate(indices)}
        while self._passed <= indices[-1]:
            frame = next(self._ordered, None)
            if frame is None:
                raise VideoError(self.path, f"frame {self._passed} no longer decodes: has the file changed?")
            row = rows.get(self._passed)
            if row is not None:
                self._convert(frame, out[row])
            self._passed += 1

    def _frames_in_order(self) -> Iterator[Any]:
        self._codec.thread_type = "SLICE"  # frame threads may treat damaged packets differently from run to run
        for packet in self._packets:
            yield from self._decode(packet)

    def _decode(self, packet: Any) -> list[Any]:
        import av

        try:
            return self._codec.decode(packet)
        except av.error.FFmpegError:
            self._broken += 1
            return []

    def _convert(self, frame: Any, out: np.ndarray) -> None:
        """RGB of a decoded frame into `out`, upright; scaled if asked for or where the size changes within a file."""
        height, width = self._shape[::-1] if self._quarter_turns % 2 else self._shape
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane = rgb.planes[0]
        image = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
        image = image.reshape(height, width, 3)
        out[:] = np.rot90(image, self._quarter_turns) if self._quarter_turns else image


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
