"""A leaderboard from records: one line per defence and threat, with its static accuracy beside the accuracy under attacks that
see it.

Records of one defence (method, options, learned tensors), backbone, data and threat make one line. The headline is the lowest
robust accuracy among the attacks that saw the defence (white-box, adaptive). Static images, transfer and scores alone stand
beside it and are never ranked; neither is a record that a check called not to be trusted. Ranks compare lines with the same
backbone, data and threat.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ironclip.audit.export import record_info
from ironclip.core.errors import RunError, UsageError
from ironclip.records.folder import RunFolder, slug
from ironclip.records.record import Proportion, Record, canonical_hash
from ironclip.records.verify import verify
from ironclip.report.tables import attacks_words, interval, percent
from ironclip.report.templating import render
from ironclip.report.views import standing

SEEN = ("white-box", "adaptive")
"""What an attacker knows where the number may be a headline."""
FILTERS = ("backbone", "data", "threat")


@dataclass(frozen=True)
class Measured:
    """A record that was checked against its samples, and whether an audit of ours made it."""

    record: Record
    audited: bool = False


def collect(runs: Iterable[Path], audits: Iterable[Path] = ()) -> list[Measured]:
    """The finished evaluations of these folders, each counted again from its samples.

    Args:
        runs: folders of anybody's runs. audits: folders of audits that the caller made.

    Raises:
        RunError: a folder of which anything is not to be believed.
    """
    found = []
    for path, audited in [*((path, False) for path in runs), *((path, True) for path in audits)]:
        wrong = next((finding for finding in verify(path) if not finding.ok), None)
        if wrong is not None:
            raise RunError(f"{wrong.path}: {wrong.text}; nothing is listed")
        records = [place.record() for place in RunFolder.open(path).evaluations()]
        found += [Measured(record, audited) for record in records if record is not None]
    return found


@dataclass(frozen=True)
class Line:
    """One defence under one threat.

    Args:
        static: on images made without the defence, where that was measured.
        headline: the lowest under attacks that saw the defence and can be trusted; None: there is none.
        members: all records of this line.
        rank: 1 for the best among the same backbone, data and threat; 0: not ranked.
    """

    method: str
    told: str
    backbone: str
    data: str
    threat: str
    static: Record | None
    headline: Record | None
    members: tuple[Measured, ...]
    rank: int = 0

    @property
    def shown(self) -> Record:
        """The record of which clean accuracy, cost and command are shown."""
        return self.headline or self.static or self.members[0].record

    @property
    def audited(self) -> bool:
        """Whether an audit measured the defence again."""
        return any(each.audited and each.record.threat.knowledge in SEEN for each in self.members)

    @property
    def robust(self) -> Proportion | None:
        return self.headline.robust if self.headline else None

    def summary(self) -> dict[str, object]:
        """The line as JSON values; accuracies are fractions."""
        static = None if self.static is None else self.static.robust.value
        shown = {name: getattr(self, name) for name in ("method", "backbone", "data", "threat", "rank", "audited")}
        return shown | {"static": static, "attacked": None if self.robust is None else self.robust.value}

    @property
    def why(self) -> str:
        """Why there is no headline, or nothing."""
        if self.headline is not None:
            return ""
        found = dict.fromkeys(standing(each.record) for each in self.members)
        return "not trusted" if "not trusted" in found else ", ".join(name for name in found if name)


def lines(measured: Iterable[Measured], *, audited: bool = False) -> list[Line]:
    """Lines by data, threat and backbone, the best first.

    Args:
        audited: only those that an audit of ours measured again.

    Raises:
        UsageError: nothing is left to show.
    """
    groups: dict[tuple[str, ...], dict[str, Measured]] = {}
    for each in measured:
        kept = groups.setdefault(_identity(each.record), {})
        name = file_name(each.record)
        kept[name] = Measured(each.record, each.audited or (name in kept and kept[name].audited))
    found = [_line(tuple(members.values())) for members in groups.values()]
    found = [line for line in found if line.audited or not audited]
    if not found:
        raise UsageError(
            "no audit is one of a run that is to be listed; run `ironclip audit` on the runs, at their radius"
            if audited
            else "there is no finished evaluation to list; run `ironclip evaluate` first"
        )
    found = _with_variants(found)
    ranked = [replace(line, rank=_rank(line, found)) for line in found]
    last = len(ranked) + 1
    return sorted(ranked, key=lambda line: (line.data, line.threat, line.backbone, _place(line), line.rank or last, line.method))


def site(listed: Sequence[Line], *, title: str = "Leaderboard", notes: Sequence[str] = ()) -> dict[str, str | dict[str, object]]:
    """Every file of the site by its path: a text, or JSON values; the caller writes them."""
    files: dict[str, str | dict[str, object]] = {}
    for line in listed:
        for each in line.members:
            name = file_name(each.record)
            files[f"records/{name}.json"] = each.record.model_dump(mode="json")
            files[f"robustbench/{name}.json"] = record_info(each.record)
    choices = {name: list(dict.fromkeys(getattr(line, name) for line in listed)) for name in FILTERS}
    files["index.html"] = render(
        "leaderboard.html.j2",
        {"percent": percent, "interval": interval, "attacks": attacks_words, "file": file_name},
        title=title, notes=notes, lines=listed, choices=choices,
    )  # fmt: skip
    return files


def file_name(record: Record) -> str:
    """A name for the files of this record that says its method and follows from its results."""
    return f"{slug(record.method)[:60] or 'record'}-{canonical_hash(record.outcome())[:12]}"


def _line(members: tuple[Measured, ...]) -> Line:
    record = members[0].record
    trusted = [each.record for each in members if not standing(each.record)]
    static = [each.record for each in members if standing(each.record) == "static-only"]
    data = [record.data.name, *(part for part in (record.data.split, record.data.subset) if part not in ("test", "all"))]
    data += [f"(trained on {record.trained_on})"] if record.trained_on else []
    told = [f"{record.shots} shots"] if record.shots is not None else []
    seeds = sorted({each.record.seed for each in members if each.record.seed is not None and not each.audited})
    told += [f"seed {seed}" for seed in seeds if record.cost.trainable_parameters]
    return Line(
        record.method, ", ".join(told), record.backbone.name, " ".join(data), record.threat.change, _lowest(static),
        _lowest(trusted), members,
    )  # fmt: skip


def _with_variants(listed: Sequence[Line]) -> list[Line]:
    """The lines, told apart by the options in which those of one method differ, on whatever data."""
    of = [line.members[0].record.options for line in listed]
    named = []
    for line, own in zip(listed, of):
        rivals = [options for other, options in zip(listed, of) if other.method == line.method]
        keys = sorted({key for options in rivals for key in options})
        apart = [key for key in keys if len({repr(options.get(key)) for options in rivals}) > 1]
        words = [f"{key}={str(own.get(key, 'default'))[:40]}" for key in apart]
        named.append(replace(line, told=", ".join([*words, *([line.told] if line.told else [])])))
    return named


def _lowest(records: Sequence[Record]) -> Record | None:
    """The lowest; of one that attacks one loss alone only where it is below the interval of every worst case over several."""
    several = [record for record in records if not record.one_loss]
    bound = min((record.robust.low for record in several), default=1.0)
    fair = several + [record for record in records if record.one_loss and (not several or record.robust.value < bound)]
    return min(fair, key=lambda record: (record.robust.value, -record.images), default=None)


def _rank(line: Line, rivals: Sequence[Line]) -> int:
    if line.robust is None:
        return 0
    alike = [other.robust for other in rivals if _place(other) == _place(line) and other.robust is not None]
    return 1 + sum(other.value > line.robust.value for other in alike)


def _place(line: Line) -> tuple[str, ...]:
    record = line.members[0].record
    return line.backbone, record.backbone.sha256, line.data, record.data.images_hash or record.data.split_hash, line.threat


def _identity(record: Record) -> tuple[str, ...]:
    """What makes two records speak of one defence under one threat; seeds do not count, for an audit's is that of its attacks."""
    data, threat = record.data, record.threat
    learned = record.learned_sha256 or (f"seed {record.seed}" if record.cost.trainable_parameters else "")
    who = (record.method, canonical_hash(record.options), str(record.shots), str(record.split_seed), learned, record.trained_on)
    where = (record.backbone.name, record.backbone.sha256, data.name, data.split, data.split_hash or data.subset)
    return (*who, *where, threat.change)
