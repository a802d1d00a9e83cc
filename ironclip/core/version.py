"""Versions of installed packages, and that of this one."""

from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str:
    """The version of a package, by the name under which it is installed; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


__version__ = installed("ironclip") or "0+unknown"  # unknown where a source tree runs that was never installed
