"""The verb `list`: what there is, by name."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from ironclip import catalogue
from ironclip.cli.common import Json, app, emit
from ironclip.cli.terminal import show_table, table
from ironclip.core.errors import UsageError, unknown

KINDS = ("methods", "attacks", "backbones", "datasets", "presets")


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="methods, attacks, backbones, datasets or presets.")],
    paper: Annotated[str | None, typer.Option(help="Presets: the published rows of this paper, such as nap.")] = None,
    as_json: Json = False,
) -> None:
    """List what there is, by name."""
    if what not in KINDS:
        raise unknown("list", what, KINDS)
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
            "presets": partial(catalogue.presets, paper),
        }
        found = listed[what]()
    if as_json:
        emit(found)
        return
    show_table(table(what, ["name", ""], [[name, text] for name, text in found.items()]))
