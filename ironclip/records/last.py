"""`runs/last`: a small text file with the name of the run trained last, or the reason why there is none."""

from pathlib import Path

from ironclip.core.errors import RunError
from ironclip.core.files import disk_errors, write_text
from ironclip.core.shown import plain
from ironclip.core.texts import plain_bytes

LAST = "last"
REFUSED = "? "  # no name of a run begins so


def point(run: Path) -> None:
    """Let `last` beside a run name it."""
    with disk_errors(run.parent):
        write_text(run.parent / LAST, f"{run.name}\n")


def refuse(root: Path, reason: str) -> None:
    """Make an existing `last` in this folder point to no run, because it is not the run that the user asked for last."""
    pointer = root / LAST
    if pointer.is_file():
        with disk_errors(root):
            write_text(pointer, f"{REFUSED}{plain(reason)[:300]}\n")


def named(path: Path) -> Path:
    """The run that a pointer names; any other path as it is.

    Raises:
        RunError: it names none.
    """
    if path.name != LAST or not path.is_file():
        return path
    with disk_errors(path):
        name = plain_bytes(path, 4096).decode(errors="replace").strip()
    if name.startswith(REFUSED):
        reason = plain(name.removeprefix(REFUSED))
        raise RunError(f"{path} names no run, for the last training was refused ({reason}); train again, or name a run")
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise RunError(f"{path} names no run beside it; name the run itself, or train again")
    return path.parent / name
