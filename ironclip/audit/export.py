"""The audit as RobustBench's model-info JSON.

Source: the files model_info/<dataset>/Linf/*.json of RobustBench/robustbench. Accuracies are strings in per cent.
"""

from typing import Any

from ironclip.audit.results import AuditReport
from ironclip.errors import UsageError
from ironclip.threat import format_eps

STANDARD: dict[str, dict[str, int]] = {
    "apgd-ce": {"steps": 100},
    "apgd-t": {"steps": 100},
    "fab-t": {"steps": 100},
    "square": {"queries": 5000},
}
"""The members of AutoAttack's standard version and their full lengths."""


def robustbench_info(report: AuditReport, eps: float | None = None) -> dict[str, Any]:
    """The fields that the leaderboard reads; what an audit cannot know is an empty string or None, for you to fill in.

    "autoattack_acc" is given only where AutoAttack in its standard version ran; "external" is the worst case over
    all attacks of the audit, which RobustBench ranks by where it is there.

    Args:
        eps: the radius; default: the largest one.

    Raises:
        UsageError: the audit has no such radius.
    """
    radius = next((r for r in reversed(report.radii) if eps is None or abs(r.eps - eps) < 1e-9), None)
    if radius is None:
        raise UsageError(f"the audit has no radius {format_eps(eps or 0)}")
    ran = {attack.name.split("/")[0]: attack for attack in radius.attacks}
    whole = all(
        member in ran and all(ran[member].constants.get(key) == value for key, value in lengths.items())
        for member, lengths in STANDARD.items()
    )
    worst = f"{100 * radius.robust.value:.2f}"
    return {
        "link": None,
        "name": report.target,
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": report.record.data.name,
        "venue": "",
        "architecture": report.record.backbone.name,
        "eps": format_eps(radius.eps),
        "clean_acc": f"{100 * report.clean.value:.2f}",
        "reported": "",
        "autoattack_acc": worst if whole else "",
        "external": worst,
        "footnote": f"{report.record.images} images; worst case over {', '.join(ran)}; audited by ironclip",
        "unreliable": report.level == "fail",
    }
