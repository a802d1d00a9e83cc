"""The command line: parse, call one function, print. `--help` imports no torch."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from ironclip.cli import (  # noqa: F401 - each adds its verbs
    attack,
    audit,
    backbones,
    classify,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    export,
    grid,
    leaderboard,
    merge,
    pretrain,
    report,
    serve,
    show,
    train,
    verify,
)
from ironclip.cli import list as _list  # noqa: F401
from ironclip.cli.common import app
from ironclip.cli.terminal import forgiving, shortened, tell
from ironclip.core.errors import IronclipError
from ironclip.core.signals import LATER, Leaving, finishing, leaving_in_order

FULL = (
    "the memory is full ({}); take fewer images at once (--batch-size, in training --set batch_size=N), another device or a "
    "smaller model"
)


def main() -> None:
    """Exit status 0: good; 1: a requirement failed; 2: wrong usage or bad input, said in one line; 130: interrupted;
    75: stopped because a scheduler asked for it before a time limit."""
    forgiving(sys.stdout, sys.stderr)
    arguments = sys.argv[1:]
    try:
        with leaving_in_order(), finishing():
            code = app([*arguments], prog_name="ironclip", standalone_mode=False)
        sys.stdout.flush()
    except Leaving:
        code = _say("left after what it was at, as asked by SIGUSR1; the same command goes on where it stopped", LATER)
    except (typer.Abort, KeyboardInterrupt):
        code = _say("interrupted; the same command goes on where it stopped", 130)
    except IronclipError as error:
        code = _refused(arguments, str(error))
    except BrokenPipeError:
        code = _nobody_reads()
    except SystemExit as end:  # what click and rich make of a closed pipe
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = _nobody_reads()
    except OSError as error:
        code = _refused(arguments, f"{error.filename or 'file system'}: {error.strerror or error}")
    except Exception as error:
        from ironclip.core.memory import out_of_memory  # imports torch

        if out_of_memory(error):
            sys.exit(_refused(arguments, FULL.format(str(error).splitlines()[0] if str(error) else "no memory")))
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):  # what the parser raises; its class is private
            raise
        code = _misread(arguments, error)
    sys.exit(code or 0)


def _nobody_reads() -> int:
    """The reader is gone, as with `| head`: no error; buffered output is dropped."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _misread(arguments: Sequence[str], error: Any) -> int:
    """The parser's message about a wrong command line; the help for an empty one."""
    said = error.format_message()
    if len(said.splitlines()) > 1 or not said:
        error.show()
        return int(error.exit_code)
    place = error.ctx.command_path if error.ctx is not None else "ironclip"
    return _refused(arguments, f"{said.rstrip('.')} (see `{place} --help`)")


def _refused(arguments: Sequence[str], reason: str) -> int:
    if [*arguments[:1]] == ["train"]:
        train.refused(arguments, reason)
    return _say(f"error: {shortened(reason)}", 2)


def _say(line: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be gone
        tell(line)
    return code
