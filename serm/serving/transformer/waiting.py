"""A queue that is bounded by the bytes that wait in it, for pages are of any size."""

from __future__ import annotations

import queue
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """What waits for one thread to take it, in its order; several threads may put."""

    def __init__(self, most: int) -> None:
        """Take ``most`` bytes."""
        self.most = most
        self.bytes = 0
        self._queue: queue.Queue[tuple[T, int]] = queue.Queue()
        self._lock = threading.Lock()

    def put(self, item: T, size: int) -> bool:
        """Take an item of so many bytes, and say whether there was room; never waits."""
        with self._lock:
            if self.bytes + size > self.most:
                return False
            self.bytes += size
            self._queue.put_nowait((item, size))
        return True

    def get(self, timeout: float | None = None) -> T:
        """Return the next item; wait for it, at most ``timeout`` seconds, and raise ``queue.Empty`` then."""
        item, size = self._queue.get(timeout != 0, timeout)
        with self._lock:
            self.bytes -= size
        return item

    def __len__(self) -> int:
        return self._queue.qsize()
