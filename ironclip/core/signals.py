"""Signals of the operating system and of a scheduler, turned into exceptions such as that of Ctrl-C."""

import _thread
import ctypes
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
SOON = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))
"""The signal that a scheduler sends before a time limit (`sbatch --signal=USR1@300`)."""
LATER = 75
"""Exit status of a command that stopped when asked to (EX_TEMPFAIL): nothing is wrong, and the same command continues."""
_noted: list[int] = []


class Leaving(BaseException):
    """A process was asked to stop soon, and all its finished work is on the disk.

    Not an Exception, so that no `except Exception` stops it. Not a KeyboardInterrupt, which parsers of command lines catch.
    """


LEAVE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def _note(number: int, frame: FrameType | None) -> None:
    _noted.append(number)


def _noting(number: int) -> None:
    """From now on this signal is only noted. System calls that it interrupts continue, also those of C libraries."""
    signal.signal(number, _note)
    signal.siginterrupt(number, False)


@contextmanager
def heard_from_here() -> Iterator[None]:
    """Around the whole work of a process, its imports included: signals of a scheduler are noted and do not end the process.

    Afterwards they are ignored: the process ends anyway, and its exit status must say how its work ended.
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
    """Interrupt the main thread as Ctrl-C does, even while it waits in a system call.

    A shell starts jobs in the background with Ctrl-C ignored; such a one is interrupted at its next step, after the wait.
    """
    ident = threading.main_thread().ident
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))
    elif hasattr(signal, "pthread_kill") and ident is not None:
        signal.pthread_kill(ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


@contextmanager
def leaving_in_order() -> Iterator[None]:
    """Inside, SIGTERM and a closed terminal raise KeyboardInterrupt, so that both end like Ctrl-C.

    A signal that is already handled or ignored (nohup) stays as it is. Outside the main thread nothing changes.
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

    After that a signal is passed on to its earlier handler, which may want to queue the work again. Outside the main thread, and
    for signals that are ignored, nothing changes.
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
    """Restore the handlers of these signals, forget what was noted, and return the signals that had arrived."""
    for number, handler in before.items():
        signal.signal(number, handler)
    asked = [number for number in before if number in _noted]
    _noted[:] = [number for number in _noted if number not in before]
    return asked


def until_asked(items: Iterable[T]) -> Iterator[T]:
    """The items, one after the other. Once the process is asked to stop, `Leaving` is raised instead of the next item."""
    for item in items:
        leave_if_asked()
        yield item


def asked_to_leave() -> bool:
    return bool(_noted)


def leave_if_asked(asked: bool | None = None) -> None:
    """To be called where all finished work is on the disk.

    Args:
        asked: whether any process was asked, where several stop together; default: whether this process was.

    Raises:
        Leaving: the process was asked to stop.
    """
    if asked_to_leave() if asked is None else asked:
        raise Leaving("stopped where it could go on, as it was asked to")
