"""Running foreign code: its errors, and any attempt to end the process, become one clear line.

Only what Python can see is covered: a library in C that ends the process, or kills it, is not. So a script that relies on a
requirement should also check for `audit.json` in the folder, which only a finished audit writes.
"""

import io
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

from ironclip.core.errors import IronclipError, UsageError
from ironclip.core.memory import out_of_memory
from ironclip.core.signals import LEAVE, Leaving, asked_to_leave

ENDINGS = ("_exit", "abort", "execv", "execve")
"""Functions of `os` that end this process or put another in its place; those with other names call these."""


class Ended(BaseException):
    """The code called a function of `os` that would have ended the process."""


@contextmanager
def guarded(doing: str, home: Path | None = None, *, hold: bool = True) -> Iterator[None]:
    """Runs foreign code: its errors become a UsageError with `doing` and the reason in one line.

    Inside, the files in `home` can be imported and the command line is empty. A real Ctrl-C still interrupts, and a request to
    stop is obeyed.

    Args:
        hold: keep what is printed until the end, and write it to standard error, so that a JSON value on standard output stays
            one; it is left out where the code fails.

    Raises:
        UsageError: anything that was raised inside, SystemExit, KeyboardInterrupt and GeneratorExit among it. Errors of ironclip
            itself pass through.
    """
    said = io.StringIO()
    asked: list[bool] = []
    try:
        with ExitStack() as stack:
            for context in (_interrupts(asked), _unended(), _beside(home)):
                stack.enter_context(context)
            if hold:
                stack.enter_context(redirect_stdout(said))
                stack.enter_context(redirect_stderr(said))
            yield
    except IronclipError:
        raise
    except BaseException as error:
        if (isinstance(error, KeyboardInterrupt) and asked) or (isinstance(error, Leaving) and asked_to_leave()):
            raise
        if out_of_memory(error):
            raise
        raise UsageError(f"{doing}: {reason(error, said.getvalue())}") from None
    if said.getvalue():
        sys.stderr.write(said.getvalue())


def reason(error: BaseException, said: str = "") -> str:
    """Why foreign code stopped, in one line; `said` is what it printed."""
    if isinstance(error, Ended):
        return f"it calls {error} to end the process"
    if isinstance(error, SystemExit):
        words = error.code if isinstance(error.code, str) else f"status {error.code or 0}"
        last = (said.strip().splitlines() or [""])[-1]
        return _line(f"it ends the process with {words}") + (f" ({_line(last)})" if last else "")
    return f"{type(error).__name__}: {_line(str(error)) or 'no message'}"


def _line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:160]


@contextmanager
def _interrupts(asked: list[bool]) -> Iterator[None]:
    """Notes inside whether a KeyboardInterrupt is a real one: of Ctrl-C, or of a signal that is handled as Ctrl-C is."""
    main = threading.current_thread() is threading.main_thread()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, *LEAVE)}
    before = {number: handler for number, handler in handlers.items() if main and callable(handler)}

    def interrupted(number: int, frame: FrameType | None) -> Any:
        asked.append(True)
        return before[number](number, frame)

    for number in before:
        signal.signal(number, interrupted)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _unended() -> Iterator[None]:
    """Functions that end the process raise `Ended` inside; in children, which end by them as a rule, they do what they did."""
    owner = os.getpid()

    def instead(name: str, real: Any) -> Any:
        def ending(*arguments: Any) -> Any:
            if os.getpid() != owner:
                return real(*arguments)
            raise Ended(f"os.{name}")

        return ending

    with ExitStack() as stack:
        for name in ENDINGS:
            stack.enter_context(mock.patch.object(os, name, instead(name, getattr(os, name))))
        stack.enter_context(mock.patch.object(sys, "argv", sys.argv[:1]))
        yield


@contextmanager
def _beside(home: Path | None) -> Iterator[None]:
    """Inside, files in `home` can be imported; modules of the same name from other folders are set aside."""
    if home is None:
        yield
        return
    folder = str(home.resolve())
    clashing = {name for name in _importable(folder) & sys.modules.keys() if _of_another(sys.modules[name], folder)}
    whole = [name for name in sys.modules if name.partition(".")[0] in clashing] if clashing else []
    hidden = {name: sys.modules.pop(name) for name in whole}
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        sys.modules.update(hidden)


@cache
def _importable(folder: str) -> frozenset[str]:
    """Names of the modules and packages in a folder."""
    return frozenset(path.stem for path in Path(folder).iterdir() if path.suffix == ".py" or path.is_dir())


def _of_another(module: ModuleType | None, folder: str) -> bool:
    """Whether a module is neither of this folder nor of Python, its installed packages or ironclip."""
    file = getattr(module, "__file__", None)
    if not file:
        return False
    ours = (folder, *sysconfig.get_paths().values(), str(Path(__file__).parents[2]))
    return not any(Path(file).is_relative_to(each) for each in ours)
