"""The log of the service: one line per event, without control characters, with a limit on the number of lines."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST, SECONDS = 20, 60.0


class Sparing(logging.Filter):
    """Lets `most` events pass in any window of `seconds`; the next one after that says how many were left out."""

    def __init__(self, most: int = MOST, seconds: float = SECONDS) -> None:
        super().__init__()
        self.most, self.seconds = most, seconds
        self._lock = threading.Lock()
        self._begin, self._passed, self._dropped = -seconds, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._begin >= self.seconds:
                self._begin, self._passed = now, 0
            if self._passed >= self.most:
                self._dropped += 1
                return False
            self._passed += 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            record.msg, record.args = f"{record.getMessage()} ({dropped} events before it were left out)", ()
        return True


class OneLine(logging.Formatter):
    """A time, a level and the message; whatever a client could put into it stays on its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = " ".join(super().formatMessage(record).splitlines())
        return "".join(letter if letter.isprintable() else " " for letter in line)[:1000]


@contextmanager
def sparing_log() -> Iterator[None]:
    """All loggers and Python's warnings go through one sparing handler on standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(Sparing())
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
