"""Records, logs and images made up for the tests of reports, and a check of their pages."""

from html.parser import HTMLParser
from typing import Any

import numpy as np

from ironclip.core.threat import Threat
from ironclip.records.folder import EvaluationFolder
from ironclip.records.record import (
    AttackResult,
    BackboneFacts,
    ClassResult,
    Cost,
    DataFacts,
    Flag,
    Proportion,
    Record,
    Sample,
    Setup,
    Timing,
)
from ironclip.records.summary import summarise
from ironclip.report import Panel, RunView, curve

CLASSES = ("red circle", "blue square", "<b>bold</b>", "a & b", 'say "hi"')


def record(method: str = "nap", clean: int = 80, robust: int = 40, images: int = 100, **changes: Any) -> Record:
    """A record; `changes` replaces fields, and "eps", "knowledge" and "norm" make its threat."""
    threat = Threat(
        norm=changes.pop("norm", "linf"),
        eps=changes.pop("eps", 4 / 255),
        knowledge=changes.pop("knowledge", "white-box"),
        resolution=64,
    )
    undefended = method == "zero_shot"
    constants = {"attack": "pgd", "eps": threat.eps, "step_size": None, "steps": 100, "restarts": 1, "loss": "ce", "derived": {}}
    classes = changes.pop("classes", CLASSES)
    share = [images // len(classes)] * len(classes)
    fields: dict[str, Any] = {
        "method": method,
        "backbone": BackboneFacts(name="mini", sha256="ab" * 32),
        "data": DataFacts(name="shapes", classes=classes, label_space=len(classes), available=images),
        "threat": threat,
        "shots": None if undefended else 16,
        "seed": None if undefended else 1,
        "images": images,
        "clean": Proportion.measured(clean, images),
        "robust": Proportion.measured(robust, images),
        "attacks": (AttackResult(name="pgd", constants=constants, attacked=clean, broken=clean - robust, survivors=robust),),
        "per_class": tuple(
            ClassResult(name=name, images=n, clean=max(n - place, 0), robust=max(n - 3 * place, 0))
            for place, (name, n) in enumerate(zip(classes, share))
        ),
        "samples_sha256": "cd" * 32,
        "cost": Cost(trainable_parameters=0 if undefended else 12_288, learned_bytes=0 if undefended else 49_152),
        "environment": {"python": "3.12.1", "torch": "2.8.0"},
        "timing": Timing(train_seconds=61, evaluate_seconds=34),
        "command": f"ironclip train {method} --data shapes --backbone mini --shots 16 --eps 4/255 --seed 1",
    }
    return Record(**(fields | changes))


def store(place: EvaluationFolder, told: Record) -> None:
    """Write a record with samples that give its counts."""
    n, clean, robust = told.images, told.clean.count, told.robust.count
    labels = [index % len(told.data.classes) for index in range(n)]
    samples = []
    for index, label in enumerate(labels):
        other = (label + 1) % len(told.data.classes)
        kind: dict[str, Any] = {"clean": other, "broken_by": "clean"}
        if index < clean:
            broken = index >= robust
            kind = {"clean": label, "adversarial": {"pgd": other if broken else label}, "broken_by": "pgd" if broken else None}
        samples.append(Sample(index=index, label=label, clean_margin=0.5, margin=0.5, **kind))
    setup = Setup(**{name: getattr(told, name) for name in Setup.model_fields})
    place.append(samples)
    place.save_record(summarise(setup, samples, {attack.name: attack.constants for attack in told.attacks}))


def log(epochs: int = 20, collapse: int | None = None) -> list[dict[str, Any]]:
    """Epochs as `training.fit` reports them."""
    entries = []
    for epoch in range(1, epochs + 1):
        terms = {"clean_ce": 0.5 + 1.1 * 0.85**epoch, "adv_ce": 0.9 + 1.4 * 0.9**epoch, "kl": 0.15 + 0.02 * (epoch % 3)}
        flags = ("collapse",) if collapse is not None and epoch >= collapse else ()
        entries.append({"event": "epoch", "epoch": epoch, "epochs": epochs, "lr": 0.002, "terms": terms, "flags": flags})
    return entries


def panel(seed: int = 0, size: int = 64, **changes: Any) -> Panel:
    """A coloured disc, its noise at eps 4/255, and predictions."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    inside = (rows - 0.5) ** 2 + (columns - 0.5) ** 2 < draw.uniform(0.05, 0.15)
    clean = np.where(inside, draw.random((3, 1, 1)), 0.2 * draw.random((3, 1, 1)) + 0.6 + 0.2 * rows)
    adversarial = (clean + draw.choice([-4 / 255, 4 / 255], size=clean.shape)).clip(0, 1)
    fields: dict[str, Any] = {"label": "red circle", "before": "red circle", "after": "blue square", "attack": "pgd"}
    return Panel(clean, adversarial, **(fields | {"before_probability": 0.973, "after_probability": 0.618} | changes))


def views(images: int = 100, collapse: int | None = None) -> list[RunView]:
    """An undefended and a defended model with everything a page shows."""

    def line(method: str, clean: int, robust: list[int]) -> RunView:
        radii = (1, 2, 4, 8)
        found = [record(method, clean, count, images, eps=eps / 255) for eps, count in zip(radii, robust)]
        entries = log(collapse=collapse) if method != "zero_shot" else []
        shown = [panel(seed, after="blue square" if seed % 2 else "a & b") for seed in range(4)]
        return RunView(found[2], entries, shown, curve(found))

    note = Flag(id="subset", level="note", text="100 of 400 images")
    bare, defended = line("zero_shot", 82, [45, 12, 2, 0]), line("nap", 76, [66, 57, 41, 14])
    data = defended.record.data.model_copy(update={"available": 400})
    noted = defended.record.model_copy(update={"flags": (note,), "data": data})
    return [bare, RunView(noted, defended.log, defended.panels, defended.curve)]


VOID = {"meta", "img", "br", "link", "hr", "input"}
SHAPES = {"line", "polyline", "polygon", "circle", "rect"}


class Checker(HTMLParser):
    """Keeps the open tags, the text and every attribute."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SHAPES | VOID
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style",):
            self.text += data


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker
