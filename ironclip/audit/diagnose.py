"""All diagnostics, found in their files, and their verdicts on one lab."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Verdict
from ironclip.core.errors import NonFinite, RunError
from ironclip.core.memory import out_of_memory, release
from ironclip.core.signals import leave_if_asked


def found() -> dict[str, Diagnostic]:
    """Name -> check of every public file in `checks/`, in the order of their numbers; those that come last at the end.

    Raises:
        ValueError: two checks have the same number.
    """
    files = sorted((Path(__file__).parent / "checks").glob("[!_]*.py"))
    checks = [import_module(f"ironclip.audit.checks.{path.stem}").CHECK for path in files]
    named = {check.id: check for check in sorted(checks, key=lambda check: (check.last, check.number))}
    if len(named) < len(checks):
        raise ValueError(f"every diagnostic has a number of its own; got {sorted(check.number for check in checks)}")
    return named


CHECKS = found()
"""Name -> check."""


def diagnose(lab: Lab, *, callback: Callable[[int, int], None] = lambda done, total: None) -> tuple[Verdict, ...]:
    """The verdicts of all `CHECKS`, in the order of their numbers.

    Raises:
        Leaving: the process was asked to leave; the verdicts are made again.
    """
    if not len(lab):
        text = "the classifier gets no image right"
        return tuple(Verdict(id=name, title="not run", level="not applicable", text=text) for name in CHECKS)
    verdicts = []
    for done, (name, check) in enumerate(CHECKS.items(), 1):
        try:
            verdicts.append(_fitting(check, lab))
        except NonFinite as error:  # itself a finding: the attacks of this check cannot be run
            verdicts.append(Verdict(id=name, title="not finite", level="fail", text=str(error)))
        callback(done, len(CHECKS))
        leave_if_asked()
    return tuple(sorted(verdicts, key=lambda verdict: int(verdict.id[1:])))


def _fitting(check: Diagnostic, lab: Lab) -> Verdict:
    """The verdict of a check; where memory runs out, from then on with half as many images at once."""
    while True:
        try:
            return check(lab)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if lab.batch_size == 1:
                raise RunError(f"one image at once does not fit into the memory of {lab.images.device}") from None
        lab.batch_size //= 2  # outside the handler, whose traceback keeps the tensors of the failed call
        release(lab.images.device)
