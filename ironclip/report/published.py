"""Published numbers beside ours: ours, theirs, difference, interval, and what differs in protocol. Imports no torch.

`published.csv` holds facts read from the papers (`read_in` = paper) or from summaries of them (`read_in` = summary: provisional).
Per cent as printed. `method`, `dataset` and `backbone` are the names used here, `printed_as` the paper's. Rows of different
papers are never averaged or ranked together: the same method gets very different numbers under nominally equal settings.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ironclip.core.threat import format_eps, parse_eps
from ironclip.records.record import Proportion, Record

FILE = Path(__file__).parent / "published.csv"
SUBSETS = {"all": "", "base": "base_", "new": "new_"}


@dataclass(frozen=True)
class Printed:
    """One published number; `eps` is "" where the paper does not say, `knowledge` "static" where it says so."""

    paper: str
    table: str
    protocol: str
    method: str
    printed_as: str
    backbone: str
    weights: str
    dataset: str
    shots: str
    eps: str
    attack: str
    knowledge: str
    metric: str
    value: float
    std: float | None
    read_in: str


@dataclass(frozen=True)
class Comparison:
    """Our measurement beside a published one, in per cent; `differs` says in words what is not the same."""

    record: Record
    ours: Proportion
    theirs: Printed
    differs: tuple[str, ...]

    @property
    def difference(self) -> float:
        return 100 * self.ours.value - self.theirs.value

    @property
    def inside(self) -> bool:
        """Whether the published value lies in our 95 % interval; means something only where nothing differs."""
        return 100 * self.ours.low <= self.theirs.value <= 100 * self.ours.high


@cache
def printed() -> tuple[Printed, ...]:
    """All published numbers, in the order of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Printed(**{**row, "value": float(row["value"]), "std": float(row["std"]) if row["std"] else None})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        )


def compare(record: Record, rows: Iterable[Printed] | None = None) -> tuple[Comparison, ...]:
    """The published numbers of this method on this data set, clean and robust, those closest in protocol first.

    For each paper, table and metric the rows with the fewest differences are taken; none if nobody printed this method there.
    All published rows are l-infinity, so that a record of another norm has none.
    """
    if record.threat.norm != "linf":
        return ()
    prefix = SUBSETS.get(record.data.subset, "")
    wanted = {f"{prefix}clean_acc": record.clean, f"{prefix}robust_acc": record.robust}
    name = record.data.name.removesuffix(f"-{record.data.subset}")
    method = record.method.removeprefix("zero_shot+")  # papers call a test-time method on the plain model by its name alone
    found: dict[tuple[str, str, str], list[Comparison]] = {}
    for row in printed() if rows is None else rows:
        if (row.method, row.dataset) == (method, name) and row.metric in wanted:
            comparison = Comparison(record, wanted[row.metric], row, differences(record, row))
            found.setdefault((row.paper, row.table, row.metric), []).append(comparison)
    best = [each for group in found.values() for each in group if len(each.differs) == min(len(other.differs) for other in group)]
    return tuple(sorted(best, key=lambda each: (len(each.differs), each.theirs.metric)))


def nearest(found: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Of each of our numbers the published ones of the same protocol, or, where there is none, the one that differs least.

    Args:
        found: sorted, those with the fewest differences first.
    """
    kept: list[Comparison] = []
    seen: set[tuple[int, str]] = set()
    for each in found:
        ours = (id(each.record), each.theirs.metric)
        if not each.differs or ours not in seen:
            kept.append(each)
        seen.add(ours)
    return tuple(kept)


def differences(record: Record, row: Printed) -> tuple[str, ...]:
    """What is not the same in both protocols, in words."""
    ours = record.backbone.name.split("/")
    found = []
    if row.backbone and ours[0] != row.backbone:
        found.append(f"backbone {record.backbone.name}, theirs {row.backbone}")
    elif row.weights and row.weights not in record.backbone.name:
        found.append(f"weights {'/'.join(ours[1:]) or 'unknown'}, theirs {row.weights}")
    shots = "0" if record.cost.trainable_parameters == 0 else "all" if record.shots is None else str(record.shots)
    if row.shots and row.shots != shots and not (shots == "0" and record.method == "zero_shot"):
        found.append(f"{'1 shot' if shots == '1' else f'{shots} shots'}, theirs {row.shots}")
    if "robust" in row.metric:
        if row.eps and abs(parse_eps(row.eps) - record.threat.eps) > 1e-9:
            found.append(f"eps {format_eps(record.threat.eps)}, theirs {row.eps}")
        knowledge = row.knowledge or "white-box"
        if (record.threat.knowledge == "static") != (knowledge == "static"):
            found.append(f"{record.threat.knowledge} attack, theirs {knowledge}")
        attacks = " + ".join(_attack(attack.name, attack.constants) for attack in record.attacks)
        if row.attack and not _same_attack(attacks, row.attack):
            found.append(f"attack {attacks}, theirs {row.attack}")
    if row.backbone and record.threat.resolution not in (0, 224):
        found.append(f"{record.threat.resolution} px, theirs 224 px")
    if record.data.available > record.images:
        found.append(f"{record.images} of {record.data.available} test images")
    if row.read_in == "summary":
        found.append("their number was read in a summary, not in the paper")
    return tuple(found)


def _attack(name: str, constants: Mapping[str, object]) -> str:
    return f"{name}-{constants['steps']}" if isinstance(constants.get("steps"), int) else name


def _same_attack(ours: str, theirs: str) -> bool:
    return theirs.lower().replace(" ", "").startswith(ours.lower().replace(" ", ""))
