"""The verb `report`: tables, pages and figures of runs."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.catalogue import first_lines
from ironclip.cli.common import Json, app, emit, run_paths
from ironclip.cli.terminal import show_table, tell
from ironclip.core.errors import UsageError


def with_formats(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option `--NAME FILE` for every table format that is there, in place of its `**files`."""
    options = {
        name: Annotated[Path | None, typer.Option(f"--{name}", help=line)] for name, line in first_lines("report/formats").items()
    }
    signature = inspect.signature(verb)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    offered = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in options.items()
    ]
    verb.__signature__ = signature.replace(parameters=[*own, *offered])  # type: ignore[attr-defined]
    verb.__annotations__ |= options
    return verb


@app.command()
@with_formats
def report(
    targets: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.")] = None,
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
    **files: Path | None,
) -> None:
    """A table of runs, on the terminal and in the formats asked for."""
    if static_adaptive is not None:
        others = {
            "--html": html,
            **{f"--{name}": path for name, path in files.items()},
            "--csv": as_csv,
            "--figures": figures,
            "--matrix": matrix,
        }
        if given := [name for name, value in others.items() if value]:
            raise UsageError(f"--static-adaptive draws one figure; leave out {', '.join(given)}")
        _static_adaptive(targets, static_adaptive, as_json)
        return
    from ironclip.records.folder import RunFolder
    from ironclip.report import cells, formats, views
    from ironclip.report import page as report_page
    from ironclip.report.tables import rows

    wanted = {path: name for name, path in files.items() if path is not None}
    folders = run_paths(targets)
    if matrix:
        _matrix([RunFolder.open(folder) for folder in folders], wanted, as_csv, html, figures, title, as_json)
        return
    if figures is not None:
        raise UsageError("--figures draws the tables of --matrix; add --matrix, or use --html for the figures of single runs")
    runs = [RunFolder.open(folder) for folder in folders]
    table = rows(*_named(runs))
    if not table:
        raise UsageError(f"nothing is evaluated yet in {', '.join(map(str, targets))}; run `ironclip evaluate` first")
    texts = {path: formats.written(name, [table]) for path, name in wanted.items()}
    if html is not None:
        texts[html] = report_page([view for run in runs for view in views.read(run)], title=title)
    if as_csv is not None:
        texts[as_csv] = cells.as_csv(table)
    _write(texts)
    if as_json:
        print(cells.as_json(table))
    else:
        show_table(cells.terminal(table))


def _static_adaptive(targets: list[Path], file: Path, as_json: bool) -> None:
    """The figure of runs and of tables that --csv wrote."""
    from ironclip.core.texts import plain_bytes
    from ironclip.records.folder import RunFolder
    from ironclip.report.static_adaptive import of_csv, of_rows, pairs, picture
    from ironclip.report.tables import rows

    if file.suffix != ".svg":
        raise UsageError(f"--static-adaptive writes an .svg file; got {file.name!r}")
    tables = [target for target in targets if target.suffix == ".csv"]
    runs = [RunFolder.open(path) for path in run_paths([target for target in targets if target not in tables])]
    found = of_rows(rows(*_named(runs)))
    for table in tables:
        found += of_csv(plain_bytes(table).decode(errors="replace"), str(table))
    shown = pairs(found)
    _write({file: picture(shown)})
    if as_json:
        facts = ("method", "setting", "data", "knowledge")
        sides = ("reported", "attacked")
        emit([{**{name: getattr(pair, name) for name in facts}, **{side: getattr(pair, side).model_dump() for side in sides}}
              for pair in shown])  # fmt: skip


def _named(runs: list[Any]) -> tuple[list[Any], list[str]]:
    """The records of these runs, and what the method of each is called."""
    from ironclip.report.labels import labels_of

    entries = _entries(runs)
    return [entry.record for entry in entries], labels_of(entries)


def _entries(runs: list[Any]) -> list[Any]:
    """All finished evaluations of these runs, with their settings."""
    from ironclip.report.labels import Entry

    return [Entry(record, run.config) for run in runs for place in run.evaluations() if (record := place.record()) is not None]


def _matrix(
    runs: list[Any],
    wanted: Mapping[Path, str],
    as_csv: Path | None,
    html: Path | None,
    figures: Path | None,
    title: str,
    as_json: bool,
) -> None:
    """Tables of all evaluations of these runs."""
    from ironclip.records.folder import slug
    from ironclip.report import formats
    from ironclip.report.cells import terminal
    from ironclip.report.matrix import matrices
    from ironclip.report.matrix_figures import figures as drawn
    from ironclip.report.matrix_page import matrix_page
    from ironclip.report.matrix_tables import cells, listed, long
    from ironclip.report.svg import alone

    tables = matrices(_entries(runs))
    if not tables:
        raise UsageError("nothing is evaluated yet in these folders; run `ironclip evaluate` or `ironclip grid run` first")
    grids = [cells(matrix) for matrix in tables]
    texts = {path: formats.written(name, grids) for path, name in wanted.items()}
    if as_csv is not None:
        texts[as_csv] = long(tables)
    if html is not None:
        texts[html] = matrix_page(tables, title=title)
    if figures is not None:
        texts |= {figures / f"{n:02d}-{slug(one.title)[:100]}.svg": alone([one.svg]) for n, one in enumerate(drawn(tables), 1)}
    _write(texts)
    if as_json:
        emit(listed(tables))
        return
    for each in grids:
        show_table(terminal(each))


def _write(texts: Mapping[Path, str]) -> None:
    from ironclip.core.files import write_text

    for path, text in texts.items():
        write_text(path, text)
        tell(f"wrote {path}")
