"""The verbs `data list`, `data check` and `data prepare`."""

from typing import Annotated

import typer

from ironclip.cli.common import Classes, Json, Layout, Progress, app, emit
from ironclip.cli.terminal import say, show_table, table, tell
from ironclip.core.shown import number_of

data_app = typer.Typer(help="What data is there, what is wrong with it, and how to get it.", no_args_is_help=True)

app.add_typer(data_app, name="data")

Name = Annotated[str, typer.Argument(help="A data set's name or path.")]


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Every data set known by name: whether it is here, and how to get it."""
    from dataclasses import asdict

    from ironclip.data.checking import available

    found = available()
    if as_json:
        emit([asdict(entry) | {"ready": entry.ready} for entry in found])
        return
    rows = [
        [entry.name, str(entry.classes or ""), "ready" if entry.ready else entry.missing or "not here", entry.how]
        for entry in found
    ]
    show_table(table("data sets", ["name", "classes", "here", "how to get it"], rows))


@data_app.command("check")
def data_check(
    names: Annotated[list[str], typer.Argument(help="Names or paths.")],
    classes: Classes = None,
    layout: Layout = "auto",
    shots: Annotated[
        int | None,
        typer.Option(help="Also whether each class has this many training images (16 shots need about 27 images per class)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Open every image and say what is missing, unreadable, in two splits or under two labels; exit status 1 if anything is."""
    from dataclasses import asdict

    from ironclip.data.checking import check

    reports = [check(name, classes_file=classes, layout=layout, shots=shots) for name in names]
    if as_json:
        emit([asdict(report) | {"ok": report.ok} for report in reports])
    else:
        for report in reports:
            counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
            verdict = "good" if report.ok else "not good"
            say(f"{report.name}: {verdict}; {number_of(len(report.classes), 'class')}; {counts}", style="bold")
            lines = [*report.problems, *report.notes]
            lines += [f"{split}: {bad.name}: {bad.reason}" for split, many in report.bad.items() for bad in many]
            lines += [f"the same image more than once: {', '.join(group)}" for group in report.repeated]
            for line in lines:
                say(f"  {line}")
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@data_app.command("prepare")
def data_prepare(
    name: Name,
    resolution: Annotated[int, typer.Option(help="The backbone's image size: pixels per side.")] = 224,
    layout: Layout = "auto",
    as_json: Json = False,
) -> None:
    """Fetch a data set where a library can, and decode its images into the cache."""
    from ironclip.data.checking import prepare

    shown = Progress(f"prepare {name}", quiet=as_json)
    made = prepare(name, resolution=resolution, layout=layout, progress=lambda done, total: shown.count(done, total))
    if as_json:
        dropped = {split: [bad.name for bad in many] for split, many in made.dropped.items()}
        emit({"name": made.dataset.name, "cache": str(made.cache), "decoded": made.decoded, "dropped": dropped})
        return
    say(made.dataset, f"decoded at {made.resolution} px into {made.cache}: {dict(made.decoded)}")
    for split, many in made.dropped.items():
        for bad in many:
            tell(f"left out of {split}: {bad.name}: {bad.reason}")
