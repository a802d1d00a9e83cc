"""From a user's words to configurations, attacks and targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ironclip import presets
from ironclip.core import permits
from ironclip.core.errors import UsageError, unknown
from ironclip.core.threat import Knowledge, Norm, Threat, format_eps, parse_eps
from ironclip.protocols.config import RunConfig, configure, merged, settings, values_of
from ironclip.protocols.frozen import moved_weights, settled
from ironclip.records.folder import RunFolder, is_run


def resolve(
    method: str, dataset: str, *, preset: str | None = None, given: Mapping[str, Any], changes: Sequence[str] = ()
) -> RunConfig:
    """The configuration: the preset (default: the method's own), then what was given, then `key=value` changes.

    Raises:
        UsageError: unknown names or keys, or a preset of another method (a stack takes presets of its parts).
    """
    from ironclip.protocols import methods

    if given.get("norm", "linf") != "linf" and "eps" not in given:
        raise UsageError(f"norm {given['norm']} needs a radius of its own, for example --eps 0.5")
    known = list(methods.options(method))
    values = presets.default(method) if preset is None else presets.preset(preset)
    if preset is not None and values.get("method") not in (*method.split("+"), method, None):
        raise UsageError(f"the preset {preset!r} is of {values['method']}; got the method {method!r}")
    if "+" in method and "options" in values:  # options of a preset belong to its own method
        values = {**values, "options": {f"{values.get('method')}.{k}": v for k, v in values.get("options", {}).items()}}
    values = merged(values, {"method": method, "dataset": dataset})
    return settled(configure(merged(merged(values, given), settings(changes, known, method))))


def training_radius(config: RunConfig) -> str:
    """The radius of the training attack in a line, and where it comes from."""
    radius = f"{'' if config.norm == 'linf' else f'{config.norm} '}{format_eps(config.eps, config.norm)}"
    stated = presets.preset(config.preset).get("eps") if config.preset else None
    own = stated is not None and parse_eps(stated, config.norm) == config.eps
    return f"training radius: {radius} ({f'of the preset {config.preset}; --eps changes it' if own else 'as given'})"


def named_attacks(
    names: Sequence[str],
    eps: float,
    seed: int,
    changes: Sequence[str] = (),
    *,
    norm: Norm = "linf",
    knowledge: Knowledge = "white-box",
) -> dict[str, Any]:
    """Attacks under this threat by name; each change must be an option of at least one of them.

    `standard-fast` and `autoattack` stand for their members, one by one, so that a record says which of them broke an image; a
    member of autoattack may be named alone, such as apgd-t. The constants of standard-fast are fixed.

    Raises:
        UsageError: an unknown name or option, a value that cannot be right, an option that belongs to the threat, or an attack
            that the threat does not permit.
    """
    from dataclasses import fields

    from ironclip import attacks

    options = values_of(changes)
    for key in options:
        permits.refuse_reserved(key)
    threat = Threat(norm=norm, eps=eps, knowledge=knowledge)
    made: dict[str, Any] = {}
    used: set[str] = set()
    every: set[str] = set()
    for name in [name.strip() for name in names]:
        base, settings = (name, {}) if name in attacks.CATALOGUE else attacks.MEMBERS.get(name, ("", {}))
        if not base:
            raise unknown("attack", name, [*attacks.CATALOGUE, *attacks.MEMBERS])
        known = {field.name for field in fields(attacks.kind(base))}
        settable = set() if base in attacks.FIXED else known
        every |= settable
        mine = {key: value for key, value in options.items() if key in settable}
        used |= set(mine)
        shared = {key: value for key, value in (("seed", seed), ("norm", norm)) if key in known}
        attack = attacks.build(base, eps=eps, **settings | shared | mine)
        permits.check(attack, threat, name)
        made |= getattr(attack, "members", {name: attack})
    for key in options:
        if key not in used and not every:
            raise UsageError(f"nothing of {', '.join(names)} can be set; got {key}, which is for others, such as --attack pgd")
        if key not in used:
            settable = every - {*permits.RESERVED, "seed"}
            raise unknown("option of these attacks", key, settable, see=f"ironclip list options {names[0].strip()}")
    return made


def test_time_options(name: str | None, changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(options of the test-time method, the other changes): those written "name.option=value" are the method's.

    Raises:
        UsageError: no such test-time method or option.
    """
    if name is None:
        return {}, list(changes)
    from ironclip import testtime

    known = testtime.options(name)
    mine = [change for change in changes if change.startswith(f"{name}.")]
    found = {key.removeprefix(f"{name}."): value for key, value in values_of(mine).items()}
    for key in found:
        if key not in known:
            raise unknown(f"option of {name}", key, known, see=f"ironclip list options {name}")
    return found, [change for change in changes if change not in mine]


def open_target(
    target: str,
    dataset: str | None,
    subset: Any = None,
    *,
    device: str,
    classes: Path | str | None = None,
    layout: str = "auto",
    frozen: Mapping[str, str] | None = None,
) -> tuple[RunFolder, Any]:
    """A run, on the data and classes it was trained on or on others, or zero-shot classification by a backbone (which is a run of
    the method zero_shot).

    Args:
        frozen: weights, base and activation of a backbone; for a run the weights where its file was moved.

    Raises:
        UsageError: neither a run nor a backbone, a backbone without a data set, or a defence that fits its own classes alone.
    """
    from ironclip import defenses, testtime
    from ironclip.protocols.experiment import transferred
    from ironclip.protocols.few_shot import open_run, train

    path = Path(target)
    if target in {*defenses.NAMES, *testtime.NAMES} and not path.exists():
        raise UsageError(
            f"{target!r} is a method; expected a run of it (`ironclip train`), or a backbone such as mini with --data"
        )
    names = None if classes is None else str(classes)
    if path.exists() and is_run(path):
        run, experiment = open_run(path, device=device, weights=moved_weights(frozen))
        if dataset is None and subset is None and names is None and layout == "auto":
            return run, experiment
        return run, transferred(experiment, dataset, subset or "all", classes=names, layout=layout)
    if dataset is None:
        raise UsageError(f"{target!r} is no run; for zero-shot classification by a backbone of this name add --data")
    values = {"backbone": target, "classes": names, "layout": layout, **(frozen or {})}
    run = train(resolve("zero_shot", dataset, given=values), device=device)
    run, experiment = open_run(run.path, device=device)
    return run, experiment if subset is None else transferred(experiment, None, subset)
