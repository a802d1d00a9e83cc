"""The verb `attack`: adversarial images, saved."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import (
    Activation,
    Base,
    BatchSize,
    Classes,
    Device,
    Json,
    Layout,
    Limit,
    Norm,
    Progress,
    ShardOption,
    Weights,
    WorkersOption,
    app,
    emit,
    images_at_once,
    pick_device,
    print_left,
    print_notes,
    repeated,
    shared_out,
    took,
)  # fmt: skip
from ironclip.cli.terminal import say
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of
from ironclip.core.threat import Threat, format_eps, parse_radii, read_norm


@app.command()
def attack(
    target: Annotated[str, typer.Argument(help="A run's folder, or a backbone (zero-shot, needs --data).")],
    save: Annotated[Path, typer.Option("--save", help="Folder for the images, made if it is not there.")],
    name: Annotated[str, typer.Option("--attack", help="The attack (ironclip list attacks).")] = "pgd",
    eps: Annotated[str | None, typer.Option("--eps", help="Radius; default: 4/255 for linf, none for l2.")] = None,
    norm: Norm = "linf",
    data: Annotated[str | None, typer.Option("--data", help="For a backbone: the data set.")] = None,
    classes: Classes = None,
    layout: Layout = "auto",
    weights: Weights = None,
    base: Base = None,
    activation: Activation = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    limit: Limit = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Options of the attack, e.g. steps=100.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the attack's randomness.")] = 0,
    batch_size: BatchSize = "auto",
    shard: ShardOption = None,
    workers: WorkersOption = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write adversarial images as lossless PNG, inside the radius after rounding to 8 bits, with a manifest."""
    at_once = images_at_once(batch_size)
    share = shared_out(shard, workers)
    from ironclip.protocols.adversarial_images import MANIFEST, write_adversarial, write_shards
    from ironclip.protocols.frozen import given
    from ironclip.protocols.resolve import named_attacks, open_target
    from ironclip.protocols.workers import Workers
    from ironclip.records.share import Share

    (radius, *more) = parse_radii(eps, norm)
    if more:
        raise UsageError(f"images are written for one radius; got --eps {eps}")
    threat = Threat(norm=read_norm(norm), eps=radius, quantised=True)
    (made, *members) = named_attacks([name], radius, seed, changes or [], norm=threat.norm).values()
    if members:
        raise UsageError(f"images are written for one attack; {name} stands for several, name one of them")
    frozen = given(weights=weights, base=base, activation=activation)
    where = pick_device(device)
    taken = took(target, quiet=as_json)
    _, experiment = open_target(taken, data, device=where, classes=classes, layout=layout, frozen=frozen)
    print_notes(experiment.dataset.notes, quiet=as_json)
    shown = Progress(f"attack {name}", quiet=as_json)
    options: dict[str, Any] = {"split": split, "limit": limit, "batch_size": at_once, "progress": shown.count}
    if workers > 1:
        share = Share(None, 1)  # to read what the workers wrote
        with Workers(repeated(target, taken), workers, where) as pool:
            pool.watch(save / MANIFEST, lambda: _pictures(save, shown))
    manifest: dict[str, Any] | None
    left: tuple[Any, ...]
    if share is None:
        manifest, left = write_adversarial(experiment, made, threat, save, **options), ()
    else:
        manifest, left = write_shards(experiment, made, threat, save, share, **options)
    if manifest is None:
        emit({"folder": str(save), "unfinished": [str(each) for each in left]}) if as_json else print_left(left, save)
        return
    if as_json:
        emit(manifest)
        return
    fooled = sum(entry["prediction"] != entry["label"] for entry in manifest["images"])
    within = f"{norm} radius {format_eps(radius, norm)} after 8 bits"
    say(f"{number_of(len(manifest['images']), 'image')} in {save}, {within}; {fooled} misclassified")


def _pictures(folder: Path, shown: Progress) -> int:
    """Print and return the number of images."""
    found = len(list(folder.glob("*.png")))
    shown.say(number_of(found, "image"), False)
    return found
