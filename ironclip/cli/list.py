"""The verb `list`: what there is, by name."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from ironclip import catalogue
from ironclip.cli.common import Json, app, emit
from ironclip.cli.terminal import say, show_table, table
from ironclip.core.errors import UsageError, unknown

KINDS = ("methods", "attacks", "backbones", "datasets", "presets", "grids")


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="methods, attacks, backbones, datasets, presets, grids, or options NAME.")],
    name: Annotated[str | None, typer.Argument(help="With options: a method, such as nap or nap+advmask, or an attack.")] = None,
    paper: Annotated[str | None, typer.Option(help="Presets: the published rows of this paper, such as nap.")] = None,
    as_json: Json = False,
) -> None:
    """List what there is, by name."""
    if what == "options":
        _options(name, as_json)
        return
    if name is not None:
        raise UsageError(f"a name goes with `list options NAME`; got `list {what} {name}`")
    if what not in KINDS:
        raise unknown("list", what, (*KINDS, "options"))
    if paper is not None and what != "presets":
        raise UsageError(f"--paper goes with `list presets`; got `list {what}`")
    if what == "backbones":
        from ironclip.backbones.registry import list_backbones

        entries = list_backbones()
        if not as_json:
            rows = [[entry.name, entry.description, entry.weights, entry.license, entry.size] for entry in entries]
            show_table(table(what, ["name", "", "weights", "licence", "size"], rows))
            return
        found = {
            entry.name: f"{entry.description}; weights: {entry.weights}; licence: {entry.license}"
            + (f"; {entry.size}" if entry.size else "")
            for entry in entries
        }
    elif what == "datasets":
        from ironclip.data.checking import available

        found = {entry.name: ("ready" if entry.ready else entry.how) for entry in available()}
    else:
        listed: dict[str, Callable[[], dict[str, str]]] = {
            "methods": catalogue.methods,
            "attacks": catalogue.attacks,
            "grids": catalogue.grids,
            "presets": partial(catalogue.presets, paper),
        }
        found = listed[what]()
    if as_json:
        emit(found)
        return
    show_table(table(what, ["name", ""], [[name, text] for name, text in found.items()]))


def _options(name: str | None, as_json: bool) -> None:
    """Every option of a method or an attack, as --set takes it."""
    if name is None:
        raise UsageError("options of what? Write `ironclip list options NAME`; `list methods` and `list attacks` name all")
    from ironclip.attacks import CATALOGUE
    from ironclip.protocols.options import SHARED, described

    source, options = described(name)
    rows = [{"name": o.name, "default": o.default, "allowed": o.allowed, "meaning": o.meaning} for o in options]
    if as_json:
        emit({"name": name, "source": source, "options": rows})
        return
    cells = [[row["name"], _value(row["default"]), row["allowed"], row["meaning"]] for row in rows]
    show_table(table(f"options of {name}, set by --set name=value", ["name", "default", "allowed", "meaning"], cells))
    say(*filter(None, [source]))
    if name not in CATALOGUE:
        say(f"of every training: {', '.join(SHARED)} (`ironclip train {name} --data D --dry-run` shows the values)")


def _value(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
