"""The audit of a classifier: curve over the radii, diagnostics, requirements, one folder that can be gone on with."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ironclip.attacks import WITHOUT_GRADIENTS
from ironclip.attacks.eot import EOT, Averaged
from ironclip.audit.diagnose import diagnose
from ironclip.audit.faults import External, check_target
from ironclip.audit.forward import RANDOM, spread
from ironclip.audit.guard import guarded
from ironclip.audit.lab import Lab
from ironclip.audit.measure import Curve, Pictures, measure
from ironclip.audit.results import AuditReport, Requirement
from ironclip.core.errors import DataError, UsageError
from ironclip.core.permits import full
from ironclip.core.tensors import evaluating, frozen
from ironclip.core.threat import Knowledge, Norm, Threat, format_eps
from ironclip.core.types import Attack
from ironclip.data import EvalSet
from ironclip.loops.scoring import full_precision
from ironclip.protocols.audit_target import Target
from ironclip.protocols.measure import PREPROCESSING
from ironclip.protocols.resolve import named_attacks
from ironclip.records.folder import RunFolder
from ironclip.records.pictures import Example
from ironclip.records.record import DataFacts, Flag, Setup, canonical_hash

DRAWS = 20
Progress = Callable[[str, dict[str, Any]], None]


def standard(
    eps: float,
    *,
    norm: Norm = "linf",
    seed: int = 0,
    borrowed: bool = False,
    draws: int = 1,
    gradients: bool = True,
    changes: Sequence[str] = (),
) -> dict[str, Attack]:
    """The attacks of an audit at one radius: PGD, then the members of AutoAttack, each by its name.

    Args:
        gradients: False: the target gives scores only, so Square alone.
        borrowed: pictures made on a surrogate are handed to another predictor, so no attack stops early.
        draws: of a random classifier: PGD on their mean, then the version "rand", which averages 20 gradients a step.
    """
    mode = "full" if borrowed or draws > 1 else "compact"
    if not gradients:
        return expanded(named_attacks(["square"], eps, seed, [f"mode={mode}", *changes], norm=norm), draws)
    settings = [f"mode={mode}", f"version={'rand' if draws > 1 else 'standard'}", *changes]
    return expanded(named_attacks(["pgd", "autoattack"], eps, seed, settings, norm=norm), draws)


def expanded(found: Mapping[str, Attack], draws: int) -> dict[str, Attack]:
    """Attacks with their members in their place; on a random classifier in their mode "full", and made on the mean of the
    draws unless they average gradients themselves."""
    flat: dict[str, Attack] = {}
    for name, attack in found.items():
        flat |= getattr(attack, "members", {name: attack})
    if draws == 1:
        return flat
    return {name: full(attack) if getattr(attack, "eot", 1) > 1 else Averaged(attack, draws) for name, attack in flat.items()}


def audit(
    target: Target,
    radii: Sequence[float],
    *,
    norm: Norm = "linf",
    names: Sequence[str] = (),
    changes: Sequence[str] = (),
    requirements: Sequence[Requirement] = (),
    limit: int | None = None,
    split: str = "test",
    batch_size: int = 50,
    diagnostics: int = 256,
    steps: int = 100,
    diagnostic_eps: float | None = None,
    seed: int = 0,
    keep_examples: int = 8,
    device: str = "cpu",
    out: Path | None = None,
    root: Path = Path("audits"),
    command: str = "",
    progress: Progress = lambda what, event: None,
) -> tuple[AuditReport, Curve, RunFolder]:
    """The report, the curve behind it, and the folder in which both lie (`audit.json` and records).

    Args:
        names: attacks of the catalogue; default: `standard`. changes: their options as key=value.
        diagnostics: how many images the diagnostics take (at most those there are); 0: none.
        steps: of the strong attack in the diagnostics.
        diagnostic_eps: radius of the diagnostics; default: the largest audited one up to 4/255 (l2: 1), else the smallest.
        progress: gets what is going on, and its events.
    """
    if not radii:
        raise UsageError("an audit needs at least one radius, for example --eps 4/255")
    for requirement in requirements:
        requirement.among(tuple(radii))
    pictures = EvalSet(target.dataset, split, resolution=target.resolution, limit=limit)
    first = pictures.batch(range(min(8, len(pictures)))).to(device)
    classifier, classes = target.classifier, target.dataset.classes
    everyone = (classifier, *target.surrogates, *target.sources)
    with ExitStack() as stack:
        if isinstance(classifier, External):
            stack.enter_context(guarded(f"the audit of {target.name} did not finish", hold=False))
        for context in (evaluating(*everyone), full_precision()):
            stack.enter_context(context)
        gradients = check_target(classifier, first.images, first.labels, classes)
        needing = [] if gradients else [name for name in names if name not in WITHOUT_GRADIENTS]
        if needing:
            raise UsageError(
                f"the target gives no gradients, which {', '.join(needing)} needs; use {' or '.join(WITHOUT_GRADIENTS)}, "
                "or wrap the part that cannot be differentiated in ironclip.attacks.bpda.BPDA"
            )
        stack.enter_context(frozen(*everyone))
        for number, surrogate in enumerate(target.surrogates, 1):
            if surrogate(first.images).shape != (len(first), len(classes)):
                raise UsageError(f"surrogate {number} of the target returns no logits [{len(first)}, {len(classes)}]")
        draws = DRAWS if spread(classifier, first.images)[0] > RANDOM else 1

        knowledge: Knowledge = "adaptive" if target.surrogates else "white-box" if gradients else "black-box"

        def made(eps: float) -> dict[str, Attack]:
            if names:
                return expanded(named_attacks(names, eps, seed, changes, norm=norm, knowledge=knowledge), draws)
            alike = {"borrowed": bool(target.surrogates), "draws": draws, "gradients": gradients, "changes": changes}
            return standard(eps, norm=norm, seed=seed, **alike)  # type: ignore[arg-type]

        made(max(radii))
        setup = Setup.model_validate(
            dict(
                target.facts,
                data=_data_facts(target, split),
                threat=Threat(norm=norm, eps=max(radii), knowledge=knowledge, resolution=target.resolution),
                seed=seed,
                command=command,
            )
        )
        run = _folder(target, setup, first.images, out, root)
        with run.lock():
            setup = setup.model_copy(update={"environment": run.save_environment(device), "config_hash": run.config_hash})
            curve = measure(
                run, setup, classifier, made, pictures, radii, surrogates=target.surrogates, batch_size=batch_size,
                keep_examples=keep_examples, device=device, callback=lambda eps, event: progress(format_eps(eps, norm), event),
            )  # fmt: skip
            eps = diagnostic_eps if diagnostic_eps is not None else _diagnostic_radius(radii, norm)
            lab = None
            if diagnostics:
                lab = _lab(
                    target, curve, pictures, diagnostics, draws, eps, steps, seed, batch_size, device, norm, knowledge, gradients
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
                draws=draws,
                gradients=gradients,
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


def examples_of(curve: Curve, many: int) -> list[Example]:
    """The cheapest broken pictures: those of the smallest radius first."""
    return [example for _, example in curve.examples][:many]


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


def _data_facts(target: Target, split: str) -> DataFacts:
    dataset = target.dataset
    return DataFacts(
        name=dataset.name,
        split=split,
        split_hash=dataset.sha256,
        classes=dataset.classes,
        label_space=len(dataset.classes),
        preprocessing=PREPROCESSING,
        available=len(dataset.items(split)),
    )


def _folder(target: Target, setup: Setup, images: Tensor, out: Path | None, root: Path) -> RunFolder:
    """A run folder of this classifier: told from others by its logits on some images, and a foreign one by its code as well."""
    with torch.no_grad():
        logits = target.classifier(images)
    print_ = hashlib.sha256(repr([[round(v, 2) for v in row] for row in logits.tolist()]).encode()).hexdigest()
    norm = setup.threat.norm
    config = {
        "method": f"audit-{'' if norm == 'linf' else f'{norm}-'}{target.name}",
        "dataset": target.dataset.name,
        "backbone": setup.backbone.name,
        "shots": setup.shots,
        "seed": setup.seed,
        "logits": print_,
        "data": setup.data.model_dump(mode="json"),
        "options": canonical_hash(dict(setup.options)),
        **({"code": target.code} if target.code else {}),
    }
    return RunFolder.create(config, out=out, root=root)


def _lab(
    target: Target, curve: Curve, pictures: Pictures, many: int, draws: int, eps: float, steps: int, seed: int,
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
