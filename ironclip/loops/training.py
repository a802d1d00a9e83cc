"""The one training loop: a defence, a frozen backbone, batches and an inner attack -> learned tensors.

All random numbers are keyed by (seed, epoch), so a killed run continues after its last whole epoch and ends with the same tensors
as an uninterrupted one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ironclip.core.errors import CheckpointError, NonFinite, UsageError
from ironclip.core.precision import computing
from ironclip.core.schedule import Schedule
from ironclip.core.signals import asked_to_leave, leave_if_asked
from ironclip.core.tensors import key
from ironclip.core.types import Attack, Backbone, Batch, Defense
from ironclip.loops.ahead import ahead
from ironclip.loops.parallel import Parallel

Callback = Callable[[dict[str, Any]], None]
COLLAPSED_STEPS = 0.9
"""Share of an epoch's steps that must look collapsed for the flag."""


class Batches(Protocol):
    """The batches of one epoch; their length is the number of batches."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class State:
    """The state of a run between two epochs: learned tensors, the optimiser's buffers, and the history so far."""

    epoch: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def fit(
    defense: Defense,
    backbone: Backbone,
    batches: Callable[[int], Batches],
    attack: Attack,
    *,
    schedule: Schedule,
    seed: int = 0,
    resume: State | None = None,
    save: Callable[[State], None] | None = None,
    callback: Callback | None = None,
    parallel: Parallel | None = None,
    precision: str = "float32",
) -> tuple[str, ...]:
    """Minimise the sum of the defence's loss terms in place; return flags: "collapse" if the last epoch collapsed.

    Args:
        batches: epoch (1, 2, ...) -> its batches, the same for the same epoch. Their length is the number of optimiser steps per
            epoch and must be the same in all epochs.
        attack: inner attack; where it has a field `seed`, that is keyed on (seed, epoch).
        resume: state to continue from.
        save: called with the state after every epoch.
        parallel: this process as one of several that train together; each is given the same batches and takes its part.
        precision: of the losses and of the inner attacks in them, "float32", "tf32" or "bf16" (`core.precision`).
        callback: called with {"event": "step" | "epoch", "epoch", "step", "steps", "lr", "terms", "diagnostics", ...}.

    Raises:
        Leaving: the process, or one of those that train together, was asked to leave; it continues after the last epoch.
        NonFinite: a loss term or a gradient is NaN or infinite; names it.
        CheckpointError: the state to continue from is of another defence.
        UsageError: an epoch without batches, or with another number of batches than announced or than in an earlier epoch.
    """
    say = callback or (lambda event: None)
    state = resume or State()
    groups = defense.parameter_groups(1.0)
    if not any(group["params"] for group in groups):
        return ()
    optimizer = _optimizer(groups, schedule)
    relative = [group["lr"] for group in optimizer.param_groups]
    if state.tensors:
        _restore(state.tensors, defense, optimizer)
    flags = list(state.flags)
    defense.train()
    expected: int | None = None
    for epoch in range(state.epoch + 1, schedule.epochs + 1):
        given = batches(epoch)
        expected = _steps(given, epoch, expected)
        inner = seeded(attack, key(seed, epoch))
        sums: dict[str, float] = {}
        noted: dict[str, float] = {}
        seen = steps = constant = 0
        for step, batch in enumerate(ahead(given, backbone.device), start=1):
            lr = schedule.rate(epoch, step, expected)
            for group, ratio in zip(optimizer.param_groups, relative, strict=True):
                group["lr"] = lr * ratio
            terms = _step(defense, backbone, batch, inner, optimizer, schedule.clip_norm, parallel, precision)
            seen, steps = seen + len(batch), step
            constant += collapsed(terms, len(batch.classes))
            numbers = defense.diagnostics()
            for totals, values in ((sums, terms), (noted, numbers)):
                for name, value in values.items():
                    totals[name] = totals.get(name, 0.0) + value * len(batch)
            now = {"epoch": epoch, "epochs": schedule.epochs, "steps": expected, "lr": lr}
            say({"event": "step", **now, "step": step, "terms": terms, "diagnostics": numbers})
            leave_if_asked(parallel.anyone(asked_to_leave()) if parallel else None)
        if steps != expected:
            raise UsageError(f"epoch {epoch} has {steps} batches, but said that it has {expected}")
        means, notes = ({name: total / seen for name, total in totals.items()} for totals in (sums, noted))
        flags = ["collapse"] if constant >= COLLAPSED_STEPS * steps else []  # a run that recovers is no collapse
        say({"event": "epoch", **now, "terms": means, "diagnostics": notes, "flags": tuple(flags)})
        if save is not None:
            save(State(epoch, _snapshot(defense, optimizer), tuple(flags)))
    defense.eval()
    return tuple(flags)


def _steps(batches: Batches, epoch: int, before: int | None) -> int:
    """The optimiser steps of this epoch, which must be those of the epochs before it."""
    if not hasattr(batches, "__len__"):
        raise UsageError(
            f"the batches of an epoch need a length, for the learning rate; got {type(batches).__name__}: pass a list"
        )
    if not len(batches):
        raise UsageError(f"epoch {epoch} has no batches; the training split is empty")
    if before is not None and len(batches) != before:
        raise UsageError(f"epoch {epoch} has {len(batches)} batches, the one before it {before}; every epoch has the same number")
    return len(batches)


def collapsed(terms: Mapping[str, float], classes: int) -> bool:
    """Whether the loss terms of a step are at chance level: cross-entropy at ln K and every KL term near zero.

    `fit` raises the flag if nearly every step of an epoch is like this: outputs that do not depend on the image give exactly ln
    K, while a loss with mean ln K varies around it.

    Source: lionel-w2/FAP issue 3, where a consistency term drives the outputs to a constant. Thresholds are ours: 2 % of
    ln K, 0.01 nats. Cross-entropies are terms whose name ends in "ce", consistency terms those that end in "kl"; those of
    a part of a stack ("part.term") may also add up to ln K, as weighted ones do.
    """
    parts: dict[str, list[float]] = {}
    for name, value in terms.items():
        if name.endswith("ce"):
            parts.setdefault(name.rpartition(".")[0], []).append(value)
    chance = math.log(classes)
    near = lambda value: abs(value - chance) < 0.02 * chance  # noqa: E731
    constant = [near(sum(entropies)) or all(near(value) for value in entropies) for entropies in parts.values()]
    return bool(parts) and all(constant) and all(value < 0.01 for name, value in terms.items() if name.endswith("kl"))


def seeded(attack: Attack, seed: int) -> Attack:
    """The attack with another seed, if it has a field `seed`."""
    named = hasattr(attack, "__dataclass_fields__") and "seed" in {f.name for f in fields(attack)}  # type: ignore[arg-type]
    return replace(attack, seed=seed) if named else attack  # type: ignore[type-var]


def _step(
    defense: Defense,
    backbone: Backbone,
    batch: Batch,
    attack: Attack,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    parallel: Parallel | None = None,
    precision: str = "float32",
) -> dict[str, float]:
    batch, share = parallel.part(batch) if parallel else (batch, 1.0)
    with torch.enable_grad(), computing(precision, backbone.device):
        terms = defense.loss(backbone, batch, attack)
        total = torch.stack(list(terms.values())).sum()
    values = {name: float(term.detach()) for name, term in terms.items()}
    values = parallel.means(values, share) if parallel else values
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFinite(f"the loss term {name!r} became {value}; lower the learning rate, set clip_norm, or use float32")
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    if parallel:
        parallel.add_gradients(defense.parameters(), share)
    norm = torch.nn.utils.clip_grad_norm_(defense.parameters(), math.inf if clip_norm is None else clip_norm)
    if not norm.isfinite():
        raise NonFinite(f"the gradient's norm became {float(norm)}; lower the learning rate, set clip_norm, or use float32")
    optimizer.step()
    return values


def _optimizer(groups: list[dict[str, Any]], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)
    return torch.optim.SGD(groups, momentum=schedule.momentum, weight_decay=schedule.weight_decay)


def _snapshot(defense: Defense, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of the learned tensors ("learned.*") and of the optimiser's buffers ("optimizer.<parameter>.<buffer>")."""
    tensors = {f"learned.{name}": tensor.detach().cpu().clone() for name, tensor in defense.state_dict().items()}
    for number, buffers in optimizer.state_dict()["state"].items():
        for name, value in buffers.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value).detach().cpu().clone()
    return tensors


def _restore(tensors: Mapping[str, Tensor], defense: Defense, optimizer: torch.optim.Optimizer) -> None:
    learned = {name.removeprefix("learned."): t for name, t in tensors.items() if name.startswith("learned.")}
    try:
        defense.load_state_dict(learned)
    except RuntimeError as error:
        raise CheckpointError(
            f"the saved state is of another defence or other options: {str(error).splitlines()[-1].strip()}"
        ) from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, buffer = name.split(".", 2)
            state.setdefault(int(number), {})[buffer] = tensor.clone()
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
