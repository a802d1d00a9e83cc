"""The verb `report`: tables, pages and figures of runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Json, app, emit, run_paths
from ironclip.cli.terminal import show_table, tell
from ironclip.core.errors import UsageError


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
    static_adaptive: Annotated[
        Path | None,
        typer.Option(
            "--static-adaptive",
            help="Draw what defences report (static) beside what an attack on them leaves; also from --csv tables.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """A table of runs, on the terminal and in the formats asked for."""
    if static_adaptive is not None:
        others = {
            "--html": html,
            "--latex": latex,
            "--markdown": markdown,
            "--csv": as_csv,
            "--figures": figures,
            "--matrix": matrix,
        }
        if given := [name for name, value in others.items() if value]:
            raise UsageError(f"--static-adaptive draws one picture; leave out {', '.join(given)}")
        _static_adaptive(targets, static_adaptive, as_json)
        return
    from ironclip.core.files import write_text
    from ironclip.records.folder import RunFolder
    from ironclip.report import formats, views
    from ironclip.report import page as report_page
    from ironclip.report.tables import rows

    folders = run_paths(targets)
    if matrix:
        _matrix([RunFolder.open(folder) for folder in folders], latex, markdown, as_csv, html, figures, title, as_json)
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
            tell(f"wrote {path}")
    if as_json:
        print(formats.as_json(table))
    else:
        show_table(formats.terminal(table))


def _static_adaptive(targets: list[Path], file: Path, as_json: bool) -> None:
    """The picture of runs and of tables that --csv wrote."""
    from ironclip.core.files import write_text
    from ironclip.core.texts import plain_bytes
    from ironclip.records.folder import RunFolder
    from ironclip.report.static_adaptive import of_csv, of_rows, pairs, picture
    from ironclip.report.tables import rows

    if file.suffix != ".svg":
        raise UsageError(f"--static-adaptive writes an .svg file; got {file.name!r}")
    tables = [target for target in targets if target.suffix == ".csv"]
    runs = [RunFolder.open(path) for path in run_paths([target for target in targets if target not in tables])]
    records = [record for run in runs for place in run.evaluations() if (record := place.record()) is not None]
    found = of_rows(rows(records))
    for table in tables:
        found += of_csv(plain_bytes(table).decode(errors="replace"), str(table))
    shown = pairs(found)
    write_text(file, picture(shown))
    tell(f"wrote {file}")
    if as_json:
        emit([{"method": pair.method, "setting": pair.setting, "data": pair.data,
               "static": pair.static.model_dump(), "attacked": pair.attacked.model_dump()} for pair in shown])  # fmt: skip


def _matrix(
    runs: list[Any],
    latex: Path | None,
    markdown: Path | None,
    as_csv: Path | None,
    html: Path | None,
    figures: Path | None,
    title: str,
    as_json: bool,
) -> None:
    """Tables of all evaluations of these runs."""
    from ironclip.core.files import write_text
    from ironclip.records.folder import slug
    from ironclip.report import formats
    from ironclip.report.labels import Entry
    from ironclip.report.matrix import matrices
    from ironclip.report.matrix_figures import figures as drawn
    from ironclip.report.matrix_page import matrix_page
    from ironclip.report.matrix_tables import cells, listed, long
    from ironclip.report.svg import alone

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
            tell(f"wrote {path}")
    if as_json:
        emit(listed(tables))
        return
    for each in grids:
        show_table(formats.terminal(each))
