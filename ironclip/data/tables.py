"""A set listed in a table: one image per line, with its label and, optionally, its split."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data.folders import FRACTIONS, Pairs, dataset_of, own_split, val_as_test
from ironclip.data.lists import inside, read_text, shown, text_of
from ironclip.data.records import SPLITS, CaptionedFile, Dataset, FileSource
from ironclip.data.roles import WORDS, Layout, roles, words

SPLIT_WORDS = {
    *("split", "splits", "set", "subset", "fold", "folds", "kfold", "cv", "crossval", "partition", "phase", "usage"),
    *("aufteilung", "conjunto", "partición", "particion", "partição", "particao", "divisão", "划分", "分割"),
}
YES, NO = {"1", "true", "t", "yes", "y", "1.0", "x"}, {"0", "false", "f", "no", "n", "0.0", ""}

Row = Mapping[str, str]


def open_table(
    table: Path,
    *,
    roots: Sequence[Path] = (),
    classes_file: Path | str | None = None,
    templates: tuple[str, ...] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    layout: Layout = Layout(),  # noqa: B008
) -> Dataset:
    """The set listed in a CSV file with the columns path, label and, if wanted, one that gives the split.

    Paths are relative to the table's folder, and stay below it or below a data root; labels are names or numbers. A column
    `caption` gives each image a text of its own, for methods that train on pairs. The split is
    read from a column named split, set, subset, fold ..., from columns such as is_test, or from any column whose values are
    splits. Without one each class is divided as a folder is.

    Raises:
        DataError: missing columns, an unreadable split column, or none of the first images exists.
    """
    lines = read_table(table)
    first = lines[0][1]
    missing = {"path", "label"} - set(first)
    if missing:
        raise DataError(
            f"{table}: no column {' and '.join(sorted(missing))}; found {', '.join(first)}. "
            "Call the column of the files path and that of their classes label"
        )
    sources, labels = [], []
    for number, row in lines:
        if not row["path"] or not row["label"]:
            raise DataError(f"{table}, line {number}: path or label is empty")
        place = inside(row["path"], f"{table}, line {number}", table.parent, roots)
        captioned = row.get("caption")
        text = text_of(captioned, f"{table}, line {number}", "the caption") if captioned else ""
        sources.append(CaptionedFile(*place, text) if text else FileSource(*place))
        labels.append(text_of(row["label"], f"{table}, line {number}", "the label"))
    if not any(source.path.is_file() for source in sources[:20]):
        raise DataError(f"{table}: none of the first images exists, e.g. {sources[0].path}; paths are relative to {table.parent}")
    found = set(labels)
    numbered = all(label.isdecimal() and len(label) < 10 for label in found)
    folders = sorted(found, key=int) if numbered else sorted(found)
    label_of = {name: position for position, name in enumerate(folders)}
    pairs: Pairs = [(source, label_of[label]) for source, label in zip(sources, labels)]
    splits = None if layout.kind == "classes" else _splits(table, lines, layout)
    if splits is None:
        return own_split(table.stem, folders, pairs, classes_file, templates, seed, fractions)
    column, values = splits
    parts: dict[str, Pairs] = {split: [] for split in SPLITS}
    for pair, split in zip(pairs, values):
        if split != "skip":
            parts[split].append(pair)
    skipped = values.count("skip")
    notes = [f"{skipped} lines are left out, as the layout says"] if skipped else []
    notes += val_as_test(parts, "image")
    return dataset_of(table.stem, folders, parts, classes_file, templates, f"column {column} of {table.name}", notes)


def read_table(table: Path) -> list[tuple[int, Row]]:
    """(line number, {column: value}) of each line; columns as `is_test` for `isTest` or `Is Test`, values stripped.

    Raises:
        DataError: not readable as text or as a table, no line, two columns of one name, a line with too many or too few fields.
    """
    text = read_text(table, "table")
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if any(value.strip() for value in row)]
    except csv.Error as problem:
        raise DataError(f"cannot read the table {table}: {problem}") from problem
    if len(rows) < 2:
        raise DataError(f"{table}: no line below the header; expected columns path, label[, split]")
    apart = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name) for name in rows[0][1]]
    columns = [re.sub(r"[\s_-]+", "_", name.casefold()).strip("_") for name in apart]
    while columns and not columns[-1] and all(len(row) < len(columns) or not row[len(columns) - 1] for _, row in rows):
        columns.pop()
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{table}: two columns are named {twice!r}; rename one")
    for number, row in rows[1:]:
        if len(row) != len(columns) and any(row[len(columns) :]):
            raise DataError(f"{table}, line {number}: {len(row)} fields for {len(columns)} columns; put quotes around commas")
    return [(number, {name: row[k] if k < len(row) else "" for k, name in enumerate(columns)}) for number, row in rows[1:]]


def split_columns(lines: Sequence[tuple[int, Row]]) -> list[str]:
    """The columns of a table that give a split: by their name, or because all their values are names of splits."""
    columns = [name for name in lines[0][1] if name not in ("path", "label")]
    return [name for name in columns if _means_split(name) or _holds_splits({row[name] for _, row in lines})]


def _means_split(column: str) -> bool:
    found = words(column)
    return any(word in SPLIT_WORDS or word in WORDS for word in found) or column in ("data_set", "dataset_split")


def _holds_splits(values: set[str]) -> bool:
    values = {value for value in values if value}
    return len({value.casefold() for value in values}) >= 2 and set(roles(values)) == values


def _splits(table: Path, lines: Sequence[tuple[int, Row]], layout: Layout) -> tuple[str, list[str]] | None:
    """(column, the split of each line); None where no column gives one."""
    columns = split_columns(lines)
    if layout.kind == "named":
        for name in [*columns, *lines[0][1]]:
            values = [row[name] for _, row in lines]
            if set(values) <= set(layout.parts):
                return name, [layout.parts[value] for value in values]
        raise DataError(f"{table}: no column holds only the names that the layout gives: {', '.join(layout.parts)}")
    flags = [name for name in columns if _is_flag(name, {row[name].casefold() for _, row in lines})]
    named = [name for name in columns if name not in flags]
    if len(named) > 1 or (named and flags):
        raise DataError(f"{table}: {len(columns)} columns give a split: {', '.join(columns)}; keep one")
    if flags:
        return ", ".join(flags), [_flagged(table, number, row, flags) for number, row in lines]
    if not named:
        return None
    values = [row[named[0]] for _, row in lines]
    known = roles(set(values))
    for (number, _), value in zip(lines, values):
        if value not in known:
            raise DataError(
                f"{table}, line {number}: split {value!r}; expected train, val or test. Say which value is which with --layout "
                f"{value or 'VALUE'}=train,..., or rename the column {named[0]!r}"
            )
    return named[0], [known[value] for value in values]


def _is_flag(column: str, values: set[str]) -> bool:
    return bool(roles([column])) and values <= YES | NO and not {"split", "fold"} & set(words(column))


def _flagged(table: Path, number: int, row: Row, flags: Sequence[str]) -> str:
    """The split of a line with columns such as is_test, is_train, is_val."""
    role_of = {name: roles([name])[name] for name in flags}
    yes = {role_of[name] for name in flags if row[name].casefold() in YES}
    if len(yes) == 1:
        return yes.pop()
    others = [split for split in ("train", "test") if split not in role_of.values()]
    if not yes and others:
        return others[0]
    raise DataError(f"{table}, line {number}: {', '.join(f'{name} {shown(row[name])}' for name in flags)} gives no split")
