"""Images and their lists: data sets by name or path, few shots, robust decoding, batches.

Names that need torch are imported on first use, so that listing data sets stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ironclip.data.catalogue import Entry, catalogue, templates_of
from ironclip.data.checking import Availability, Prepared, Report, available, check, prepare
from ironclip.data.images import Bad, BadPicture, decode, fit
from ironclip.data.opening import open_dataset
from ironclip.data.packing import cache_folder
from ironclip.data.records import Dataset, Item, Source
from ironclip.data.sampling import base_to_new, few_shot, stratified_split, subset

if TYPE_CHECKING:
    from ironclip.data.batches import Epoch, EvalSet, Pictures, TrainSet, load_images

__all__ = [
    "Availability",
    "Bad",
    "BadPicture",
    "Dataset",
    "Entry",
    "Epoch",
    "EvalSet",
    "Item",
    "Pictures",
    "Prepared",
    "Report",
    "Source",
    "TrainSet",
    "available",
    "base_to_new",
    "cache_folder",
    "catalogue",
    "check",
    "decode",
    "few_shot",
    "fit",
    "load_images",
    "open_dataset",
    "prepare",
    "stratified_split",
    "subset",
    "templates_of",
]

_LAZY = dict.fromkeys(("Epoch", "EvalSet", "Pictures", "TrainSet", "load_images"), "ironclip.data.batches")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
