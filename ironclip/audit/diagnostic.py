"""A diagnostic: a number, a title, the alarm in words, and the function that measures."""

from collections.abc import Callable
from dataclasses import dataclass

from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding, Verdict


@dataclass(frozen=True)
class Diagnostic:
    """One check of the audit; called with a lab, it gives a verdict.

    Args:
        number: 13 for D13; no two checks have the same.
        title: a few words for lists.
        measure: lab -> what was found.
        alarm: when it fails or warns, in words; the docs print it.
        scores: True: it only calls the classifier. All others attack it with gradients, and are missing where there are none.
        last: True: it is run after all others.
    """

    number: int
    title: str
    measure: Callable[[Lab], Finding]
    alarm: str
    scores: bool = False
    last: bool = False

    @property
    def id(self) -> str:
        return f"D{self.number}"

    def __call__(self, lab: Lab) -> Verdict:
        if not lab.gradients and not self.scores:
            text = "missing: this check needs gradients, and the target gives scores only"
            return Verdict(id=self.id, title=self.title, level="not applicable", text=text, missing=True)
        return Verdict(id=self.id, title=self.title, **self.measure(lab).model_dump())


def idle(why: str) -> Finding:
    """The finding of a check that does not apply."""
    return Finding(level="not applicable", text=why)
