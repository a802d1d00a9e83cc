"""The table of docs/backbones.md: which method stands on which tower."""

from collections.abc import Mapping

START, END = "<!-- towers: made by `make towers` -->", "<!-- /towers -->"
SIGNS = {"runs": "yes", "contract": "yes*", "refuses": "no", "fails": "FAILS"}


def written(page: str, cells: Mapping[str, Mapping[str, str]]) -> str:
    """The page with the table between its two marks."""
    head, found, rest = page.partition(START)
    if not found or END not in rest:
        raise ValueError(f"the page has no place for the table: {START} ... {END}")
    return f"{head}{START}\n{table(cells)}\n{END}{rest.partition(END)[2]}"


def table(cells: Mapping[str, Mapping[str, str]]) -> str:
    """Methods in rows, towers in columns; towers of which every method says the same share a column."""
    methods = list(dict.fromkeys(method for row in cells.values() for method in row))
    columns: dict[tuple[str, ...], list[str]] = {}
    for tower, row in cells.items():
        columns.setdefault(tuple(sign(row.get(method, "")) for method in methods), []).append(tower)
    lines = ["| method | " + " | ".join(", ".join(towers) for towers in columns.values()) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for number, method in enumerate(methods):
        lines.append(f"| `{method}` | " + " | ".join(signs[number] for signs in columns) + " |")
    return "\n".join(lines)


def sign(said: str) -> str:
    return SIGNS.get(said.partition(":")[0], "not run")
