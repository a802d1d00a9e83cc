"""The record of an evaluation that was done in shards, equal to that of the evaluation in one piece in all but its times.

Only whole shards are merged: each record is checked against its own samples, and all of them against each other. Imports no torch
but for example images.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ironclip.core.errors import RunError
from ironclip.records.folder import WAIT, EvaluationFolder, RunFolder
from ironclip.records.record import Record, Sample, Setup, canonical_hash
from ironclip.records.shards import SAME, agree, missing, shards
from ironclip.records.summary import summarise

AGAIN = "Remove that shard's folder and measure it again"


def merge(run: RunFolder, place: EvaluationFolder) -> Record:
    """The record of an evaluation, from its shards if it is not there yet; equal to that of the evaluation in one piece.

    Raises:
        RunError: shards are missing, damaged, or not of one evaluation; each of them is named, and nothing is written.
        RunBusy: another process has been writing in the run for long.
    """
    with run.lock(wait=WAIT):
        if (record := place.record()) is not None:
            return record
        if not shards(place):
            raise RunError(f"{place.path} was not done in shards; there is nothing to merge")
        if left := missing(place):
            names = ", ".join(str(shard) for shard in left)
            some = f"shard {names} is" if len(left) == 1 else f"{len(left)} of {left[0].of} shards are"
            raise RunError(f"{place.path}: {some} missing or not finished{'' if len(left) == 1 else f': {names}'}")
        return _merged(place)


def _merged(place: EvaluationFolder) -> Record:
    folders = shards(place)
    usual = _usual(folders)
    own = usual.get("shard", {})
    agree({**(place.settings or {}), "shard": own}, folders)
    records, samples = [], dict[int, Sample]()
    for folder in folders:
        measured = folder.measured()
        assert measured is not None
        record, found = measured
        _belongs(record, own, folder)
        twice = next((sample.index for sample in found if sample.index in samples), None)
        if twice is not None:
            raise RunError(f"{folder.path} holds image {twice}, which another shard holds too; it was copied or renamed. {AGAIN}")
        samples |= {sample.index: sample for sample in found}
        records.append(record)
    expected = (place.settings or {}).get("images", len(samples))
    if len(samples) != expected:
        raise RunError(f"the shards in {place.path} hold {len(samples)} images, and the evaluation has {expected}. {AGAIN}")
    setup = Setup(**{name: getattr(records[0], name) for name in Setup.model_fields})
    spent = {
        "evaluate_seconds": sum(record.timing.evaluate_seconds for record in records),
        "peak_memory_bytes": max(record.timing.peak_memory_bytes for record in records),
    }
    ordered = [samples[index] for index in sorted(samples)]
    constants = {attack.name: attack.constants for attack in records[0].attacks}
    record = summarise(setup, ordered, constants, timing=records[0].timing.model_copy(update=spent))
    _keep_examples(place, folders, int(own.get("keep_examples", 0)))
    place.save_samples(ordered)
    place.save_record(record)
    return record


def _usual(folders: Sequence[EvaluationFolder]) -> Mapping[str, Any]:
    """The settings that most of the shards have, so that those which differ are the ones to name."""
    found = [folder.settings or {} for folder in folders]
    hashes = [canonical_hash(settings) for settings in found]
    return found[hashes.index(Counter(hashes).most_common(1)[0][0])]


def _belongs(record: Record, own: Mapping[str, Any], folder: EvaluationFolder) -> None:
    """RunError where the record of a shard is of another checkpoint or configuration than its settings say."""
    says = own.get("setup", {})
    found = record.model_dump(mode="json", include=set(SAME))
    for key in says:
        if found.get(key) != says[key]:
            raise RunError(f"{folder.path} holds a record of another {key} than its settings.json says. {AGAIN}")


def _keep_examples(place: EvaluationFolder, folders: Sequence[EvaluationFolder], many: int) -> None:
    paths = [path for folder in folders if (path := folder.path / "examples.safetensors").exists()]
    if not paths:
        return
    from ironclip.records.pictures import load_examples, save_examples

    found = sorted((example for path in paths for example in load_examples(path)), key=lambda example: example.index)
    save_examples(place.path / "examples.safetensors", found[:many])
