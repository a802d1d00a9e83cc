"""All diagnostics in their order."""

from collections.abc import Callable

from ironclip.audit import copies, differences, forward, gradients, honesty, strength
from ironclip.audit.lab import Lab
from ironclip.audit.results import Verdict
from ironclip.core.errors import NonFinite

Check = Callable[[Lab], Verdict]

CHECKS: dict[str, Check] = {
    "D1": gradients.dead_gradients,
    "D2": forward.output_type,
    "D3": forward.randomness,
    "D4": forward.dynamic,
    "D5": forward.class_count,
    "D6": strength.radius_sweep,
    "D7": strength.strength_order,
    "D8": strength.black_box,
    "D9": honesty.label_leak,
    "D10": strength.noise,
    "D11": strength.convergence,
    "D12": strength.loss_spread,
    "D13": differences.finite_differences,
    "D14": honesty.unperturbed,
    "D16": forward.same_object,
    "D17": honesty.gain_of_adapting,
    "D18": differences.one_step,
    "D19": copies.transformed_copies,
    "D15": honesty.budget,
}
"""Name -> check. The budget comes last: it looks at the pictures of all the others."""
SCORES_SUFFICE = ("D2", "D3", "D4", "D5", "D16")
"""Checks that only call the classifier; all others attack it with gradients."""


def diagnose(lab: Lab, *, callback: Callable[[int, int], None] = lambda done, total: None) -> tuple[Verdict, ...]:
    """The verdicts of all `CHECKS`, in the order of their numbers."""
    if not len(lab):
        return tuple(
            Verdict(id=name, title="not run", level="not applicable", text="the classifier gets no image right")
            for name in CHECKS
        )
    found = []
    for done, check in enumerate(CHECKS.values(), 1):
        name = list(CHECKS)[done - 1]
        try:
            found.append(check(lab) if lab.gradients or name in SCORES_SUFFICE else _missing(name, check))
        except NonFinite as error:  # itself a finding: the attacks of this check cannot be run
            found.append(Verdict(id=name, title="not finite", level="fail", text=str(error)))
        callback(done, len(CHECKS))
    return tuple(sorted(found, key=lambda verdict: int(verdict.id[1:])))


def _missing(name: str, check: Check) -> Verdict:
    """The verdict of a check that attacks with gradients, on a target that has none."""
    title = check.__name__.replace("_", " ")
    text = "missing: this check needs gradients, and the target gives scores only"
    return Verdict(id=name, title=title, level="not applicable", text=text, missing=True)
