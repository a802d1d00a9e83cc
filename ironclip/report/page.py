"""The report as one self-contained HTML page: no script, nothing loaded from elsewhere."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ironclip.core.errors import UsageError
from ironclip.records.record import ClassResult, Record
from ironclip.report import cells, figures, pictures, words
from ironclip.report.tables import answer_words, attack_words, columns, interval, percent, rows, targeted_words
from ironclip.report.templating import render
from ironclip.report.views import Panel, RunView, methods_of, radius

WORST = 10
"""How many classes are shown without unfolding."""


@dataclass(frozen=True)
class _Picture:
    """A panel ready for the page."""

    panel: Panel
    images: tuple[tuple[str, str, str], ...]  # (data URI, caption, alternative text)
    pixelated: bool
    before: str
    after: str


@dataclass(frozen=True)
class _Section:
    """One evaluation ready for the page."""

    name: str
    view: RunView
    training: str
    diagnostics: str
    pictures: tuple[_Picture, ...]
    classes: tuple[ClassResult, ...]
    attacks: tuple[tuple[str, int, int, int], ...]
    facts: tuple[tuple[str, str], ...]
    record: str


@dataclass(frozen=True)
class _Curves:
    """Robust accuracy by radius of all views on the same images: a chart and its numbers."""

    title: str
    chart: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]


def page(views: Iterable[RunView], *, title: str = "Robustness report", notes: Sequence[str] = ()) -> str:
    """The whole page; the caller writes it.

    Args:
        title: heading and window title.
        notes: further sentences under the summary, for example how long the run took.

    Raises:
        UsageError: there is nothing to show.
    """
    shown = sorted(views, key=lambda view: view.undefended)
    if not shown:
        raise UsageError("there is no finished evaluation to report; run `ironclip evaluate` first")
    records = [view.record for view in shown]
    called = names(shown)
    return render(
        "report.html.j2",
        {"percent": percent, "interval": interval},
        title=title,
        summary=words.summary(records),
        limits=words.limits(records),
        notes=notes,
        headline=words.headline(records),
        several=len({record.data.name for record in records}) > 1,
        grid=cells.grid(rows(records, methods_of(shown))),
        curves=_curves(shown),
        remarks=words.remarks(shown, called),
        sections=[_section(view, name) for view, name in zip(shown, called, strict=True)],
        worst=WORST,
    )


def names(views: Sequence[RunView]) -> list[str]:
    """A name for each view: its method, and whatever else tells it from the others."""
    named = []
    table = [rows([view.record], [method])[0] for view, method in zip(views, methods_of(views), strict=True)]
    differing = columns(table)
    for row in table:
        facts = [c.said(c.value(row)) if c.title == "Shots" else c.value(row) for c in differing if c.title not in ("n", "Seed")]
        facts += [f"seed {row.seed}" for c in differing if c.title == "Seed" and row.seed is not None]
        facts += [row.note] if row.note else []
        named.append(f"{row.method} ({', '.join(facts)})" if facts else row.method)
    return named


def _curves(views: Sequence[RunView]) -> list[_Curves]:
    groups: dict[tuple[str, str], list[RunView]] = {}
    for view in views:
        if view.curve:
            groups.setdefault((rows([view.record])[0].data, view.record.threat.norm), []).append(view)
    found = []
    for (data, norm), chosen in groups.items():
        titles = names(chosen)
        radii = sorted({point.eps for view in chosen for point in view.curve})
        body = []
        for eps in radii:
            cells = [next((point.robust for point in view.curve if point.eps == eps), None) for view in chosen]
            body.append(
                (radius(chosen[0].record.threat, eps), *(f"{percent(c.value)} {interval(c)}" if c else "" for c in cells))
            )
        chart = figures.eps_curve(chosen, titles)
        found.append(_Curves(f"{data}, {norm}", chart, (f"eps ({norm})", *titles), tuple(body)))
    return found


def _section(view: RunView, name: str) -> _Section:
    record = view.record
    return _Section(
        name=name,
        view=view,
        training=figures.training_curve(view.log),
        diagnostics=figures.diagnostic_curve(view.log),
        pictures=tuple(picture(panel) for panel in view.panels),
        classes=tuple(sorted(record.per_class, key=lambda c: (_part(c.robust, c), _part(c.clean, c), c.name))),
        attacks=tuple((attack_words(a), a.attacked, a.broken, a.survivors) for a in record.attacks),
        facts=tuple((title, value) for title, value in _facts(record) if value),
        record=json.dumps(record.model_dump(mode="json", exclude={"per_class"}), indent=1, ensure_ascii=False),
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    data, timing = record.data, record.timing
    versions = ", ".join(f"{name} {version}" for name, version in record.environment.items())
    return [
        ("Threat", record.threat_words),
        ("Backbone", record.backbone.name),
        ("Weights (sha256)", record.backbone.sha256),
        ("Data", f"{data.name}, split {data.split}, {record.images} of {data.available or record.images} images"),
        ("Targeted success", targeted_words(record)),
        ("Learned numbers", f"{record.cost.trainable_parameters:,} ({record.cost.learned_bytes:,} bytes)"),
        ("An answer", answer_words(record)),
        ("Precision", f"{record.precision}, rounding of attacked images: {record.quantise}"),
        ("Time", f"training {timing.train_seconds:.0f} s, evaluation {timing.evaluate_seconds:.0f} s"),
        ("Outcomes (sha256)", record.samples_sha256),
        ("Versions", versions),
        ("To repeat it", record.command),
    ]


def picture(panel: Panel) -> _Picture:
    """A panel with its images as data URIs and its answers in words."""
    change, gain = pictures.difference(panel.clean, panel.adversarial)
    images = (
        (pictures.data_uri(panel.clean), "clean", f"clean image of {panel.label}"),
        (pictures.data_uri(panel.adversarial), "attacked", f"the same image after the attack {panel.attack}".rstrip()),
        (pictures.data_uri(change), f"change ×{gain}", f"difference of the two, {gain} times amplified"),
    )
    before = _answer(panel.before, panel.before_probability)
    after = _answer(panel.after, panel.after_probability)
    return _Picture(panel, images, pictures.side(panel.clean) < 128, before, after)


def _answer(name: str, probability: float | None) -> str:
    return name if probability is None else f"{name}, {percent(probability)}\N{NO-BREAK SPACE}%"


def _part(count: int, result: ClassResult) -> float:
    return count / result.images if result.images else 0.0
