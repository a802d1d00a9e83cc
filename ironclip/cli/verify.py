"""The verb `verify`."""

from pathlib import Path
from typing import Annotated

import typer

from ironclip.cli.common import Json, app, emit, run_paths
from ironclip.cli.terminal import say, tell
from ironclip.core.errors import RunError


@app.command()
def verify(
    targets: Annotated[list[Path], typer.Argument(help="Runs, audits, or folders of them.")],
    seal: Annotated[
        bool, typer.Option("--seal", help="Your own runs of an older version: add the checksums that it did not write.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Count every record again from its samples and check what was learned; exit status 2 if anything differs."""
    from ironclip.records.verify import verify as verified

    folders = run_paths(targets)
    if seal:
        from ironclip.records.sealing import seal as seal_run

        for path in [path for folder in folders for path in seal_run(folder)]:
            tell(f"sealed {path}")
    found = [finding for folder in folders for finding in verified(folder)]
    if as_json:
        emit([{"path": str(finding.path), "ok": finding.ok, "text": finding.text} for finding in found])
    for finding in found:
        if not as_json:
            (say if finding.ok else tell)(f"{'ok' if finding.ok else 'WRONG'}  {finding.path}: {finding.text}")
    bad = sum(not finding.ok for finding in found)
    if bad:
        raise RunError(f"{bad} of {len(found)} things looked at {'is' if bad == 1 else 'are'} not to be believed; see above")
    if not as_json:
        say(f"all {len(found)} good")
