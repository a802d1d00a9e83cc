"""The audit of a classifier: curve over the radii, diagnostics, requirements, in one folder that can be continued."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ironclip.attacks.eot import EOT
from ironclip.audit.diagnose import diagnose
from ironclip.audit.lab import Lab
from ironclip.audit.measure import BATCH, Curve, Pictures, measure
from ironclip.audit.results import AuditReport, Requirement
from ironclip.core.errors import DataError
from ironclip.core.threat import Norm, format_eps
from ironclip.protocols.audit_bench import bench
from ironclip.protocols.audit_target import AuditTarget
from ironclip.records.folder import RunFolder
from ironclip.records.record import Flag

KEPT = 8
Progress = Callable[[str, dict[str, Any]], None]


def audit(
    target: AuditTarget,
    radii: Sequence[float],
    *,
    norm: Norm = "linf",
    requirements: Sequence[Requirement] = (),
    split: str = "test",
    batch_size: int | None = None,
    diagnostics: int = 256,
    steps: int = 100,
    diagnostic_eps: float | None = None,
    seed: int = 0,
    keep_examples: int = KEPT,
    device: str = "cpu",
    progress: Progress = lambda what, event: None,
    **options: Any,
) -> tuple[AuditReport, Curve, RunFolder]:
    """The report, the curve behind it, and the folder in which both lie (`audit.json` and records).

    Args:
        batch_size: images at once, taken or refused; None: 50, or as many of them as the memory of the device holds.
        diagnostics: number of images for the diagnostics (at most all); 0: no diagnostics.
        steps: of the strong attack in the diagnostics.
        diagnostic_eps: radius of the diagnostics; default: the largest audited one up to 4/255 (l2: 1), else the smallest.
        progress: gets the current step and its events.
        options: as of `bench`.
    """
    for requirement in requirements if radii else ():
        requirement.among(tuple(radii))
    with bench(target, radii, norm=norm, split=split, seed=seed, device=device, **options) as made:
        run, pictures = made.run, made.pictures
        with run.lock():
            setup = made.setup.model_copy(update={"environment": run.save_environment(device)})
            curve = measure(
                run,
                setup,
                target.classifier,
                made.attacks,
                pictures,
                radii,
                surrogates=target.surrogates,
                batch_size=batch_size or BATCH,
                exact=batch_size is not None,
                keep_examples=keep_examples,
                device=device,
                callback=lambda eps, event: progress(format_eps(eps, norm), event),
            )
            eps = diagnostic_eps if diagnostic_eps is not None else _diagnostic_radius(radii, norm)
            lab = None
            if diagnostics:
                lab = _lab(
                    target,
                    curve,
                    pictures,
                    diagnostics,
                    made.draws,
                    eps,
                    steps,
                    seed,
                    batch_size or BATCH,
                    device,
                    norm,
                    made.knowledge,
                    made.gradients,
                )
            verdicts = (
                diagnose(
                    lab, callback=lambda done, total: progress("diagnostics", {"event": "check", "done": done, "total": total})
                )
                if lab is not None
                else ()
            )
            clean = curve.records[0].clean
            report = AuditReport(
                target=target.name,
                clean=clean,
                radii=curve.radii,
                verdicts=verdicts,
                requirements=tuple(requirement.check(clean, curve.radii) for requirement in requirements),
                surrogates=len(target.surrogates),
                draws=made.draws,
                gradients=made.gradients,
                diagnosed=0 if lab is None else len(lab),
                flags=_flags(curve),
                diagnostic_eps=eps,
                seconds={"attacks": sum(r.seconds for r in curve.radii)},
                record=curve.records[-1],
            )
            write_report(run, report)
    return report, curve, run


def write_report(run: RunFolder, report: AuditReport) -> Path:
    """The report as audit.json in the folder."""
    from ironclip.core.files import write_json

    path = run.path / "audit.json"
    write_json(path, report.model_dump(mode="json"))
    return path


def _flags(curve: Curve) -> tuple[Flag, ...]:
    """The flags of all records, each once, with the radii at which it was raised."""
    raised: dict[Flag, list[str]] = {}
    for record in curve.records:
        for flag in record.flags:
            raised.setdefault(flag, []).append(format_eps(record.threat.eps, record.threat.norm))
    return tuple(flag.model_copy(update={"text": f"{flag.text} (at {', '.join(radii)})"}) for flag, radii in raised.items())


def _diagnostic_radius(radii: Sequence[float], norm: Norm) -> float:
    usual = [eps for eps in radii if eps <= (4 / 255 if norm == "linf" else 1) + 1e-9]
    return max(usual) if usual else min(radii)


def _lab(
    target: AuditTarget, curve: Curve, pictures: Pictures, many: int, draws: int, eps: float, steps: int, seed: int,
    batch_size: int, device: str, norm: Norm, knowledge: str, gradients: bool,
) -> Lab:  # fmt: skip
    """The diagnostics' bench: the first `many` images that are right, and the wrong ones among those before the last of them."""
    rows = {index: row for row, index in enumerate(pictures.indices.tolist())}
    ordered = sorted(curve.samples, key=lambda sample: rows[sample.index])
    right = [sample for sample in ordered if sample.right][:many]
    wrong = [sample for sample in ordered if not sample.right][: max(1, many // 2)]

    def these(samples: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        batch = pictures.batch([rows[sample.index] for sample in samples]).to(device)
        return batch.images, batch.labels, batch.indices

    if not right:
        raise DataError("the classifier gets no image right, so there is nothing to attack; are the classes in order?")
    images, labels, indices = these(right)
    attacked = EOT(target.classifier, draws) if draws > 1 else target.classifier
    return Lab(
        target.classifier, attacked, images, labels, indices, these(wrong), eps, steps=steps, seed=seed, batch_size=batch_size,
        draws=draws, norm=norm, sources=target.sources, base=target.base, knowledge=knowledge, gradients=gradients,
        reported=torch.tensor([sample.clean for sample in (*right, *wrong)]),
    )  # fmt: skip
