"""The zoo audited: which diagnostics see a kind, and which raise an alarm on an honest classifier."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ironclip.audit.diagnose import CHECKS
from ironclip.audit.results import Verdict
from ironclip.core.errors import IronclipError, NonFinite
from ironclip.core.tensors import evaluating, frozen
from ironclip.loops.scoring import full_precision
from zoo.base import Bench, lab_of

ORDER = (
    "D2", "D3", "D1", "D13", "D18", "D4", "D14", "D16", "D19",
    "D9", "D6", "D12", "D10", "D7", "D8", "D11", "D17", "D5", "D15",
)  # fmt: skip
CHEAP_FIRST = (*ORDER, *(name for name in CHECKS if name not in ORDER))
"""All checks; the order decides only how soon a masked kind is seen."""
WITHOUT_AUTOATTACK = CHEAP_FIRST[: CHEAP_FIRST.index("D9")]


@dataclass(frozen=True)
class Seen:
    """What the audit says about one classifier.

    Args:
        fails, warns: verdicts of these levels; `refused`: the one line with which the audit refuses it.
    """

    name: str
    fails: tuple[Verdict, ...]
    warns: tuple[Verdict, ...]
    refused: str
    seconds: float

    @property
    def flagged(self) -> bool:
        return bool(self.fails or self.warns or self.refused)

    def __str__(self) -> str:
        what = [
            f"{v.id} {v.level} ({v.value if v.value is None else format(v.value, '.3g')})" for v in (*self.fails, *self.warns)
        ]
        return f"{self.name}: {', '.join(what) or self.refused or 'no alarm'} [{self.seconds:.0f} s]"


def look_at(name: str, classifier: nn.Module, bench: Bench, *, stop: bool, checks: Sequence[str] = CHEAP_FIRST) -> Seen:
    """The verdicts of the checks; with `stop` none after the first alarm."""
    assert set(CHEAP_FIRST) == set(CHECKS)
    start, fails, warns, refused = time.perf_counter(), [], [], ""
    classifier.eval()
    try:
        lab = lab_of(classifier, bench)
        with evaluating(lab.classifier), frozen(lab.classifier), full_precision():
            for check in checks:
                try:
                    verdict = CHECKS[check](lab)
                except NonFinite as error:
                    verdict = Verdict(id=check, title="not finite", level="fail", text=str(error))
                fails += [verdict] if verdict.level == "fail" else []
                warns += [verdict] if verdict.level == "warn" else []
                if stop and (fails or warns):
                    break
    except IronclipError as error:
        refused = f"refused: {error}"
    return Seen(name, tuple(fails), tuple(warns), refused, time.perf_counter() - start)


def zoo(
    kinds: Mapping[str, Callable[[Bench], nn.Module]], bench: Bench, *, stop: bool, checks: Sequence[str] = CHEAP_FIRST
) -> Iterator[Seen]:
    for name, make in kinds.items():
        yield look_at(name, make(bench), bench, stop=stop, checks=checks)
