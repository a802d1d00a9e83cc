"""An SQLite index over a directory of runs. The folders are the truth; the index can be thrown away and made again."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ironclip.core.errors import IronclipError, RunError, unknown
from ironclip.records.folder import EvaluationFolder, RunFolder

NAME = "index.sqlite"
COLUMNS = {
    "run": "TEXT NOT NULL",
    "evaluation": "TEXT NOT NULL",
    "status": "TEXT NOT NULL",
    "config_hash": "TEXT NOT NULL",
    "method": "TEXT",
    "dataset": "TEXT",
    "backbone": "TEXT",
    "shots": "INTEGER",
    "seed": "INTEGER",
    "norm": "TEXT",
    "eps": "REAL",
    "knowledge": "TEXT",
    "attacks": "TEXT",
    "images": "INTEGER",
    "clean": "REAL",
    "robust": "REAL",
    "failed": "INTEGER",
}
"""One row an evaluation (one with an empty `evaluation` for a run's own, finished or not). `run` and `evaluation` are paths
relative to the directory and to the run, `attacks` names joined by "+", `failed` the number of flags of level "fail"."""

SCHEMA = f"CREATE TABLE IF NOT EXISTS runs ({', '.join(f'{k} {v}' for k, v in COLUMNS.items())}, PRIMARY KEY (run, evaluation))"
MARKS = ("config.yaml", "record.json", "samples.jsonl", "learned.safetensors", "state.safetensors")


class Index:
    """Rows about all runs below a directory.

    Several processes may read and write (write-ahead log); on a file system without locks, let one process write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / NAME
        with self._open() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(SCHEMA)

    def update(self, run: RunFolder) -> None:
        """Read one run again.

        Raises:
            RunError: the run is broken or lies elsewhere; the index keeps what it had.
        """
        rows = self._rows(run)
        with self._open() as database:
            self._replace(database, rows)

    def rebuild(self) -> list[str]:
        """Read all runs again; one line for each folder that is broken, which is left out."""
        rows, broken = [], []
        for folder in run_folders(self.root):
            try:
                rows.append(self._rows(RunFolder.open(folder)))
            except IronclipError as error:
                broken.append(str(error))
        with self._open() as database:
            database.execute("DELETE FROM runs")
            for group in rows:
                self._replace(database, group)
        return broken

    def find(self, **equal: Any) -> list[dict[str, Any]]:
        """Rows whose columns have these values, in the order of their names; all rows if none is given.

        Raises:
            UsageError: no such column.
        """
        for column in equal:
            if column not in COLUMNS:
                raise unknown("column of the index", column, COLUMNS)
        where = " AND ".join(f"{column} IS ?" for column in equal)
        query = f"SELECT * FROM runs {'WHERE ' + where if where else ''} ORDER BY run, evaluation"
        with self._open() as database:
            return [dict(row) for row in database.execute(query, tuple(equal.values()))]

    def _rows(self, run: RunFolder) -> list[dict[str, Any]]:
        try:
            name = run.path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            raise RunError(f"{run.path} does not lie in {self.root}") from None
        return [self._row(name, run, place) for place in run.evaluations() or [run]]

    def _row(self, name: str, run: RunFolder, place: EvaluationFolder) -> dict[str, Any]:
        config, record = run.config, place.record()
        row = dict.fromkeys(COLUMNS) | {
            "run": name,
            "evaluation": "" if place.path == run.path else place.path.relative_to(run.path).as_posix(),
            "status": run.status,
            "config_hash": run.config_hash,
            **{key: _simple(config.get(key)) for key in ("method", "dataset", "backbone", "shots", "seed")},
        }
        if record is not None:
            row |= {
                "norm": record.threat.norm,
                "eps": record.threat.eps,
                "knowledge": record.threat.knowledge,
                "attacks": "+".join(attack.name for attack in record.attacks),
                "images": record.images,
                "clean": record.clean.value,
                "robust": record.robust.value,
                "failed": sum(flag.level == "fail" for flag in record.flags),
            }
        return row

    def _replace(self, database: sqlite3.Connection, rows: list[dict[str, Any]]) -> None:
        database.execute("DELETE FROM runs WHERE run = ?", (rows[0]["run"],))
        marks = ", ".join("?" for _ in COLUMNS)
        database.executemany(f"INSERT INTO runs VALUES ({marks})", [tuple(row.values()) for row in rows])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
                database.row_factory = sqlite3.Row
                yield database
        except sqlite3.Error as error:
            raise RunError(f"the index {self.path} cannot be used: {error}; remove it, it is made again") from error


def run_folders(root: Path) -> list[Path]:
    """Directories below `root` that are runs or look like broken ones; runs inside a run are its evaluations."""
    found: list[Path] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        if any((folder / mark).exists() for mark in MARKS):
            found.append(folder)
        else:
            found += run_folders(folder)
    return found


def _simple(value: Any) -> Any:
    """A value that a column can hold."""
    return value if value is None or isinstance(value, (int, float, str)) else json.dumps(value, sort_keys=True)
