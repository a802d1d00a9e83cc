"""The verbs that look: list, show, doctor, data."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip import catalogue
from ironclip.cli.common import Classes, Json, Progress, app, emit, err, out, print_record, run_paths, table
from ironclip.errors import RunError, UsageError, unknown
from ironclip.runs.bounds import BOUND, LEGEND, mark

KINDS = ("methods", "attacks", "backbones", "datasets", "presets")
data_app = typer.Typer(help="What data is there, what is wrong with it, and how to get it.", no_args_is_help=True)
app.add_typer(data_app, name="data")
Name = Annotated[str, typer.Argument(help="A data set's name or path.")]


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

        found = {entry.name: f"{entry.description}; weights: {entry.weights}" for entry in list_backbones()}
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
    out.print(table(what, ["name", ""], [[name, text] for name, text in found.items()]))


@app.command()
def show(
    target: Annotated[Path, typer.Argument(help="A run's folder, runs/last, or a folder of runs.")], as_json: Json = False
) -> None:
    """Show a run: its configuration, where it stands, and what was measured."""
    from ironclip.runs.folder import RunFolder

    if target.is_dir() and not (target / "config.yaml").exists():
        _show_all(target, as_json)
        return
    run = RunFolder.open(target)
    records = [record for place in run.evaluations() if (record := place.record()) is not None]
    if as_json:
        listed = [record.model_dump(mode="json") for record in records]
        emit({"run": str(run.path), "status": run.status, "config": run.config, "records": listed})
        return
    out.print(f"[bold]{run.path}[/bold]  {run.status}")
    for key, value in run.config.items():
        out.print(f"  {key}: {value}", style="dim", markup=False)
    for record in records:
        print_record(record)


def _show_all(root: Path, as_json: bool) -> None:
    from ironclip.runs.folder import RunFolder

    rows: list[dict[str, Any]] = []
    for folder in sorted(path.parent for path in root.glob("*/config.yaml")):
        run = RunFolder.open(folder)
        record = run.record()
        measured = {"clean": record.clean.value, "robust": record.robust.value, "threat": record.threat_words} if record else {}
        measured |= {"one_loss": record.one_loss} if record else {}
        rows.append({"run": folder.name, "status": run.status, **measured})
    if as_json:
        emit(rows)
        return
    columns = ["run", "status", "clean", "robust", "threat"]
    cells = [[f"{v:.1%}" if isinstance(v := row.get(c, ""), float) else str(v) for c in columns] for row in rows]
    for row, line in zip(rows, cells, strict=True):
        line[3] = mark(row.get("one_loss", False)) + line[3]
    out.print(table(f"runs in {root}", columns, cells))
    if any(row.get("one_loss") for row in rows):
        out.print(f"{BOUND}: {LEGEND}")


@app.command()
def verify(
    targets: Annotated[list[Path], typer.Argument(help="Runs, audits, or folders of them.")], as_json: Json = False
) -> None:
    """Count every record again from its samples and check what was learned; exit status 2 if anything differs."""
    from ironclip.runs.verify import verify as verified

    found = [finding for folder in run_paths(targets) for finding in verified(folder)]
    if as_json:
        emit([{"path": str(finding.path), "ok": finding.ok, "text": finding.text} for finding in found])
    for finding in found:
        if not as_json:
            (out if finding.ok else err).print(f"{'ok' if finding.ok else 'WRONG'}  {finding.path}: {finding.text}", markup=False)
    bad = sum(not finding.ok for finding in found)
    if bad:
        raise RunError(f"{bad} of {len(found)} things looked at {'is' if bad == 1 else 'are'} not to be believed; see above")
    if not as_json:
        out.print(f"all {len(found)} good", markup=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, devices, data sets and backbones found here, and whether runs can be written."""
    import os
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from ironclip.backbones.registry import EMBEDDED, WEIGHTS_FOLDER
    from ironclip.data.checking import available
    from ironclip.data.packing import cache_folder

    def found(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("ironclip", "torch", "torchvision", "open_clip_torch", "timm", "safetensors", "numpy", "pydantic", "matplotlib")
    devices = ["cpu", *[f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    here = Path.cwd()
    facts: dict[str, Any] = {
        "versions": {package: found(package) for package in packages},
        "devices": devices,
        "threads": torch.get_num_threads(),
        "data sets ready": [entry.name for entry in available() if entry.ready],
        "backbones ready": list(EMBEDDED),
        "weights folder": os.environ.get(WEIGHTS_FOLDER, f"${WEIGHTS_FOLDER} is not set"),
        "cache": str(cache_folder()),
        "runs can be written": os.access(here, os.W_OK),
    }
    if as_json:
        emit(facts)
        return
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        out.print(f"[bold]{name}:[/bold] {', '.join(text) if isinstance(text, list) else text}")


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
    out.print(table("data sets", ["name", "classes", "here", "how to get it"], rows))


@data_app.command("check")
def data_check(
    names: Annotated[list[str], typer.Argument(help="Names or paths.")], classes: Classes = None, as_json: Json = False
) -> None:
    """Open every picture and say what is missing, unreadable or listed twice; exit status 1 if anything is."""
    from dataclasses import asdict

    from ironclip.data.checking import check

    reports = [check(name, classes_file=classes) for name in names]
    if as_json:
        emit([asdict(report) | {"ok": report.ok} for report in reports])
    else:
        for report in reports:
            counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
            out.print(
                f"[bold]{report.name}[/bold]: {'good' if report.ok else 'not good'}; {len(report.classes)} classes; {counts}"
            )
            lines = [*report.problems, *report.notes]
            lines += [f"{split}: {bad.name}: {bad.reason}" for split, many in report.bad.items() for bad in many]
            lines += [f"the same picture more than once: {', '.join(group)}" for group in report.repeated]
            for line in lines:
                out.print(f"  {line}", markup=False)
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@data_app.command("prepare")
def data_prepare(
    name: Name, resolution: Annotated[int, typer.Option(help="Pixels a side of the backbone.")] = 224, as_json: Json = False
) -> None:
    """Fetch a data set where a library can, and decode its pictures into the cache."""
    from ironclip.data.checking import prepare

    shown = Progress(f"prepare {name}", quiet=as_json)
    made = prepare(name, resolution=resolution, progress=lambda done, total: shown.count(done, total))
    if as_json:
        dropped = {split: [bad.name for bad in many] for split, many in made.dropped.items()}
        emit({"name": made.dataset.name, "cache": str(made.cache), "decoded": made.decoded, "dropped": dropped})
        return
    out.print(f"{made.dataset}\ndecoded at {made.resolution} px into {made.cache}: {dict(made.decoded)}", markup=False)
    for split, many in made.dropped.items():
        for bad in many:
            err.print(f"left out of {split}: {bad.name}: {bad.reason}", markup=False)
