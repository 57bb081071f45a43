"""What the packets of a video file tell about its frames, and a memory of it for files that are opened again."""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

REMEMBERED = 1_000_000  # packets of all files that are remembered, 16 bytes each

FileKey = tuple[str, int, int]
KeyFrame = tuple[int, int, int]  # time stamp, position, decoding time stamp


@dataclass
class PacketIndex:
    """Packets of a well-behaved file. Positions count packets in decoding order."""

    shown: list[int]  # time stamps of the frames, increasing: frame i is the one with shown[i]
    position: dict[int, int]  # time stamp -> position
    keys: list[KeyFrame]

    def key_before(self, stamp: int) -> KeyFrame:
        """The last key frame that is shown no later and decoded no later than the frame `stamp`."""
        place = bisect.bisect_right(self.keys, (stamp, len(self.position), 0)) - 1
        while self.keys[place][1] > self.position[stamp]:
            place -= 1
        return self.keys[place]


@dataclass(frozen=True)
class KnownFile:
    """What opening a file for the first time has found out, in little memory."""

    stamps: np.ndarray  # of the packets, in decoding order
    shown: np.ndarray
    keys: list[KeyFrame]
    size: tuple[int, int]  # width and height as stored
    quarter_turns: int

    @classmethod
    def of(cls, index: PacketIndex, size: tuple[int, int], quarter_turns: int) -> KnownFile:
        stamps, shown = (np.fromiter(values, np.int64, len(values)) for values in (index.position, index.shown))
        return cls(stamps, shown, index.keys, size, quarter_turns)

    def index(self) -> PacketIndex:
        stamps = self.stamps.tolist()
        return PacketIndex(self.shown.tolist(), dict(zip(stamps, range(len(stamps)), strict=True)), self.keys)


def file_key(path: str) -> FileKey:
    """Path, bytes and time of change: a file that has been written anew is another one."""
    facts = os.stat(path)
    return os.path.abspath(path), facts.st_size, facts.st_mtime_ns


class FileMemory:
    """The files that were opened last, within `limit` packets.

    Nobody ever waits for it: while another thread uses it, or used it at the moment of a fork, it knows nothing.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit, self._packets = limit, 0
        self._files: OrderedDict[FileKey, KnownFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: FileKey) -> KnownFile | None:
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)
        finally:
            self._lock.release()

    def put(self, key: FileKey, known: KnownFile) -> None:
        self._change(key, known)

    def forget(self, key: FileKey) -> None:
        self._change(key, None)

    def _change(self, key: FileKey, known: KnownFile | None) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            if key in self._files:
                self._packets -= len(self._files.pop(key).stamps)
            if known is not None:
                self._files[key] = known
                self._packets += len(known.stamps)
            while self._packets > self._limit:
                self._packets -= len(self._files.popitem(last=False)[1].stamps)
        finally:
            self._lock.release()


MEMORY = FileMemory()
