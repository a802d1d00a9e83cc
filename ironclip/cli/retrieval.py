"""What `evaluate --task retrieval` does: recall tables of a run's towers on pictures with captions."""

from pathlib import Path
from typing import Any

from ironclip.cli.common import emit
from ironclip.cli.terminal import say, show_table, table
from ironclip.core.errors import UsageError
from ironclip.core.threat import format_eps, parse_eps

STEPS = 10


def run_retrieval(
    target: str, data: str | None, *, eps: str | None, limit: int | None, split: str, changes: list[str], seed: int, device: str,
    as_json: bool, refused: dict[str, Any],
) -> None:  # fmt: skip
    """Measure and print.

    Args:
        refused: options of other evaluations that were given: name -> value; any that is set is an error.

    Raises:
        UsageError: an option that retrieval does not have, or several radii.
    """
    if given := [name for name, value in refused.items() if value]:
        raise UsageError(
            f"--task retrieval has no {', '.join(given)}; it measures PGD on images and Co-Attack on both, white-box"
        )
    radius = parse_eps("2/255" if eps is None else eps)
    if radius == 0:
        raise UsageError("eps 0 cannot move a pixel; clean recall is part of every table")
    steps = STEPS
    for change in changes:
        name, _, value = change.partition("=")
        if name != "steps" or not value.isdecimal() or int(value) < 1:
            raise UsageError(f"--task retrieval has the option steps alone, a whole number from 1 on; got {change!r}")
        steps = int(value)
    from ironclip.data.captions import captioned_folder, captions_of
    from ironclip.protocols.resolve import open_target
    from ironclip.protocols.retrieval import retrieval, towers_of
    from ironclip.records.folder import is_run

    folder = captioned_folder(Path(data)) if data is not None else None
    run = Path(target).exists() and is_run(Path(target))
    other = None if folder is not None and run else "shapes" if folder is not None else data
    experiment = open_target(target, other, device=device)[1]
    captioned = folder or captions_of(experiment.dataset, split)
    found = retrieval(towers_of(experiment), captioned, split=split, eps=radius, steps=steps, limit=limit, seed=seed)
    if as_json:
        emit({each.attack: {name: part.model_dump() for name, part in each.recall.items()} for each in found})
        return
    heads = ["recall", *(each.attack for each in found)]
    rows = [[name, *(str(each.recall[name]) for each in found)] for name in found[0].recall]
    title = f"{experiment.config.method} on {captioned.dataset.name}: recall of pictures and captions, linf {format_eps(radius)}"
    show_table(table(title, heads, rows))
    say("co-attack takes other words from the captions themselves, which is weaker than a language model: upper bounds")
