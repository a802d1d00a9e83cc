"""The results of an audit as values: verdicts of the diagnostics, accuracy by radius, requirements. Imports no torch."""

from typing import Any, Literal

from pydantic import Field

from ironclip.core.errors import UsageError
from ironclip.core.threat import Norm, format_eps, parse_eps
from ironclip.records.bounds import mark, one_loss
from ironclip.records.record import AttackResult, Flag, Part, Proportion, Record

Level = Literal["pass", "warn", "fail", "not applicable"]
LEVELS: tuple[Level, ...] = ("fail", "warn", "pass", "not applicable")
"""The worst first."""


class Finding(Part):
    """The measurement of one diagnostic, its threshold, and what it means.

    Args:
        value: the number that is compared; None where the check does not apply.
        threshold: the alarm in words.
        numbers: everything else that was measured.
    """

    level: Level
    value: float | None = None
    threshold: str = ""
    text: str
    numbers: dict[str, float] = Field(default_factory=dict)


class Verdict(Finding):
    """A finding under the name of its diagnostic.

    Args:
        id: D1, D2 ..: a name in `diagnose.CHECKS`.
        missing: the check would apply, but cannot be run without gradients.
    """

    id: str
    title: str
    missing: bool = False

    def __str__(self) -> str:
        measured = "" if self.value is None else f" [{self.value:.4g}]"
        return f"{self.id} {self.level.upper()} {self.title}{measured}: {self.text}"


class Radius(Part):
    """Robust accuracy at one radius, worst case over all attacks, those of smaller radii included.

    Args:
        attacks: what each attack met and broke at this radius; `carried` images were broken at a smaller one.
    """

    eps: float
    robust: Proportion
    attacks: tuple[AttackResult, ...]
    carried: int
    seconds: float

    @property
    def bound(self) -> str:
        """The mark before the robust accuracy: "≤ " where one loss alone was run, else nothing."""
        return mark(self.eps > 0 and one_loss(attack.constants for attack in self.attacks))

    @property
    def strongest(self) -> str:
        """The attack that broke most images here."""
        return max(self.attacks, key=lambda attack: attack.broken).name if self.attacks else ""


class Met(Part):
    """A requirement, what was measured, and whether it is met."""

    requirement: str
    met: bool
    measured: float

    def __str__(self) -> str:
        return f"{self.requirement}: {'met' if self.met else 'NOT MET'}, measured {self.measured:.4f}"


class AuditReport(Part):
    """An audit as a whole.

    Args:
        draws: calls averaged in each step of an attack on a random classifier (EOT); 1: not random.
        gradients: False: the target gives scores only, so only attacks on scores were run: an upper bound.
        diagnosed: images the diagnostics were run on.
        flags: of the records at all radii, each once.
        record: the evaluation at the largest radius, with everything needed to repeat it.
    """

    format: Literal[1] = 1
    target: str
    clean: Proportion
    radii: tuple[Radius, ...]
    verdicts: tuple[Verdict, ...] = ()
    requirements: tuple[Met, ...] = ()
    surrogates: int = 0
    draws: int = 1
    gradients: bool = True
    diagnosed: int = 0
    flags: tuple[Flag, ...] = ()
    diagnostic_eps: float = 0.0
    seconds: dict[str, float] = Field(default_factory=dict)
    record: Record

    @property
    def level(self) -> Level:
        """The worst of the verdicts and flags."""
        found = {verdict.level for verdict in self.verdicts} | {flag.level for flag in self.flags}
        return next((level for level in LEVELS if level in found), "pass")

    @property
    def missing(self) -> tuple[str, ...]:
        """The checks that could not be run for want of gradients."""
        return tuple(verdict.id for verdict in self.verdicts if verdict.missing)

    @property
    def unreliable(self) -> bool | None:
        """True where a check or a flag says that the accuracy cannot be trusted; None where that is unknown, because no
        diagnostic ran, or not all that matter."""
        if self.level == "fail":
            return True
        return False if self.verdicts and not self.missing and self.gradients else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for the reader beside the figures, one per line."""
        if self.gradients:
            return ()
        said = f"; these diagnostics need gradients and are missing: {', '.join(self.missing)}" if self.missing else ""
        return (f"score attacks only: the target gives no gradients, so robust accuracy is an upper bound{said}",)


class Requirement(Part):
    """`robust>=0.4@4/255`, `clean>=0.8`: an accuracy that an audit must find.

    Args:
        text: as it was written.
        least: fraction, compared with the measured proportion (not with an end of its interval).
        eps: radius of a robust accuracy, in the units of `norm`.
    """

    text: str
    what: Literal["clean", "robust"]
    least: float
    eps: float | None = None
    norm: Norm = "linf"

    @classmethod
    def parse(cls, text: str, norm: Norm = "linf") -> "Requirement":
        """What the text requires, its radius in the units of the norm.

        Raises:
            UsageError: not of this form, or no fraction.
        """
        expected = f"a requirement is 'robust>=0.4@4/255' or 'clean>=0.8' with a fraction in [0, 1]; got {text!r}"
        what, found, rest = (part.strip() for part in text.partition(">="))
        number, at, eps = (part.strip() for part in rest.partition("@"))
        try:
            least = float(number)
        except ValueError:
            raise UsageError(expected) from None
        if not found or what not in ("clean", "robust") or not 0 <= least <= 1 or bool(at) != (what == "robust"):
            raise UsageError(expected)
        return cls(text=text, what=what, least=least, eps=parse_eps(eps, norm) if at else None, norm=norm)  # type: ignore[arg-type]

    def among(self, radii: tuple[float, ...]) -> "Requirement":
        """Itself, if it speaks of an audited radius.

        Raises:
            UsageError: it does not.
        """
        if self.eps is not None and not any(_same(self.eps, eps) for eps in radii):
            known = ", ".join(format_eps(eps, self.norm) for eps in radii)
            raise UsageError(f"the requirement {self.text!r} speaks of a radius that is not audited; --eps has {known}")
        return self

    def check(self, clean: Proportion, radii: tuple[Radius, ...]) -> Met:
        measured = clean.value
        if self.eps is not None:
            measured = next(radius.robust.value for radius in radii if _same(radius.eps, self.eps))
        return Met(requirement=self.text, met=measured >= self.least, measured=measured)


def _same(a: float, b: float) -> bool:
    return abs(a - b) < 1e-9


def summary(report: AuditReport) -> dict[str, Any]:
    """The numbers of an audit by name, for a line of output."""
    norm = report.record.threat.norm
    return {"clean": report.clean.value} | {f"robust@{format_eps(r.eps, norm)}": r.robust.value for r in report.radii}
