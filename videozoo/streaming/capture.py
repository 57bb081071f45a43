"""Taking in items on one thread while another works on them: at any time only the newest one waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

GRACE = 1.0  # seconds to wait for a source that has nothing: closing it is what ends its thread then

Item = TypeVar("Item")


class Newest:
    """The place between two threads: holds one item, which a newer one replaces or, without ``drop``, waits for."""

    def __init__(self, drop: bool) -> None:
        self.drop = drop
        self._changed = threading.Condition()
        self._items: list[Any] = []  # none or one
        self._dropped = 0  # since an item was taken
        self._error: BaseException | None = None
        self._over = self.is_closed = False

    def put(self, item: Any) -> None:
        """Leave an item for the other thread."""
        with self._changed:
            self._changed.wait_for(lambda: self.drop or not self._items or self.is_closed)
            self._dropped += len(self._items)
            self._items = [item]
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """No more items come, because of ``error`` or because there are none."""
        with self._changed:
            self._over, self._error = True, error
            self._changed.notify_all()

    def take(self) -> tuple[Any, int] | None:
        """Wait for an item: the item and how many it replaced; None at the end, or the error that was the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._over)
            if self._items:
                found = self._items.pop(), self._dropped
                self._dropped = 0
                self._changed.notify_all()
                return found
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Nobody takes items any more."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def newest(
    source: Iterable[Any], take_in: Callable[[Any], Iterable[Item]], *, drop: bool = True
) -> Iterator[tuple[Item, int]]:
    """What ``take_in`` makes of the items of ``source``, both on a thread of their own, as ``(item, dropped)``.

    While the caller works on an item the thread goes on; of what it finds only the newest waits, and ``dropped`` says
    how many were replaced since the item before. ``drop=False`` lets the source wait instead. Errors of the thread are
    raised here, after the item that waits. Closing the iterator stops the thread after its current item; one that waits
    for its source is left to it after a moment.
    """
    place = Newest(drop)

    def work() -> None:
        try:
            for value in source:
                if place.is_closed:
                    break
                for item in take_in(value):
                    place.put(item)
            place.finish()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the results are used
            place.finish(error)

    thread = threading.Thread(target=work, name="videozoo-capture", daemon=True)
    thread.start()
    try:
        while (found := place.take()) is not None:
            yield found
    finally:
        place.close()
        thread.join(GRACE)
