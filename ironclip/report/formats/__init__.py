"""Printed tables, one file per format. A file `<name>.py` that sets FORMAT is the format `<name>`; nothing else to register.

FORMAT is a function of rows (or of cells, `cells.Grid`) and the number of the table on its page, 0 where it is the only one; it
returns text. `ironclip report --<name> FILE` writes it; the first line of the file's docstring is the option's help.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ironclip.core.errors import unknown
from ironclip.report.cells import Grid
from ironclip.report.tables import Row

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def written(name: str, tables: Sequence[Sequence[Row] | Grid]) -> str:
    """The tables in this format, one below the other.

    Raises:
        UsageError: no such format; names the nearest one.
    """
    if name not in NAMES:
        raise unknown("table format", name, NAMES)
    write = import_module(f"ironclip.report.formats.{name}").FORMAT
    several = len(tables) > 1
    return "\n".join(write(table, number if several else 0) for number, table in enumerate(tables, 1))
