"""The verb `train`: a run from a method and a few images for each class."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import (
    Activation,
    Backbone,
    Base,
    Classes,
    Data,
    Device,
    Json,
    Layout,
    Progress,
    Seed,
    Weights,
    app,
    clock,
    emit,
    pick_device,
    print_notes,
)
from ironclip.cli.terminal import command, say
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="key=value for any setting, e.g. epochs=10, length=4, attack.steps=5 (ironclip list options METHOD)."
    ),
]


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="A method, or several joined by + (ironclip list methods).")],
    data: Data,
    backbone: Backbone = "mini",
    weights: Weights = None,
    base: Base = None,
    activation: Activation = None,
    classes: Classes = None,
    layout: Layout = "auto",
    shots: Annotated[
        int | None, typer.Option(help="Training images per class; 0: all; default: that of the preset, mostly 16.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius of the training attack, such as 4/255; default: that of the preset.")
    ] = None,
    norm: Annotated[str | None, typer.Option("--norm", help="Norm of the training attack: linf, or l2 with an --eps.")] = None,
    seed: Seed = 1,
    split_seed: Annotated[int | None, typer.Option(help="Seed that draws the shots; default: that of --seed.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A preset (ironclip list presets); default: METHOD/default, the paper's settings; METHOD/quick is short."
        ),
    ] = None,
    changes: Set = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Number type of training and its inner attacks: float32, tf32 or bf16; evaluations use float32."
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the image tower's blocks: a slow start, then faster steps.")
    ] = False,
    out_folder: Annotated[Path | None, typer.Option("--out", help="The run's folder; default: a name in runs/.")] = None,
    processes: Annotated[
        int,
        typer.Option("--processes", "--devices", help="Processes that share each batch; on GPUs one per device (extra: dist)."),
    ] = 1,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train a defence on a few images per class; the same command goes on where an interrupted one stopped."""
    if processes < 1:
        raise UsageError(f"--processes is at least 1; got {processes}")
    given: dict[str, Any] = {"backbone": backbone, "seed": seed, "split_seed": seed if split_seed is None else split_seed}
    optional = {
        "weights": weights,
        "base": base,
        "activation": activation,
        "classes": classes,
        "eps": eps,
        "norm": norm,
        "shots": shots,
        "precision": precision,
    }
    given |= {key: str(value) if isinstance(value, Path) else value for key, value in optional.items() if value is not None}
    if shots == 0:
        given["shots"] = None
    if layout != "auto":
        given["layout"] = layout
    from ironclip.protocols.resolve import resolve, training_radius

    config = resolve(method, data, preset=preset, given=given, changes=changes or [])
    if dry_run:
        emit(config.as_dict())
        return
    from ironclip.core.threat import format_eps
    from ironclip.loops.started import group
    from ironclip.protocols.distributed import train_together
    from ironclip.protocols.experiment import open_experiment
    from ironclip.protocols.few_shot import check_divisible
    from ironclip.protocols.few_shot import train as run_training
    from ironclip.protocols.forecast import forecast
    from ironclip.records.collapse import collapse_words

    progress = Progress(f"train {config.method}", quiet=as_json)
    if not as_json:
        say(config, style="bold")
    those, where = group(), pick_device(device)
    together = processes > 1 or bool(those)
    experiment = open_experiment(config, device=where)
    check_divisible(experiment, together)
    print_notes(experiment.dataset.notes, quiet=as_json)
    if not as_json and (ahead := forecast(experiment)) is not None:
        say(training_radius(config))
        length = f"{number_of(ahead.steps, 'step')} in {number_of(ahead.epochs, 'epoch')}, {number_of(ahead.batch, 'image')} each"
        say(f"{length}, an attack of {number_of(ahead.inner, 'step')} on each; roughly {clock(ahead.seconds)} here")
    options: dict[str, Any] = {"out": out_folder, "callback": progress, "as_last": True, "compile": compiled}
    if together:
        run = train_together(config, processes=processes, those=those, device=where, **options)
    else:
        run = run_training(config, experiment=experiment, **options)
    flags: list[str] = next((entry["flags"] for entry in reversed(run.entries()) if "flags" in entry), [])
    if as_json:
        emit({"run": str(run.path), "status": run.status, "flags": flags, "config": config.as_dict()})
        return
    if words := collapse_words(flags):
        say(f"warning: {words}. Try a smaller lr, clip_norm or eps", style="yellow")
    under = ["--eps", format_eps(config.eps)] if config.norm == "linf" else ["--norm", config.norm, "--eps", f"{config.eps:g}"]
    say(f"run: {run.path}", f"next: {command('evaluate', run.path, *under)}")


def refused(arguments: Sequence[str], reason: str) -> None:
    """After a refused training `last` points to no run, because it would be another run than the user asked for."""
    from contextlib import suppress

    from ironclip.records.last import refuse

    folders = [value for option, value in pairwise(arguments) if option == "--out"]
    folders += [each.removeprefix("--out=") for each in arguments if each.startswith("--out=")]
    with suppress(OSError):  # the refusal itself is what the user has to read
        refuse(Path(folders[-1]).parent if folders else Path("runs"), reason)
