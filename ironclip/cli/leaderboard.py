"""The verb `leaderboard`: a static site from records."""

from pathlib import Path
from typing import Annotated

import typer

from ironclip.cli.common import Json, app, emit, run_paths
from ironclip.cli.terminal import say
from ironclip.core.errors import RunError
from ironclip.core.shown import number_of


@app.command()
def leaderboard(
    targets: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.")],
    html: Annotated[Path, typer.Option("--html", help="The site's folder: index.html and JSON files; other files stay.")],
    audits: Annotated[
        list[Path] | None, typer.Option("--audits", help="Audits that you made of these runs: lists only what they measured.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Leaderboard of robust CLIP-like models",
    as_json: Json = False,
) -> None:
    """A static site: every defence with what static images leave beside what an attack on it leaves, and its records."""
    from ironclip.core.files import write_json, write_text
    from ironclip.report.leaderboard import collect, lines, site

    listed = lines(collect(run_paths(targets), run_paths(audits or [])), audited=bool(audits))
    if html.exists() and not html.is_dir():
        raise RunError(f"{html} is no folder; --html names the folder of the site")
    for name, content in site(listed, title=title).items():  # index.html is the last: it points to what is there
        if isinstance(content, str):
            write_text(html / name, content)
        else:
            write_json(html / name, content)
    if as_json:
        emit([line.summary() for line in listed])
        return
    say(f"{number_of(len(listed), 'line')}: {html / 'index.html'}")
