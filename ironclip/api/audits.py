"""The audit from Python: of a model, or of any function from images to logits."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ironclip.api.data import Data
from ironclip.api.model import Model
from ironclip.api.progress import Callback, watched
from ironclip.audit.measure import Curve
from ironclip.audit.results import AuditReport, Requirement
from ironclip.core.display import table_html
from ironclip.core.errors import UsageError
from ironclip.core.files import write_text
from ironclip.core.threat import Norm, format_eps, parse_radii, read_norm
from ironclip.data import open_dataset
from ironclip.protocols.audit import audit
from ironclip.protocols.audit_target import AuditTarget, of_callable, of_experiment
from ironclip.protocols.config import assigned
from ironclip.report.audit_page import audit_page
from ironclip.report.views import panels

RADII = "1/255,2/255,4/255,8/255"


@dataclass(frozen=True, repr=False)
class Audit:
    """What an audit found, and the folder in which it lies. A notebook shows the curve and the verdicts.

    Args:
        report: accuracy by radius, verdicts, requirements. curve: the records behind it, with examples.
    """

    report: AuditReport
    curve: Curve
    folder: Path

    @property
    def unreliable(self) -> bool | None:
        """True: a check says that the number is not to be trusted; None: nothing can say the contrary."""
        return self.report.unreliable

    def page(self, file: str | Path) -> Path:
        """The audit as one self-contained HTML file."""
        shown = [(eps, panels([example], self.report.record.data.classes)[0]) for eps, example in self.curve.examples]
        write_text(Path(file), audit_page(self.report, shown))
        return Path(file)

    def _rows(self) -> list[tuple[str, str, str]]:
        norm = self.report.record.threat.norm
        rows = [("0 (clean)", str(self.report.clean), "")]
        for each in self.report.radii:
            broke = ", ".join(f"{attack.name} {attack.broken} of {attack.attacked}" for attack in each.attacks)
            carried = f"{'; ' if broke else ''}{each.carried} broken at a smaller radius" if each.carried else ""
            rows.append((format_eps(each.eps, norm), f"{each.bound}{each.robust}", broke + carried))
        return rows

    def _remarks(self) -> list[str]:
        flags = [f"{flag.level}: {flag.text}" for flag in self.report.flags]
        return [*self.report.remarks, *flags, *(f"requirement {met}" for met in self.report.requirements)]

    def __str__(self) -> str:
        lines = [": ".join(row[:2]) for row in self._rows()]
        return "\n".join([f"audit of {self.report.target}", *lines, *map(str, self.report.verdicts), *self._remarks()])

    def __repr__(self) -> str:
        return f"Audit({self.report.target}: {len(self.report.radii)} radii, {len(self.report.verdicts)} verdicts)"

    def _repr_html_(self) -> str:
        norm = self.report.record.threat.norm
        shown = table_html((f"{norm} eps", "right under every attack", "broken by"), self._rows())
        if self.report.verdicts:
            rows = [(v.id, v.level, v.title, v.text) for v in self.report.verdicts]
            shown += table_html(("", "verdict", "check", "what it means"), rows)
        remarks = table_html(("remarks",), [(remark,) for remark in self._remarks()]) if self._remarks() else ""
        return shown + remarks


def run_audit(
    target: Model | Callable[[Any], Any],
    data: Data | str | Path | None = None,
    *,
    eps: str | float | None = None,
    norm: Norm = "linf",
    attack: str | Sequence[str] = (),
    require: Sequence[str] = (),
    limit: int | None = None,
    diagnostics: int = 256,
    diagnostic_steps: int = 100,
    resolution: int = 224,
    seed: int = 0,
    root: str | Path = "audits",
    callback: Callback | None = None,
    **options: Any,
) -> Audit:
    """Robust accuracy over several radii, and diagnostics that say whether it can be trusted.

    Args:
        target: a model, or any function from images [B, 3, R, R] in [0, 1] to logits [B, K], which is audited anew in each call;
            its attributes `base`, `surrogates` and `resolution` are honoured (see the docs on the audit).
        data: the images; a model knows its own.
        eps: radii such as "1/255,4/255"; default: 1, 2, 4 and 8 grey levels for "linf", none for "l2".
        attack: names; default: PGD and AutoAttack, or Square where there are no gradients.
        options: of the attacks, such as steps=100.
        require: such as "robust>=0.4@4/255".
        diagnostics: images that the diagnostics take; 0: none. diagnostic_steps: of their PGD.
        resolution: pixels per side, for a function that does not say it.

    Raises:
        UsageError: data missing, an option that cannot be right, or a target that is no classifier.
    """
    radii = sorted(set(parse_radii(None if eps is None else str(eps), norm, RADII)))
    opened = _target(target, data, resolution)
    for option, value, least in (("diagnostics", diagnostics, 0), ("diagnostic_steps", diagnostic_steps, 1)):
        if value < least:
            raise UsageError(f"{option} is a whole number of at least {least}; got {value}")
    names = [name for name in attack.split(",") if name] if isinstance(attack, str) else list(attack)
    with watched(f"audit {opened.name}", callback) as tell:
        report, curve, run = audit(
            opened, radii, norm=read_norm(norm), names=names, changes=assigned(options), limit=limit, diagnostics=diagnostics,
            requirements=[Requirement.parse(text, read_norm(norm)).among(tuple(radii)) for text in require],
            steps=diagnostic_steps, seed=seed, root=Path(root),
            progress=lambda what, event: tell({**event, "what": what}) if tell else None,
        )  # fmt: skip
    return Audit(report, curve, run.path)


def _target(target: Any, data: Data | str | Path | None, resolution: int) -> AuditTarget:
    if isinstance(target, Model):
        if data is not None:
            raise UsageError("a model knows its data; evaluate it on others, or load it for them")
        return of_experiment(target.method, target.trained("run_audit"))
    if data is None:
        raise UsageError("a function that is no model of ironclip needs data to be audited on")
    name = getattr(target, "__name__", type(target).__name__)
    dataset = data.dataset if isinstance(data, Data) else open_dataset(data)
    if not isinstance(target, nn.Module) and not callable(target):
        raise UsageError(f"a target is a model, or a function from images to logits; got {type(target).__name__}")
    return of_callable(name, target, dataset, resolution=resolution, code=secrets.token_hex(16))
