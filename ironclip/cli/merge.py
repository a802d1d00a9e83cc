"""The verb `merge`: one record from the shards of an evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from ironclip.cli.common import Json, app, emit, print_record, took
from ironclip.core.errors import RunError


@app.command()
def merge(
    target: Annotated[Path, typer.Argument(help="The folder of a run or an audit, with all its shards in it.")],
    as_json: Json = False,
) -> None:
    """Write the records of evaluations that were done in shards; each equals that of the evaluation in one piece."""
    from ironclip.records.folder import RunFolder
    from ironclip.records.merge import merge as merged
    from ironclip.records.shards import shards

    run = RunFolder.open(took(target, quiet=as_json))
    places = [place for place in run.evaluations() if shards(place)]
    if not places:
        raise RunError(f"{run.path} has no shards; `ironclip evaluate RUN --shard k/n` makes them")
    records, wrong = [], []
    for place in places:
        try:
            records.append(merged(run, place))
        except RunError as error:
            wrong.append(error)
    if wrong:
        raise wrong[0]
    if as_json:
        emit([record.model_dump(mode="json") for record in records])
        return
    for record in records:
        print_record(record)
