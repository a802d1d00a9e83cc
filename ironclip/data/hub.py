"""Data sets of the Hugging Face hub, through the optional library `datasets`."""

from collections.abc import Sequence
from typing import Any

from ironclip.core.errors import DataError, UsageError
from ironclip.core.shown import number_of
from ironclip.data.catalogue import choose_templates
from ironclip.data.folders import FRACTIONS
from ironclip.data.names import prompt_name
from ironclip.data.records import SPLITS, Dataset, Source, enumerate_items
from ironclip.data.roles import roles
from ironclip.data.sampling import completed
from ironclip.data.torchvision_sets import IndexedSource


def open_hub(
    name: str,
    *,
    templates: str | Sequence[str] | None = None,
    download: bool = False,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Dataset:
    """The set `owner/name` or `owner/name@configuration`; its image and label columns are found by their types.

    Args:
        download: False: use only what the library has downloaded before.

    Raises:
        UsageError: the library is not installed.
        DataError: the set cannot be loaded or has no image or no label column.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError(f'hf:{name} needs the library `datasets`; install it with: pip install "ironclip[hf]"') from None
    repository, _, configuration = name.partition("@")
    try:
        local = datasets.DownloadConfig(local_files_only=not download)
        parts = datasets.load_dataset(repository, configuration or None, download_config=local)
    except Exception as problem:  # the library raises errors of a dozen packages
        hint = "" if download else "; it may have to be downloaded first (`ironclip data prepare`)"
        raise DataError(f"hf:{name} cannot be loaded: {' '.join(str(problem).split())}{hint}") from problem
    first = next(iter(parts.values()))
    picture = column_of(f"hf:{name}", first, "an image", ("Image",))
    label = column_of(f"hf:{name}", first, "a label", ("ClassLabel",), ("label", "labels", "class"))
    values = {split: list(part[label]) for split, part in parts.items()}
    folders = getattr(first.features[label], "names", None)
    if folders is None:
        folders = sorted({str(value) for column in values.values() for value in column})
        values = {split: [folders.index(str(value)) for value in column] for split, column in values.items()}
    found: dict[str, list[tuple[Source, int]]] = {split: [] for split in SPLITS}
    meant = roles(parts)
    notes = [
        f"the split {split!r} of {number_of(len(part), 'image')} is left out"
        for split, part in parts.items()
        if split not in meant
    ]
    for split, part in parts.items():
        if split in meant:
            found[meant[split]] += [(IndexedSource(part, k, f"{split}/{k:06d}", picture), v) for k, v in enumerate(values[split])]
    given = {split: [source.name for source, _ in pairs] for split, pairs in found.items()}
    found, remark = completed(found, given, fractions, seed)
    classes = tuple(prompt_name(folder) for folder in folders)
    return Dataset(
        name=f"hf:{name}",
        classes=classes,
        templates=choose_templates(name, templates),
        splits={split: enumerate_items(pairs) for split, pairs in found.items()},
        origin=f"hub {name}{remark}",
        notes=tuple(notes),
    )


def column_of(name: str, part: Any, what: str, kinds: Sequence[str], usual: Sequence[str] = ()) -> str:
    """The first column with a feature of these types, else one with a usual name.

    Raises:
        DataError: there is none.
    """
    found = [column for column, feature in part.features.items() if type(feature).__name__ in kinds]
    found = found or [column for column in usual if column in part.features]
    if not found:
        raise DataError(f"{name} has no column with {what}; columns: {', '.join(part.features)}")
    return found[0]
