"""The verbs `backbones check` and `backbones fetch`: what weights are, before anything is trained on them."""

from typing import Annotated, Any

import typer

from ironclip.cli.common import Activation, Base, Json, Weights, app, emit
from ironclip.cli.terminal import say

backbones_app = typer.Typer(help="What weights are, and how to have them before the machine is offline.", no_args_is_help=True)

app.add_typer(backbones_app, name="backbones")


@backbones_app.command("check")
def backbones_check(
    name: Annotated[str, typer.Argument(help="A file, a folder, an architecture with --weights, or any backbone's name.")],
    weights: Weights = None,
    base: Base = None,
    activation: Activation = None,
    as_json: Json = False,
) -> None:
    """Load weights and say what they are: form, architecture, activation, sizes, sha256 and the logits of two fixed images."""
    from ironclip.backbones.inspection import inspect

    _show(inspect(name, weights=weights, base=base, activation=activation), as_json)


@backbones_app.command("fetch")
def backbones_fetch(
    names: Annotated[
        list[str], typer.Argument(help="Backbones that are downloaded (ironclip list backbones), or hf-hub:ORG/NAME.")
    ],
    as_json: Json = False,
) -> None:
    """Download weights and tokenizers into the cache, load them once, and say where they lie; then the machine may go offline."""
    from ironclip.backbones.inspection import inspect

    for name in names:
        _show(inspect(name), as_json)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(facts)
        return
    for key, value in facts.items():
        say(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
