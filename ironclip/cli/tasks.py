"""What `evaluate --task retrieval` and `--task corruptions` do: tables that are no record of an attack on a classifier."""

from typing import Any

from ironclip.cli.common import Progress, emit
from ironclip.cli.terminal import say, show_table, table
from ironclip.core.errors import UsageError
from ironclip.core.threat import format_eps, parse_eps

STEPS = 10


def run_task(
    task: str, target: str, data: str | None, *, eps: str | None, limit: int | None, split: str, changes: list[str], seed: int,
    device: str, as_json: bool, refused: dict[str, Any],
) -> None:  # fmt: skip
    """Measure and print.

    Args:
        task: "retrieval" or "corruptions".
        refused: options of other evaluations that were given: name -> value; any that is set is an error.

    Raises:
        UsageError: an option that the task does not have, or several radii.
    """
    if task == "corruptions":
        refused = {**refused, "--eps": eps, "--set": changes}
    if given := [name for name, value in refused.items() if value]:
        does = "PGD on images and Co-Attack on both, white-box" if task == "retrieval" else "14 corruptions at 5 severities"
        raise UsageError(f"--task {task} has no {', '.join(given)}; it measures {does}")
    if task == "corruptions":
        _corruptions(target, data, limit, split, seed, device, as_json)
    else:
        _retrieval(target, data, eps, limit, split, changes, seed, device, as_json)


def _corruptions(target: str, data: str | None, limit: int | None, split: str, seed: int, device: str, as_json: bool) -> None:
    try:
        from ironclip.protocols.corruption_table import corruption_table
    except ModuleNotFoundError as missing:
        raise UsageError(f"corruptions need {missing.name}; pip install 'ironclip[corruptions]'") from None
    from ironclip.protocols.resolve import open_target

    experiment = open_target(target, data, device=device)[1]
    line = Progress("corruptions", quiet=as_json)
    found = corruption_table(
        experiment.classifier, experiment.dataset, resolution=experiment.backbone.spec.resolution, split=split, limit=limit,
        seed=seed, device=device, progress=line.count,
    )  # fmt: skip
    if as_json:
        kinds = {kind: [part.model_dump() for part in parts] for kind, parts in found.kinds.items()}
        emit({"clean": found.clean.model_dump(), "kinds": kinds, "mean": found.mean})
        return
    rows = [[kind, *(f"{part.value:.1%}" for part in parts)] for kind, parts in found.kinds.items()]
    title = f"{experiment.config.method} on {experiment.dataset.name}, {found.clean.of} images: accuracy by severity"
    show_table(table(title, ["corruption", "1", "2", "3", "4", "5"], rows))
    say(f"clean {found.clean}; mean over all corruptions and severities {found.mean:.1%}; nobody attacked: no robust accuracy")


def _retrieval(
    target: str, data: str | None, eps: str | None, limit: int | None, split: str, changes: list[str], seed: int, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    radius = parse_eps("2/255" if eps is None else eps)
    if radius == 0:
        raise UsageError("eps 0 cannot move a pixel; clean recall is part of every table")
    steps = STEPS
    for change in changes:
        name, _, value = change.partition("=")
        if name != "steps" or not value.isdecimal() or int(value) < 1:
            raise UsageError(f"--task retrieval has the option steps alone, a whole number from 1 on; got {change!r}")
        steps = int(value)
    from ironclip.protocols.retrieval import opened, retrieval, towers_of

    experiment, captioned = opened(target, data, split, device=device)
    found = retrieval(towers_of(experiment), captioned, split=split, eps=radius, steps=steps, limit=limit, seed=seed)
    if as_json:
        emit({each.attack: {name: part.model_dump() for name, part in each.recall.items()} for each in found})
        return
    heads = ["recall", *(each.attack for each in found)]
    rows = [[name, *(str(each.recall[name]) for each in found)] for name in found[0].recall]
    title = f"{experiment.config.method} on {captioned.dataset.name}: recall of images and captions, linf {format_eps(radius)}"
    show_table(table(title, heads, rows))
    say("co-attack takes other words from the captions themselves, which is weaker than a language model: upper bounds")
