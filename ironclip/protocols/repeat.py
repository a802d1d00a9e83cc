"""The command line that repeats a record made by the command line, from Python or by a grid. Pure.

One record has one command: one radius, one knowledge, one data set. Its words come from the experiment, so a record made in
Python has the same command as one made on the command line. `ironclip evaluate` takes the command back to the same settings.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ironclip.core.threat import format_eps, parse_eps
from ironclip.protocols import methods
from ironclip.protocols.config import assigned, values_of

if TYPE_CHECKING:
    from ironclip.protocols.experiment import Experiment
    from ironclip.records.folder import RunFolder


def evaluation_command(
    run: "RunFolder",
    experiment: "Experiment",
    names: Sequence[str],
    eps: float,
    *,
    norm: str = "linf",
    changes: Sequence[str] = (),
    seed: int = 0,
    knowledge: str = "white-box",
    source: str | None = None,
    split: str = "test",
    limit: int | None = None,
    distortion: bool = False,
    targeted: str | None = None,
    until: float | None = None,
    batch_size: int | None = None,
) -> str:
    """The `ironclip evaluate` command of one record.

    Args:
        experiment: as it is measured: moved to other data or classes, with a test-time method on top.
        names: attacks. changes: "key=value" of the attacks; those of the test-time method are known from the experiment.
    """
    config, trained = experiment.config, run.config
    above = methods.split(config.method)[1]
    added = above if config.method != trained["method"] else None
    options = {key: value for key, value in config.options.items() if added and key.startswith(f"{added}.")}
    options |= {key: value for key, value in values_of(changes).items() if not (above and key.startswith(f"{above}."))}
    moved = bool(experiment.trained_on)
    other = {key: getattr(config, key) for key in ("classes", "layout")}
    named = {key: value for key, value in other.items() if value != trained.get(key, "auto" if key == "layout" else None)}
    elsewhere = moved and (config.dataset != trained["dataset"] or bool(named))
    return _line(
        ["evaluate", str(run.path)],
        {
            "attack": ",".join(name.strip() for name in names),
            "norm": norm if norm != "linf" else None,
            "eps": exact(eps, norm),
            "suite": experiment.suite,
            "data": config.dataset if elsewhere or experiment.suite else None,
            "classes": config.classes if elsewhere else None,
            "layout": config.layout if elsewhere and config.layout != "auto" else None,
            "subset": config.subset if moved and not (elsewhere and config.subset == "all") else None,
            "test-time": added,
            "knowledge": knowledge if above or knowledge != "white-box" else None,
            "source": source,
            "split": split if split != "test" else None,
            "limit": limit,
            "until": None if until is None else f"{until:g}",
            "distortion": distortion,
            "targeted": targeted,
            "batch-size": batch_size,
            "seed": seed or None,
            "set": assigned(options),
        },
    )


AUDIT = {
    "resolution": 224,
    "diagnostics": 256,
    "steps": 100,
    "split": "test",
    "batch_size": None,
    "seed": 0,
    "limit": None,
    "layout": "auto",
}
"""What `ironclip audit` takes where nothing is said; left out of its command."""


def audit_command(
    target: str, data: str | None, radii: Sequence[float], *, norm: str = "linf", changes: Sequence[str] = (), **options: Any
) -> str:
    """The `ironclip audit` command of all records of an audit; `options` as the command line names them."""
    said = {name.replace("_", "-"): value for name, value in options.items() if name not in AUDIT or value != AUDIT[name]}
    under = {"norm": norm if norm != "linf" else None, "eps": ",".join(exact(eps, norm) for eps in radii)}
    given = {"data": data, **under, **said, "set": assigned(values_of(changes))}
    return _line(["audit", target], given)


def exact(eps: float, norm: str = "linf") -> str:
    """The radius as people write it where that is the same number, else with all its digits."""
    text = format_eps(eps, norm)
    return text if parse_eps(text, "l2") == eps else repr(eps)


def _line(words: Sequence[str], options: Mapping[str, Any]) -> str:
    """Words and options for a shell; what is None, False or empty is left out, and a list repeats its option."""
    verb, *named = words
    line = ["ironclip", verb, *(f"./{word}" if word.startswith("-") else word for word in named)]
    for name, value in options.items():
        if value is True:
            line.append(f"--{name}")
        elif value is not None and value is not False and value != "":
            line += [word for each in (value if isinstance(value, list) else [value]) for word in (f"--{name}", str(each))]
    return shlex.join(line)
