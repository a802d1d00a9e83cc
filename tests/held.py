"""A folder that another thread has locked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironclip.records.lock import locked


@contextmanager
def held(folder: Path) -> Iterator[threading.Event]:
    """Inside, the folder is locked until the event is set, which the end of the block does at the latest."""
    holding, free = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(folder):
            holding.set()
            free.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(60)
    try:
        yield free
    finally:
        free.set()
        holder.join()
