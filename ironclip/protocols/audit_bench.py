"""The attacks and the folder of an audit: everything known before the first image is attacked."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ironclip.attacks import without_gradients
from ironclip.attacks.eot import Averaged
from ironclip.audit.faults import External, check_target
from ironclip.audit.forward import RANDOM, spread
from ironclip.audit.guard import guarded
from ironclip.core.errors import UsageError
from ironclip.core.permits import full
from ironclip.core.tensors import evaluating, frozen
from ironclip.core.threat import Knowledge, Norm, Threat
from ironclip.core.types import Attack, Batch
from ironclip.data import EvalSet
from ironclip.loops.draws import drawn_for
from ironclip.loops.scoring import full_precision
from ironclip.protocols.audit_target import AuditTarget
from ironclip.protocols.measure import data_facts
from ironclip.protocols.resolve import named_attacks
from ironclip.records.folder import RunFolder
from ironclip.records.record import Setup, canonical_hash

DRAWS = 20


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
        borrowed: images made on a surrogate are scored by another model, so no attack stops early.
        draws: of a random classifier: PGD on their mean, then the version "rand", which averages 20 gradients per step.
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


@dataclass(frozen=True)
class Bench:
    """An audit with everything loaded and checked, before the first image is attacked."""

    run: RunFolder
    setup: Setup
    attacks: Callable[[float], Mapping[str, Attack]]
    pictures: EvalSet
    knowledge: Knowledge
    draws: int
    gradients: bool


@contextmanager
def bench(
    target: AuditTarget,
    radii: Sequence[float],
    *,
    norm: Norm = "linf",
    names: Sequence[str] = (),
    changes: Sequence[str] = (),
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    root: Path = Path("audits"),
    command: str = "",
) -> Iterator[Bench]:
    """The audit's folder, made if it is not there, and what scores in it; inside, all classifiers are frozen and evaluate.

    Args:
        names: attacks of the catalogue; default: `standard`. changes: their options as key=value.
    """
    if not radii:
        raise UsageError("an audit needs at least one radius, for example --eps 4/255")
    if norm not in ("linf", "l2"):
        raise UsageError(f"an audit measures linf and l2, for which its diagnostics are made; for {norm} use `ironclip evaluate`")
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
        needing = [] if gradients else [name for name in names if name not in without_gradients()]
        if needing:
            raise UsageError(
                f"the target gives no gradients, which {', '.join(needing)} needs; use {' or '.join(without_gradients())}, "
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
                data=data_facts(target.dataset, split),
                threat=Threat(norm=norm, eps=max(radii), knowledge=knowledge, resolution=target.resolution),
                seed=seed,
                command=command,
            )
        )
        run = _folder(target, setup, first, out, root)
        setup = setup.model_copy(update={"config_hash": run.config_hash})
        yield Bench(run, setup, made, pictures, knowledge, draws, gradients)


def _folder(target: AuditTarget, setup: Setup, first: Batch, out: Path | None, root: Path) -> RunFolder:
    """The run folder of this classifier, identified by its logits on some images; a foreign classifier also by its code."""
    with torch.no_grad(), drawn_for(first.indices.tolist()):
        logits = target.classifier(first.images)
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
