"""The audit as RobustBench's model-info JSON.

Source: the files model_info/<dataset>/<Linf or L2>/*.json of RobustBench/robustbench. Accuracies are strings in per cent.
"""

from collections.abc import Mapping
from typing import Any

from ironclip.audit.results import AuditReport, Radius
from ironclip.core.errors import UsageError
from ironclip.core.threat import format_eps
from ironclip.records.record import AttackResult, Record

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "patch": "patch", "text": "text"}
"""Our names of norms -> RobustBench's, which has none for a patch and a text."""

_APGD = {"attack": "apgd", "steps": 100, "restarts": 1, "rho": 0.75, "first_loss": "start", "eot": 1, "search_dtype": "float32"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "apgd-ce": {**_APGD, "loss": "ce", "targets": 0},
    "apgd-t": {**_APGD, "loss": "dlr", "targets": 9},
    "fab-t": {"attack": "fab", "steps": 100, "restarts": 1, "targets": 9, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
    "square": {"attack": "square", "queries": 5000, "restarts": 1, "p_init": 0.8, "search_dtype": "float32"},
}
"""The members of AutoAttack's standard version, with every constant that moves its result [code: fra31/auto-attack].

Written out here and not taken from `attacks`, so that a changed default is noticed.
"""
FREE = {"mode", "eval_mode", "seed", "derived"}
"""Constants that may be anything: the seed, which images and in which mode a module is met, and what follows from the others.

A wrapper, such as the mean over draws, has constants of its own, and so is none of the above.
"""


def robustbench_info(report: AuditReport, eps: float | None = None) -> dict[str, Any]:
    """The fields that the leaderboard reads; what an audit cannot know is an empty string or None, for you to fill in.

    "autoattack_acc" is the accuracy under AutoAttack alone. It is given only where its standard version ran with the published
    constants on every image that is right without an attack: with `--attack autoattack` and one radius, other attacks behind it.
    "external" is the worst case over all attacks of the audit, which RobustBench ranks by where it is there. "unreliable" is
    None where no diagnostic ran.

    Args:
        eps: the radius; default: the largest one.

    Raises:
        UsageError: the audit has no such radius.
    """
    record = report.record
    radius = next((r for r in reversed(report.radii) if eps is None or abs(r.eps - eps) < 1e-9), None)
    if radius is None:
        raise UsageError(f"the audit has no radius {format_eps(eps or 0, record.threat.norm)}")
    return _info(report, radius, "audited")


def record_info(record: Record) -> dict[str, Any]:
    """The same fields for one record that no audit made; "unreliable" is True where a flag says so, else None."""
    radius = Radius(eps=record.threat.eps, robust=record.robust, attacks=record.attacks, carried=0, seconds=0.0)
    alone = AuditReport(target=record.method, clean=record.clean, radii=(radius,), flags=record.flags, record=record)
    return _info(alone, radius, "measured")


def _info(report: AuditReport, radius: Radius, how: str) -> dict[str, Any]:
    record = report.record
    own = autoattack_right(report, radius)
    names = ", ".join(attack.name for attack in radius.attacks)
    threat = f"{record.threat.norm} {format_eps(radius.eps, record.threat.norm)}"
    reason = (
        ""
        if own is not None
        else "; AutoAttack's own accuracy was not measured: use --attack autoattack, its defaults, one --eps"
    )
    return {
        "link": None,
        "name": report.target,
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": record.data.name,
        "venue": "",
        "architecture": record.backbone.name,
        "norm": NORMS[record.threat.norm],
        "eps": format_eps(radius.eps, record.threat.norm),
        "n": record.images,
        "clean_acc": f"{100 * report.clean.value:.2f}",
        "reported": "",
        "autoattack_acc": "" if own is None else f"{100 * own / record.images:.2f}",
        "external": f"{100 * radius.robust.value:.2f}",
        "footnote": f"{record.images} images; {threat}; worst case over {names}; {how} by ironclip{reason}",
        "unreliable": report.unreliable,
    }


def autoattack_right(report: AuditReport, radius: Radius) -> int | None:
    """Images right under AutoAttack's standard version alone; None where that was not run as published, or not on every image."""
    ran = {attack.name: attack for attack in radius.attacks}
    record = report.record
    if record.quantise != "none" or not all(
        name in ran and as_published(ran[name], table, radius.eps, record.threat.norm) for name, table in PUBLISHED.items()
    ):
        return None
    right = report.clean.count
    for member in (ran[name] for name in PUBLISHED):
        if member.attacked != right:  # another attack, or a smaller radius, had taken some of them before
            return None
        right -= member.broken
    return right


def as_published(attack: AttackResult, table: Mapping[str, Any], eps: float, norm: str) -> bool:
    """Whether every constant of the attack is that of the table, none is missing and none unknown."""
    said = {name: value for name, value in attack.constants.items() if name not in FREE}
    return said == {**table, "eps": eps, "norm": norm}
