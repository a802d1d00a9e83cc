"""An audit as one self-contained HTML page: curve, what broke what, verdicts, the cheapest broken images."""

import json
from collections.abc import Sequence
from functools import partial

from ironclip.audit.results import LEVELS, AuditReport
from ironclip.core.threat import format_eps
from ironclip.report import figures
from ironclip.report.page import picture
from ironclip.report.tables import interval, percent
from ironclip.report.templating import render
from ironclip.report.views import Panel, Point, RunView

NAMES = {"pass": "passed", "warn": "warnings", "fail": "failed", "not applicable": "not applicable"}


def audit_page(report: AuditReport, shown: Sequence[tuple[float, Panel]] = (), *, title: str = "") -> str:
    """The whole page; the caller writes it.

    Args:
        shown: (radius, image before and after), the smallest radius first.
    """
    points = (Point(0.0, report.clean), *(Point(radius.eps, radius.robust) for radius in report.radii if radius.eps > 0))
    verdicts = sorted(report.verdicts, key=lambda verdict: LEVELS.index(verdict.level))
    counts = {NAMES[level]: sum(verdict.level == level for verdict in verdicts) for level in LEVELS}
    return render(
        "audit.html.j2",
        {"percent": percent, "interval": interval, "eps": partial(format_eps, norm=report.record.threat.norm)},
        title=title or f"Audit of {report.target}",
        report=report,
        summary=summary(report),
        chart=figures.eps_curve([RunView(report.record, curve=points)], [report.target]),
        verdicts=verdicts,
        counts=", ".join(f"{count} {name}" for name, count in counts.items() if count),
        pictures=[(eps, picture(panel)) for eps, panel in shown],
        record=json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False),
    )


def summary(report: AuditReport) -> str:
    """What was found, in two sentences."""
    last, data, norm = report.radii[-1], report.record.data, report.record.threat.norm
    robust = f"{'at most ' if last.bound else ''}{percent(last.robust.value)} %"
    said = (
        f"On {report.record.images} of {data.available} images of {data.name}, {percent(report.clean.value)} % are right, and "
        f"{robust} stay right under every attack of radius {format_eps(last.eps, norm)} ({norm})."
    )
    if not report.gradients:
        said += " Score attacks only: the target gives no gradients, so this is an upper bound."
    raised = [(part.level, part.id) for part in report.verdicts] + [(flag.level, flag.id) for flag in report.flags]
    failed = [name for level, name in raised if level == "fail"]
    if failed:
        return f"{said} Do not trust this number: {', '.join(failed)} failed."
    warned = [name for level, name in raised if level == "warn"]
    if warned:
        return f"{said} Read the warnings first: {', '.join(warned)}."
    return f"{said} No diagnostic raised an alarm." if report.verdicts else f"{said} No diagnostic was run."
