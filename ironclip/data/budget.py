"""A limit on memory for decoding, shared by all threads of a process: large images wait for each other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

TOTAL = 1_600_000_000
"""Bytes; one image of the largest size that is read at all takes about this much."""
SMALL = 16_000_000
PER_PIXEL = {"I": 28, "F": 28}
USUAL = 15
"""Bytes per pixel while an image becomes RGB: itself, its RGBA form, white paper, the sum, and the RGB image."""


class Budget:
    """A number of bytes that may be in use at once; a request above it runs alone."""

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0
        self._free = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until this much is free, and take it. A thread takes one part at a time, so that no thread waits for itself."""
        with self._free:
            self._free.wait_for(lambda: self.taken == 0 or self.taken + size <= self.total)
            self.taken += size
        try:
            yield
        finally:
            with self._free:
                self.taken -= size
                self._free.notify_all()


MEMORY = Budget(TOTAL)


def cost(width: int, height: int, mode: str) -> int:
    """Roughly the bytes needed to decode an image."""
    return width * height * PER_PIXEL.get(mode[:1], USUAL)
