"""The verb `demo`: the main job on embedded defaults."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ironclip.cli.common import Device, Json, Progress, Seed, app, clock, emit, pick_device
from ironclip.cli.terminal import say, show_table


@app.command()
def demo(
    page: Annotated[Path, typer.Option("--html", help="The page to write.")] = Path("demo.html"),
    root: Annotated[Path, typer.Option("--out", help="Folder for the runs.")] = Path("runs"),
    seed: Seed = 1,
    device: Device = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A few images and steps: shows that everything works.")] = False,
    as_json: Json = False,
) -> None:
    """The main job on embedded defaults, in minutes: adapt, attack, defend, and an HTML page at the end."""
    from ironclip.core.files import write_text
    from ironclip.protocols.demo import run_demo
    from ironclip.report import page as report_page
    from ironclip.report import terminal, views
    from ironclip.report.tables import rows

    start = time.monotonic()

    def progress(label: str) -> Progress:
        return Progress(label, quiet=as_json)

    runs = run_demo(root=root, seed=seed, device=pick_device(device), quick=quick, progress=progress)
    shown = [view for run in runs for view in views.read(run)]
    write_text(page, report_page(shown, title="ironclip demo"))
    if as_json:
        emit({"page": str(page), "runs": [str(run.path) for run in runs]})
        return
    show_table(terminal(rows([view.record for view in shown])))
    say(f"page: {page.resolve()}", f"runs: {', '.join(str(run.path) for run in runs)}")
    say(f"took {clock(time.monotonic() - start)}")
