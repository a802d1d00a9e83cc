"""Grid files by path, or by the name of one that comes with the package. Imports no torch."""

from pathlib import Path

from ironclip.core.errors import unknown

PACKAGE = Path(__file__).resolve().parents[1]


def packaged() -> dict[str, Path]:
    """Name -> grid file that comes with the package: in an installed one inside it, in a checkout beside it."""
    inside, beside = PACKAGE / "grids", PACKAGE.parent / "grids"
    checkout = (PACKAGE.parent / "pyproject.toml").is_file()
    folder = inside if inside.is_dir() or not checkout else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def located(given: Path) -> Path:
    """The grid file of this path; else the one of this name that comes with the package.

    Raises:
        UsageError: neither is there; names the nearest one.
    """
    if given.is_file():
        return given
    found = packaged()
    name = given.stem if given.suffix in (".yaml", ".yml") else given.name
    bare = given.parent in (Path(), Path("grids"))  # `few-shot-11`, or `grids/few-shot-11.yaml` as in a checkout
    if bare and name in found:
        return found[name]
    raise unknown("grid file", str(given), found)
