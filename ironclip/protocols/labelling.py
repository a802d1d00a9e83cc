"""Any number of images labelled into one table, .csv or .parquet, in bounded memory. An interrupted call continues.

Until it is complete, a folder NAME.part beside the table holds the labels so far, one line per image, and one output of the
classifier, which detects another classifier. The table itself is complete or absent.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ironclip.core.errors import UsageError
from ironclip.core.files import append_lines, disk_errors, write_json, write_whole
from ironclip.core.shown import number_of
from ironclip.core.texts import json_value, plain_bytes
from ironclip.core.types import Classifier
from ironclip.data import Bad
from ironclip.protocols.classify import Prediction, input_of, predictions
from ironclip.records.lock import locked

ENDINGS = (".csv", ".parquet")
GROUP = 10_000  # rows that become one row group of Parquet


@dataclass(frozen=True)
class Labelled:
    """Counts of a table: images with labels, unreadable images, and those done by an earlier call."""

    path: Path
    pictures: int
    unreadable: int
    resumed: int

    def __str__(self) -> str:
        parts = [f"{number_of(self.pictures, 'image')} labelled"]
        parts += [f"{self.unreadable} cannot be read (column problem)"] if self.unreadable else []
        parts += [f"{self.resumed} of all by an earlier call"] if self.resumed else []
        return f"{self.path}: {', '.join(parts)}"


def check_table(path: Path) -> None:
    """UsageError where a table cannot be written under this name; asked before any work."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"predictions are written as {' or '.join(ENDINGS)}; got {path.name!r}")
    if path.suffix == ".parquet":
        _pyarrow()


def label(
    classifier: Classifier,
    files: Sequence[Path],
    out: Path,
    *,
    top: int = 3,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Labelled:
    """The table of these images, one row each in their order: image, class, probability, class_2, ..., problem.

    Raises:
        UsageError: another ending, pyarrow is missing, or NAME.part was begun with another classifier, `top` or other images.
        RunError: the disk, or another process that writes the same table.
    """
    check_table(out)
    top = min(top, len(classifier.classes))
    part = out.with_name(f"{out.name}.part")
    with locked(part), disk_errors(out):
        rows, done = part / "rows.jsonl", _done(part, classifier, top)
        if not done.keys() <= {str(file) for file in files}:
            raise UsageError(_other(part, "for other images"))
        resumed, unreadable = len(done), sum(done.values())
        count = resumed
        progress(count, len(files))
        left = (file for file in files if str(file) not in done)
        for batch in predictions(classifier, left, top=top, batch_size=batch_size):
            append_lines(rows, [json.dumps(_row(answer)) for answer in batch])
            count, unreadable = count + len(batch), unreadable + sum(isinstance(answer, Bad) for answer in batch)
            progress(count, len(files))
        write_whole(out, lambda temporary: _write(rows, temporary, out.suffix, top))
    shutil.rmtree(part)
    return Labelled(out, count - unreadable, unreadable, resumed)


def _done(part: Path, classifier: Classifier, top: int) -> dict[str, bool]:
    """The images that an earlier call labelled, with whether they cannot be read; UsageError where it was another one."""
    begun, rows, now = part / "begun.json", part / "rows.jsonl", _begun(classifier, top)
    if not begun.exists() and not rows.exists():
        write_json(begun, now)
        return {}
    try:
        what = _difference(json_value(plain_bytes(begun)), now)
        done = {} if what else {row["image"]: _unreadable(row, top) for row in _read(rows)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        what = "otherwise, or is damaged"
    if what:
        raise UsageError(_other(part, what))
    return done


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The difference between a call and the one that began the table; empty: none."""
    if any(before[key] != now[key] for key in ("classes", "top")):
        return "with other classes or another --top"
    known, found = torch.tensor(before["answer"]), torch.tensor(now["answer"])
    same = (known - found).abs().max() <= 1e-3 * found.abs().max()  # another device may round otherwise
    return "" if same else "with another classifier"


def _begun(classifier: Classifier, top: int) -> dict[str, Any]:
    """The identity of a call: the classes, `top`, and the logits of an artificial image."""
    side, device = input_of(classifier)
    ramp = torch.linspace(0, 1, 3 * side * side).view(1, 3, side, side)
    with torch.no_grad():
        answer = classifier(ramp.to(device))[0].float().cpu()
    return {"classes": list(classifier.classes), "top": top, "answer": answer.tolist()}


def _other(part: Path, what: str) -> str:
    return f"{part} was begun {what}; remove that folder to begin anew, or name another --out"


def _row(answer: Prediction | Bad) -> dict[str, Any]:
    if isinstance(answer, Bad):
        return {"image": answer.name, "problem": answer.reason}
    return {"image": answer.name, "ranked": answer.ranked}


def _read(rows: Path) -> Iterator[dict[str, Any]]:
    """The whole lines, one at a time; a last one without its end was being written when the process died."""
    if not rows.exists():
        return
    with rows.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def _unreadable(row: dict[str, Any], top: int) -> bool:
    """Whether this row says why an image has no label; ValueError and the like where it is no row of such a table."""
    return _cells(row, top)[-1] is not None


def _columns(top: int) -> list[str]:
    numbers = ["", *(f"_{place}" for place in range(2, top + 1))]
    return ["image", *(f"{name}{number}" for number in numbers for name in ("class", "probability")), "problem"]


def _cells(row: dict[str, Any], top: int) -> list[Any]:
    """The values of one row; names of files that are no UTF-8 are written with backslashes."""
    ranked = [[None, None]] * top if "problem" in row else row["ranked"]
    name = row["image"].encode("utf-8", "backslashreplace").decode()
    return [name, *(value for _, pair in zip(range(top), ranked, strict=True) for value in pair), row.get("problem")]


def _write(rows: Path, path: Path, ending: str, top: int) -> None:
    table = (_cells(row, top) for row in _read(rows))
    if ending == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_columns(top))
            writer.writerows(table)
        return
    arrow, parquet = _pyarrow()
    names = _columns(top)
    schema = arrow.schema([(name, arrow.float64() if name.startswith("probability") else arrow.string()) for name in names])
    with parquet.ParquetWriter(path, schema) as file:
        while group := list(islice(table, GROUP)):
            columns = [arrow.array(column, type=field.type) for column, field in zip(zip(*group), schema, strict=True)]
            file.write_table(arrow.table(columns, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError('.parquet needs pyarrow; install it with: pip install "ironclip[parquet]", or write .csv') from None
    return pyarrow, parquet
