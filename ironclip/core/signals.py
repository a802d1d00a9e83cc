"""What the operating system tells a process to do, as the exception that Python raises for Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LEAVE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def leaving_in_order() -> Iterator[None]:
    """KeyboardInterrupt for SIGTERM and for a terminal that was closed, so that both leave what Ctrl-C leaves.

    A signal that somebody handles or ignores (nohup) stays as it is; so do all outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in LEAVE if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
