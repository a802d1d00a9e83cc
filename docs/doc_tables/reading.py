"""Reading the CSV files of `docs/results`, and writing figures and Markdown tables of their lines."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

from ironclip.records.statistics import wilson

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "results"
PGD = "linf 1/255 {}; pgd (100 steps)"
SETS = ("caltech101", "clothing10", "eurosat", "flowers5")
Stored = Mapping[str, str]


@cache
def stored(file: str) -> tuple[Stored, ...]:
    """The lines of a CSV file of `docs/results`."""
    with (FOLDER / f"{file}.csv").open(encoding="utf-8") as stream:
        return tuple(csv.DictReader(stream))


def found(file: str, method: str, data: str, facts: str = "", **wanted: str) -> Stored | None:
    """The line of a method on a data set, the first of several that say the same; "quick" may be left out of a method's name.

    Raises:
        LookupError: the lines that fit say different things.
    """
    names = (method, f"{method} (quick)", method.replace("(", "(quick, "), f"zero_shot+{method}")
    lines = [
        line
        for line in stored(file)
        if line["method"] in names and line["data"] == data and facts in ("", line.get("facts", ""))
        if all(line[key].startswith(value) for key, value in wanted.items())
    ]
    if len({(line["clean"], line["robust"]) for line in lines}) > 1:
        raise LookupError(f"{file}.csv has {len(lines)} lines of {method} on {data}, {facts} {wanted}")
    return lines[0] if lines else None


def mean(values: Sequence[str]) -> Fraction:
    """The exact mean of stored decimals."""
    return sum(map(Fraction, values), Fraction()) / len(values)


def harmonic(values: Sequence[Fraction]) -> Fraction:
    return len(values) / sum((1 / value for value in values), Fraction()) if all(values) else Fraction()


def tenths(value: Fraction) -> str:
    """A share in per cent with one decimal; half way between two, to the even one."""
    return f"{round(1000 * value) / 10:.1f}"


def per_cent(line: Stored, column: str, digits: int = 1) -> str:
    return f"{100 * float(line[column]):.{digits}f}"


def interval(line: Stored, column: str, digits: int = 1) -> str:
    return f"[{per_cent(line, column + '_low', digits)}, {per_cent(line, column + '_high', digits)}]"


def share(count: int, of: int, digits: int = 1) -> str:
    """A count in per cent, with Wilson's interval at 95 %."""
    return "{} [{}, {}]".format(*[f"{100 * value:.{digits}f}" for value in (count / of, *wilson(count, of))])


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    above = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*above, *[f"| {' | '.join(cells)} |" for cells in lines]])


def both(line: Stored | None) -> str:
    """ "clean / robust" in whole per cent."""
    return "–" if line is None else f"{per_cent(line, 'clean', 0)} / {per_cent(line, 'robust', 0)}"


def as_stored(file: str, bold: str = "") -> str:
    """All lines of a file as they stand, under its own names of columns; the column `bold` in bold."""
    lines = stored(file)
    cells = [[f"**{cell}**" if name == bold else cell for name, cell in line.items()] for line in lines]
    return table(list(lines[0]), cells)
