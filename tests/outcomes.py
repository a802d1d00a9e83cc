"""What was measured in a folder of runs, apart from times, machine and command: two ways to the same grid must agree on it."""

from pathlib import Path

from ironclip.records.folder import RunFolder


def outcomes(out: Path) -> dict[str, list]:
    """The records of every run, by the name of its folder."""
    found = {}
    for path in sorted(out.glob("*/config.yaml")):
        run = RunFolder.open(path.parent)
        records = [place.record() for place in run.evaluations()]
        found[path.parent.name] = [
            {key: value for key, value in record.outcome().items() if key not in ("environment", "command")}
            for record in records
            if record is not None
        ]
    return found
