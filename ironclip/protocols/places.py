"""The place of a run's images at training, and their place now.

A configuration keeps paths as typed, because they are part of a run's identity. The run also notes the absolute paths, and the
folder to which they were relative. So a run can be opened from any folder.
"""

from collections.abc import Mapping
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data import catalogue
from ironclip.data.opening import data_roots
from ironclip.protocols.config import RunConfig

KEYS = ("dataset", "classes")
RELATIVE_TO = "relative_to"


def places(config: RunConfig) -> dict[str, str]:
    """The absolute paths of the data that a configuration names by path, and what they were relative to, where any was."""
    found = {key: path for key in KEYS if (path := _path(config, key)) is not None and path.exists()}
    lying = {key: str(path.absolute()) for key, path in found.items()}
    relative = any(not path.is_absolute() for path in found.values())
    return lying | ({RELATIVE_TO: str(Path.cwd())} if relative else {})


def found_again(config: RunConfig, noted: Mapping[str, str], run: Path) -> RunConfig:
    """The configuration with the paths at which its data lie now.

    Looked at, in this order: where they lay when the run was trained; the path as it was typed, from the working directory; a
    folder or file of the same name below the data roots (IRONCLIP_DATA).

    Raises:
        DataError: they are at none of these.
    """
    changes = {}
    for key in KEYS:
        typed = _path(config, key)
        if typed is None:
            continue
        before = Path(noted.get(key, typed))
        tried = (before, typed, *(root / before.name for root in data_roots()))
        place = next((path for path in tried if path.exists()), None)
        if place is None:
            what = "images" if key == "dataset" else "class names"
            where = f" (typed {typed} in {noted[RELATIVE_TO]})" if RELATIVE_TO in noted and not typed.is_absolute() else ""
            raise DataError(
                f"{run}: its {what} are not at {before} any more{where}. Put them back, or name the folder that holds "
                f"{before.name} now: IRONCLIP_DATA=FOLDER before the same command"
            )
        changes[key] = str(place)
    return config.model_copy(update=changes)


def _path(config: RunConfig, key: str) -> Path | None:
    """What a setting means, where it is a path and no name of a data set."""
    said = getattr(config, key)
    if said is None or (key == "dataset" and (said.partition(":")[0] in {*catalogue(), "torchvision", "hf"})):
        return None
    if key == "classes" and said == "imagenet":
        return None
    inside = next((root / said for root in data_roots() if (root / said).exists()), None) if key == "dataset" else None
    return inside or Path(said).expanduser()
