"""The family of errors a user can cause; every message says what was expected, what came and what to do.

Imports nothing, so that the command line can report them without loading torch.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class IronclipError(Exception):
    """Anything wrong with what the user asked for or handed in; the command line prints it and exits with 2."""


class UsageError(IronclipError, ValueError):
    """An option, a name or a number that cannot be right."""


class UnsupportedEdit(IronclipError, TypeError):
    """A method needs an edit point that this backbone does not have."""


class DataError(IronclipError, ValueError):
    """Images, labels or splits that cannot be used."""


class CheckpointError(IronclipError, ValueError):
    """A file of weights that is damaged, of another form, or of another model."""


class AdaptationClash(IronclipError, ValueError):
    """Two defences that cannot be combined."""


class RunError(IronclipError, OSError):
    """A run folder that cannot be written, read, or is in use by another process."""


class RunBusy(RunError):
    """A folder that another process is using just now."""


class AttackError(IronclipError, ValueError):
    """An attack that breaks its threat model: images outside the ball or the box, or of another shape."""


class NonFinite(IronclipError, ArithmeticError):
    """NaN or infinity where a finite number is needed."""


@contextmanager
def on_behalf_of(method: str) -> Iterator[None]:
    """Inside, the message of an `UnsupportedEdit` begins with the name of the method."""
    try:
        yield
    except UnsupportedEdit as error:
        text = str(error)
        raise UnsupportedEdit(text if text.startswith(f"{method}: ") else f"{method}: {text}") from None


LONG = 800  # characters: a longer list of names would hide what the message says


def unknown(kind: str, name: str, known: Iterable[str], *, see: str = "") -> UsageError:
    """The error for an unknown name. It names the nearest known name, or all of them unless they are too many to read. `see`: a
    command that lists them."""
    known = sorted(set(known))
    near, every = difflib.get_close_matches(name, known, n=1, cutoff=0.5), ", ".join(known)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {every}" if len(every) <= LONG else f"{len(known)} are known"
    return UsageError(f"unknown {kind} {name!r}; {hint}" + (f" (all: `{see}`)" if see else ""))
