"""What the operating system and a scheduler tell a process to do, as the exception that Python raises for Ctrl-C."""

import _thread
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
SOON = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))
"""What a scheduler is asked to send before a time limit (`sbatch --signal=USR1@300`)."""
LATER = 75
"""Exit status of a command that left when it was asked to: nothing is wrong, and the same command goes on (EX_TEMPFAIL)."""
_noted: list[int] = []


class Leaving(BaseException):
    """A process was asked to leave soon, and is where everything that it has done is on the disk.

    No Exception, for nobody's `except Exception` may keep it; no KeyboardInterrupt, which parsers of command lines catch.
    """


LEAVE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def _note(number: int, frame: FrameType | None) -> None:
    _noted.append(number)


def _noting(number: int) -> None:
    """From now on this signal is noted; calls of the operating system that it interrupts go on, also those of libraries in C."""
    signal.signal(number, _note)
    signal.siginterrupt(number, False)


@contextmanager
def heard_from_here() -> Iterator[None]:
    """Around the whole work of a process, its imports included: the signals of a scheduler are noted, where they would end it.

    Afterwards they are ignored, because the process ends, and its exit status must say how its work ended.
    """
    ours = [number for number in SOON if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        _noting(number)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_IGN)


def interrupt() -> None:
    """Ctrl-C for the main thread, even while it waits in a call of the operating system."""
    ident = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and ident is not None:
        signal.pthread_kill(ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


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


@contextmanager
def finishing(numbers: Sequence[int] = SOON) -> Iterator[None]:
    """Inside, these signals are noted, and `leave_if_asked` raises `Leaving` from then on.

    After that a signal is handed on to whoever handled it before, who may want to queue the work again. Outside the main thread,
    and for signals that are ignored, nothing changes.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        _noting(number)
    try:
        yield
    except Leaving:
        asked = _restored(before)
        for number in asked:
            if callable(before[number]):
                signal.raise_signal(number)
        raise
    finally:
        _restored(before)


def _restored(before: Mapping[int, Any]) -> list[int]:
    """Which of these signals had come, after their handlers are as before and nothing is noted of them."""
    for number, handler in before.items():
        signal.signal(number, handler)
    asked = [number for number in before if number in _noted]
    _noted[:] = [number for number in _noted if number not in before]
    return asked


def until_asked(items: Iterable[T]) -> Iterator[T]:
    """These, one after the other, until the process is asked to leave: then `Leaving` instead of the next one."""
    for item in items:
        leave_if_asked()
        yield item


def asked_to_leave() -> bool:
    return bool(_noted)


def leave_if_asked(asked: bool | None = None) -> None:
    """Called where everything that was done is on the disk.

    Args:
        asked: whether anybody was, where several processes leave together; default: whether this process was.

    Raises:
        Leaving: it was.
    """
    if asked_to_leave() if asked is None else asked:
        raise Leaving("stopped where it could go on, as it was asked to")
