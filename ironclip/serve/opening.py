"""A classifier from a published form: an exported file, a saved folder, a hub id."""

from collections.abc import Mapping
from pathlib import Path

from ironclip.core.errors import UsageError
from ironclip.core.types import Classifier, TestTime
from ironclip.records.folder import is_run
from ironclip.serve.export import SUFFIXES
from ironclip.serve.exported import open_exported


def open_shipped(
    target: Path,
    *,
    device: str = "cpu",
    backbone: str | None = None,
    frozen: Mapping[str, str] | None = None,
    test_time: TestTime | None = None,
    trust: bool = False,
) -> Classifier | None:
    """The classifier, or None where `target` is a run, or nothing that could have been shipped.

    Args:
        backbone, frozen: of a saved folder, where the caller names them: weights, base, activation.
        trust: open a .pt2, which is code.

    Raises:
        UsageError: a .pt2 without trust, a test-time method on an exported file, or on a method that holds one.
        CheckpointError: damaged, on other frozen weights, or not to be had.
    """
    if target.suffix in SUFFIXES:
        if test_time is not None:
            raise UsageError(f"{target.name} is a fixed graph; a test-time method needs the run or a saved folder")
        return open_exported(target, trust=trust)
    if is_run(target) or not _could_be_saved(target):
        return None
    from ironclip.serve.hub import load_pretrained

    loaded = load_pretrained(target if target.exists() else str(target), device=device, backbone=backbone, frozen=frozen)
    if test_time is None:
        return loaded.classifier
    if loaded.test_time is not None:
        raise UsageError(f"{loaded.config.method} holds a test-time method already; leave out --test-time")
    return test_time(loaded.base)


def _could_be_saved(target: Path) -> bool:
    from ironclip.serve.hub import is_saved

    hub_id = not target.exists() and len(target.parts) == 2 and not target.parent.exists()
    return is_saved(target) or hub_id
