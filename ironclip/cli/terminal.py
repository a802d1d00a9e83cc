"""Printing on the terminal. Square brackets are not markup, and no name can move the cursor or break a line."""

import os
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ironclip.core.shown import plain

LONGEST = 1500  # characters of one message; its begin says what is wrong, its end what to do
WIDE = 200  # where no terminal says how wide it is, lines are for other programs


def _streams() -> None:
    """Replace closed standard streams (cron, a desktop) by ones that drop their output."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends


_streams()


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else WIDE)


out, err = _console(), _console(stderr=True)


def say(*lines: object, style: str = "", to: Console | None = None) -> None:
    """Print each line on standard output (or `to`) without inserted line breaks, so that it can be copied."""
    for line in lines:
        (to or out).print(Text(plain(str(line)), style=style), soft_wrap=True)


def tell(*lines: object, style: str = "") -> None:
    """Print each line on standard error: notes, not results."""
    say(*lines, style=style, to=err)


def shortened(text: str) -> str:
    """A message without its middle, where that is a page: a value out of a stranger's file may have any length."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 3 :]}"


def show_table(table: Table) -> None:
    out.print(table)


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table of these cells, all of them text."""
    made = Table(title=Text(title) if title else None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(Text(column), overflow="fold")
    for row in rows:
        made.add_row(*[Text(plain(cell)) for cell in row])
    return made


def command(*words: str | Path) -> str:
    """A command line for a shell: `ironclip` and these words, quoted where needed."""
    return shlex.join(["ironclip", *map(str, words)])


def forgiving(*streams: Any) -> None:
    """Let the streams write characters that their encoding lacks (≤ in a Windows console) as escapes instead of failing."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
