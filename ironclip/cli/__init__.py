"""The command line: parse, call one function, print. `--help` imports no torch."""

import sys
from contextlib import suppress

import typer

from ironclip.cli import (  # noqa: F401 - each adds its verbs
    attack,
    audit,
    classify,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    export,
    grid,
    pretrain,
    report,
    serve,
    show,
    train,
    verify,
)
from ironclip.cli import list as _list  # noqa: F401
from ironclip.cli.common import app
from ironclip.core.errors import IronclipError
from ironclip.core.signals import leaving_in_order


def main() -> None:
    """Exit status 0: good; 1: a requirement failed; 2: wrong usage or bad input, said in one line; 130: interrupted."""
    try:
        with leaving_in_order():
            code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = _say("interrupted; the same command goes on where it stopped", 130)
    except IronclipError as error:
        code = _say(f"error: {error}", 2)
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except OSError as error:
        code = _say(f"error: {error.filename or 'file system'}: {error.strerror or error}", 2)
    except Exception as error:
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):  # what the parser raises; its class is private
            raise
        error.show()
        code = error.exit_code
    sys.exit(code or 0)


def _say(line: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr)
    return code
