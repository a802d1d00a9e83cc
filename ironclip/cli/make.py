"""The verbs that make something to keep: demo, report, pretrain."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Device, Json, Progress, Seed, app, clock, emit, err, out, pick_device, run_paths
from ironclip.errors import UsageError


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
    from ironclip.files import write_text
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
    out.print(terminal(rows([view.record for view in shown])))
    out.print(f"page: {page.resolve()}\nruns: {', '.join(str(run.path) for run in runs)}\ntook {clock(time.monotonic() - start)}")


@app.command()
def report(
    targets: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.")] = None,
    latex: Annotated[Path | None, typer.Option("--latex", help="Write a booktabs table.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown table.")] = None,
    as_csv: Annotated[Path | None, typer.Option("--csv", help="Write the numbers.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "ironclip report",
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Methods as rows, data sets as columns, mean and deviation over seeds.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="With --matrix: a folder for every figure as an SVG file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A table of runs, on the terminal and in the formats asked for."""
    from ironclip.files import write_text
    from ironclip.report import formats, views
    from ironclip.report import page as report_page
    from ironclip.report.tables import rows
    from ironclip.runs.folder import RunFolder

    folders = run_paths(targets)
    if matrix:
        _matrix([RunFolder.open(folder) for folder in folders], latex, markdown, as_csv, html, figures, title)
        return
    if figures is not None:
        raise UsageError("--figures draws the tables of --matrix; add --matrix, or use --html for the figures of single runs")
    shown = [view for folder in folders for view in views.read(RunFolder.open(folder))]
    if not shown:
        raise UsageError(f"nothing is evaluated yet in {', '.join(map(str, targets))}; run `ironclip evaluate` first")
    table = rows([view.record for view in shown])
    writers: dict[Path | None, Any] = {
        html: lambda: report_page(shown, title=title),
        latex: lambda: formats.latex(table),
        markdown: lambda: formats.markdown(table),
        as_csv: lambda: formats.as_csv(table),
    }
    for path, text in writers.items():
        if path is not None:
            write_text(path, text())
            err.print(f"wrote {path}", markup=False)
    if as_json:
        print(formats.as_json(table))
    else:
        out.print(formats.terminal(table))


def _matrix(
    runs: list[Any],
    latex: Path | None,
    markdown: Path | None,
    as_csv: Path | None,
    html: Path | None,
    figures: Path | None,
    title: str,
) -> None:
    """Tables of all evaluations of these runs."""
    from ironclip.files import write_text
    from ironclip.report import formats
    from ironclip.report.labels import Entry
    from ironclip.report.matrix import matrices
    from ironclip.report.matrix_figures import figures as drawn
    from ironclip.report.matrix_page import matrix_page
    from ironclip.report.matrix_tables import cells, long
    from ironclip.report.svg import alone
    from ironclip.runs.folder import slug

    found = [(run, place.record()) for run in runs for place in run.evaluations()]
    entries = [Entry(record, run.config) for run, record in found if record is not None]
    tables = matrices(entries)
    if not tables:
        raise UsageError("nothing is evaluated yet in these folders; run `ironclip evaluate` or `ironclip grid run` first")
    grids = [cells(matrix) for matrix in tables]
    texts = {
        latex: "\n".join(formats.latex(each, label=f"tab:ironclip{number}") for number, each in enumerate(grids, 1)),
        markdown: "\n".join(formats.markdown(each) for each in grids),
        as_csv: long(tables),
        html: matrix_page(tables, title=title) if html else "",
    }
    if figures is not None:
        texts |= {figures / f"{n:02d}-{slug(one.title)[:100]}.svg": alone([one.svg]) for n, one in enumerate(drawn(tables), 1)}
    for path, text in texts.items():
        if path is not None:
            write_text(path, text)
            err.print(f"wrote {path}", markup=False)
    for each in grids:
        out.print(formats.terminal(each))


@app.command()
def pretrain(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, log and weights.")],
    objective: Annotated[
        str, typer.Option(help="contrastive (mini) or adversarial (its image tower, mini-robust).")
    ] = "contrastive",
    data: Annotated[Path, typer.Option("--data", help="Folder that holds pretrain64, caltech101, eurosat, flowers5.")] = Path(
        "../shared/data"
    ),
    images: Annotated[Path | None, typer.Option(help="More pictures: one folder a class, such as all of Tiny-ImageNet.")] = None,
    init: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value for any other setting.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train the embedded backbones from captioned pictures; goes on where an interrupted run stopped."""
    from ironclip.pretraining import PretrainConfig
    from ironclip.pretraining import pretrain as run_pretraining
    from ironclip.protocols.config import validated, values_of

    given = {"objective": objective, "data": data, "images": images, "init": init, "steps": steps, "batch": batch}
    values = {key: value for key, value in given.items() if value is not None}
    config = validated(PretrainConfig, {**values, **values_of(changes or []), "seed": seed, "device": pick_device(device)})

    def tell(row: dict[str, Any]) -> None:
        if not as_json:
            shown = "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
            err.print(shown, markup=False)

    weights = run_pretraining(config, out_folder, tell)
    if as_json:
        emit({"weights": str(weights), "config": config.model_dump(mode="json")})
    else:
        out.print(f"weights: {weights}", markup=False)
