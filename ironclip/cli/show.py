"""The verb `show`: what a run holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Json, app, emit, print_record
from ironclip.cli.terminal import say, show_table, table
from ironclip.records.bounds import BOUND, LEGEND, mark


@app.command()
def show(
    target: Annotated[Path, typer.Argument(help="A run's folder, runs/last, or a folder of runs.")], as_json: Json = False
) -> None:
    """Show a run: its configuration, where it stands, and what was measured."""
    from ironclip.records.folder import RunFolder

    if target.is_dir() and not (target / "config.yaml").exists():
        _show_all(target, as_json)
        return
    run = RunFolder.open(target)
    records = [record for place in run.evaluations() if (record := place.record()) is not None]
    if as_json:
        listed = [record.model_dump(mode="json") for record in records]
        emit({"run": str(run.path), "status": run.status, "config": run.config, "records": listed})
        return
    say(f"{run.path}  {run.status}", style="bold")
    for key, value in run.config.items():
        say(f"  {key}: {value}", style="dim")
    for record in records:
        print_record(record)


def _show_all(root: Path, as_json: bool) -> None:
    from ironclip.records.folder import RunFolder

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
    show_table(table(f"runs in {root}", columns, cells))
    if any(row.get("one_loss") for row in rows):
        say(f"{BOUND}: {LEGEND}")
