"""The verb compare: runs against published numbers, or two runs against each other on the same images."""

import json
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Json, app, emit, run_paths
from ironclip.cli.terminal import say, show_table, table, tell
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of


@app.command()
def compare(
    targets: Annotated[
        list[Path],
        typer.Argument(help="Runs, or folders of runs; without --published the first is compared with each other one."),
    ],
    published: Annotated[
        bool,
        typer.Option("--published", help="Compare with the papers' numbers: those of the same protocol first, then the nearest."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare runs with the papers, or a run with others image by image (McNemar's test, Holm's correction)."""
    from ironclip.records.folder import RunFolder

    runs = [RunFolder.open(folder) for folder in run_paths(targets)]
    if published:
        _published(runs, as_json)
        return
    if len(runs) < 2:
        raise UsageError(f"runs are compared image by image; got {len(runs)}. For the papers' numbers add --published")
    _paired(runs[0], runs[1:], as_json)


def _published(runs: list[Any], as_json: bool) -> None:
    from ironclip.report.published import compare as against
    from ironclip.report.published import nearest

    records = [record for run in runs for place in run.evaluations() if (record := place.record()) is not None]
    found = sorted((each for record in records for each in against(record)), key=lambda each: len(each.differs))
    rows: list[dict[str, Any]] = [
        {
            "method": each.record.method,
            "data": each.record.data.name,
            "metric": each.theirs.metric,
            "ours": round(100 * each.ours.value, 2),
            "low": round(100 * each.ours.low, 2),
            "high": round(100 * each.ours.high, 2),
            "theirs": each.theirs.value,
            "std": each.theirs.std,
            "difference": round(each.difference, 2),
            "source": f"{each.theirs.paper}, {each.theirs.table}",
            "differs": list(each.differs),
        }
        for each in found
    ]
    if as_json:
        emit(rows)
        return
    if not rows:
        say(f"none of {number_of(len(records), 'record')} has a published number for its method and data set")
        return
    kept = nearest(found)
    rows = [row for row, each in zip(rows, found, strict=True) if each in kept]
    columns = ["method", "data", "metric", "ours [95 %]", "theirs", "difference", "source", "what differs"]
    cells = [
        [
            row["method"], row["data"], row["metric"], f"{row['ours']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
            f"{row['theirs']:.1f}" + (f" ±{row['std']:.1f}" if row["std"] is not None else ""), f"{row['difference']:+.1f}",
            row["source"], "; ".join(row["differs"]) or "nothing known",
        ]
        for row in rows
    ]  # fmt: skip
    show_table(table("ours and published, per cent", columns, cells))
    same = sum(not each.differs for each in kept)
    words = f"{number_of(same, 'row')} of the same protocol; of each other number the nearest row of {len(found) - same}"
    say(f"{words}, {len(found) - len(kept)} not shown (--json lists all)")


def _paired(first: Any, others: list[Any], as_json: bool) -> None:
    """The first run against each other run; p values are corrected for all shown tests of the same kind."""
    from ironclip.records.statistics import holm

    results, apart = [], dict[str, None]()
    for other in others:
        found, lines = _pairs(first, other)
        results += found
        apart |= lines
    if not results:
        reason = f"; {next(iter(apart))}" if apart else ""
        raise UsageError(f"these runs have no evaluation on the same images under the same threat model and attacks{reason}")
    for what in ("clean", "robust"):
        rows = [row for row in results if row["what"] == what]
        for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = p
    for line in apart:
        tell(line)
    if as_json:
        emit(results)
        return
    several = len(others) > 1
    columns = ["threat", "what", "images", "first", "second", "only first", "only second", "p (McNemar)"]
    columns = [*(["second run"] if several else []), *columns, *(["p (Holm)"] if several else []), "difference [95 %]"]
    cells = [
        [
            *([row["run"]] if several else []), row["threat"], row["what"], str(row["images"]), f"{row['first']:.1%}",
            f"{row['second']:.1%}", str(row["only_first"]), str(row["only_second"]), f"{row['p']:.3g}",
            *([f"{row['p_holm']:.3g}"] if several else []), f"{row['difference']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]",
        ]
        for row in results
    ]  # fmt: skip
    second = "" if several else f", second: {others[0].path.name}"
    show_table(table(f"first: {first.path.name}{second}", columns, cells))
    for threat, attacks in {
        json.dumps([row["threat"], row["attacks"]]): (row["threat"], row["attacks"]) for row in results
    }.values():
        for name, constants in attacks.items():
            said = ", ".join(f"{key} {value}" for key, value in constants.items() if key not in ("attack", "derived"))
            say(f"{threat}: {name} ({said})")


def _pairs(first: Any, second: Any) -> tuple[list[dict[str, Any]], dict[str, None]]:
    """The tests of two runs, and a line for each pair of records on the same images that cannot be tested."""
    from ironclip.records.statistics import paired
    from ironclip.report.views import trained_at

    results: list[dict[str, Any]] = []
    ours, theirs = ([found for place in run.evaluations() if (found := place.measured()) is not None] for run in (first, second))
    apart: dict[str, None] = {}
    for (record, samples), (other, others) in product(ours, theirs):
        differ = _differences(record, other) or ["other labels"] * (_labels(samples) != _labels(others))
        if differ:
            if _pictures(record) == _pictures(other):
                apart[f"not paired: {record.threat_words} and {other.threat_words}: {'; '.join(differ)}"] = None
            continue
        for what in ("right", "robust"):
            a = {sample.index: getattr(sample, what) for sample in samples}
            b = {sample.index: getattr(sample, what) for sample in others}
            same = {"run": second.path.name, "threat": record.threat_words, "attacks": _attacks(record)}
            results.append({**same, "what": "clean" if what == "right" else what, **paired(a, b)})
    if results and len(radii := {trained for record, _ in (*ours, *theirs) if (trained := trained_at(record))}) > 1:
        apart[f"trained at different radii: {' and '.join(sorted(radii))}"] = None
    return results, apart


def _pictures(record: Any) -> tuple[Any, ...]:
    return record.data.name, record.data.split, record.data.classes


def _differences(record: Any, other: Any) -> list[str]:
    """The differences of two records in images, threat model and constants of the attacks, with both values."""
    found = []
    both = record.data.images_hash and other.data.images_hash  # records of before 2026-11-30 have none
    pictures = "data.images_hash" if both else "data.split_hash"
    for what in ("data.name", "data.split", pictures, "data.classes", "data.preprocessing", "images", "quantise",
                 "precision", "threat.norm", "threat.eps", "threat.knowledge", "threat.resolution", "threat.quantised",
                 "threat.source"):  # fmt: skip
        one, two = attrgetter(what)(record), attrgetter(what)(other)
        if one != two:
            found.append(f"{what.rpartition('.')[2]} {one} and {two}")
    ours, theirs = _attacks(record), _attacks(other)
    for name in ours | theirs:
        if (name in ours) != (name in theirs):
            found.append(f"{name} in {'the first' if name in ours else 'the second'} alone")
            continue
        for key in dict.fromkeys([*ours[name], *theirs[name]]):
            one, two = (constants[name].get(key, "not stated") for constants in (ours, theirs))
            if one != two and key != "derived":
                found.append(f"{name} {key} {one} and {two}")
        if ours[name] != theirs[name] and not any(each.startswith(f"{name} ") for each in found):
            found.append(f"{name} derived constants")
    return found


def _attacks(record: Any) -> dict[str, dict[str, Any]]:
    """The constants of the attacks by name; for an attack on several classifiers those of the first."""
    found: dict[str, dict[str, Any]] = {}
    for attack in record.attacks:
        found.setdefault(attack.name.split("/")[0], dict(attack.constants))
    return found


def _labels(samples: list[Any]) -> dict[int, int]:
    return {sample.index: sample.label for sample in samples}
