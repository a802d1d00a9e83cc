"""Checksums for files of an older version that had none, on the owner's word."""

from pathlib import Path

from ironclip.core.files import disk_errors
from ironclip.core.texts import json_value, plain_bytes
from ironclip.records.folder import RunFolder
from ironclip.records.verified import SEAL


def seal(path: Path) -> list[Path]:
    """The files of a run that had no checksum and have one now; a record is first counted again from its samples.

    Raises:
        RunError: no run, or a record that its samples contradict. CheckpointError: a file of tensors that is damaged.
    """
    from ironclip.records.learned import seal_again

    run, done = RunFolder.open(path), list[Path]()
    with run.lock():
        for place in run.evaluations():
            found, record = place.measured(unsealed=True), place.path / "record.json"
            if found is not None and not _has_seal(record):
                place.save_record(found[0])
                done.append(record)
        done += [tensors for tensors in sorted(run.path.rglob("*.safetensors")) if seal_again(tensors)]
    return done


def _has_seal(path: Path) -> bool:
    with disk_errors(path):
        return SEAL in json_value(plain_bytes(path))
