"""Verification of a run folder: records are counted again from their samples, learned tensors are checked by checksums."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ironclip.core.errors import IronclipError
from ironclip.core.texts import json_value, plain_bytes
from ironclip.records.folder import EvaluationFolder, RunFolder
from ironclip.records.record import Proportion, Record, canonical_hash


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: a file or a folder, whether it holds, and the reason or what was found."""

    path: Path
    ok: bool
    text: str


def verify(path: Path) -> list[Finding]:
    """Everything that can be checked of the run in this folder; never raises for what a file holds.

    Checked: the configuration; each record against its checksum, its samples, its settings and the configuration; learned
    tensors and their metadata against their checksums, the configuration and the records; audit.json against the records; results
    that lie where no verb looks for them.
    """
    try:
        run = RunFolder.open(path)
    except IronclipError as error:
        return [Finding(path, False, str(error))]
    records: list[Record] = []
    found = [_checked(place.path, partial(_evaluation, run, place, records)) for place in run.evaluations()]
    if run.status in ("trained", "evaluated") and not str(run.config.get("method")).startswith("audit-"):
        found.append(_checked(run.path / "learned.safetensors", lambda: _learned(run, records)))
    if (run.path / "audit.json").exists():
        found.append(_checked(run.path / "audit.json", lambda: _audit(run.path / "audit.json", records)))
    found += [Finding(stray, False, "results without their settings.json; copy the folder again") for stray in _strays(run)]
    return found or [Finding(run.path, True, f"nothing is finished yet ({run.status})")]


def _checked(path: Path, look: Callable[[], str]) -> Finding:
    try:
        return Finding(path, True, look())
    except IronclipError as error:
        return Finding(path, False, str(error))
    except _Differs as difference:
        return Finding(path, False, str(difference))


class _Differs(Exception):
    """Two things that should agree."""


def _evaluation(run: RunFolder, place: EvaluationFolder, records: list[Record]) -> str:
    if place.path != run.path and not place.path.name.endswith(canonical_hash(place.settings)[:8]):
        raise _Differs("settings.json was edited: its hash is not that in the folder's name; copy the folder again")
    found = place.measured()
    if found is None:
        return f"not finished: {len(place.samples())} images so far"
    record = found[0]
    if record.config_hash and record.config_hash != run.config_hash:
        raise _Differs("config.yaml is not the configuration of the record; copy the folder again")
    records.append(record)
    return str(record)


def _learned(run: RunFolder, records: list[Record]) -> str:
    from ironclip.records.learned import fingerprint

    learned, config = run.load_learned(), run.config
    own = [record for record in records if not record.trained_on]
    size = sum(tensor.numel() * tensor.element_size() for tensor in learned.tensors.values())
    mark = fingerprint(learned.tensors)
    for name, ours, theirs in (
        ("method", learned.method, config.get("method")),
        ("options", learned.options, config.get("options")),
    ):
        if theirs is not None and canonical_hash({name: ours}) != canonical_hash({name: theirs}):
            raise _Differs(f"{name} is {ours!r}, and {theirs!r} in config.yaml; copy the folder again")
    for record in records:
        if record.backbone.sha256 and record.backbone.sha256 != learned.base_sha256:
            raise _Differs("it was learned on another backbone than the one that the records name; copy the folder again")
        if record.learned_sha256 not in ("", mark) or record.cost.learned_bytes != size:
            raise _Differs("its tensors are not those that were measured; copy the folder again, or measure again")
    if any(record.data.classes != learned.classes for record in own):
        raise _Differs("its classes are not those of the records; copy the folder again")
    return f"{len(learned.tensors)} tensors, sha256 {mark[:12]}" if learned.tensors else "nothing is learned"


def _audit(path: Path, records: list[Record]) -> str:
    try:
        report: dict[str, Any] = json_value(plain_bytes(path))
        record, clean = Record.model_validate(report["record"]), Proportion.model_validate(report["clean"])
        radii = {point["eps"]: Proportion.model_validate(point["robust"]) for point in report["radii"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _Differs("it is no report of an audit; remove it and run the audit again") from None
    points = [(each.threat.eps, each.robust) for each in records]
    if record not in records or clean != record.clean or any(point not in points for point in radii.items()):
        raise _Differs("its numbers are not those of the records; remove it and run the audit again")
    return f"{len(radii)} radii as in the records"


def _strays(run: RunFolder) -> Iterator[Path]:
    for place in (run.path, *sorted(run.path.glob("evaluations/*/"))):
        if not (place / "settings.json").exists():
            yield from (place / name for name in ("record.json", "samples.jsonl") if (place / name).exists())
