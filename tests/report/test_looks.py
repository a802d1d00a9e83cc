"""The pages in a real browser: on a desktop and a phone, light and dark, nothing is cut and axe finds nothing (`make live`)."""

from collections.abc import Iterator

import pytest
from browsing import AXE, CHROMIUM, WIDTHS, keep, sideways, violations
from reporting import CLASSES, log, panel, record

from ironclip.audit.results import AuditReport, Radius, Verdict
from ironclip.records.record import BackboneFacts
from ironclip.report import RunView, curve, page
from ironclip.report.audit_page import audit_page
from ironclip.report.leaderboard import Measured, lines, site
from ironclip.report.matrix import Entry, matrices
from ironclip.report.matrix_page import matrix_page

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `make live` installs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path"),
    pytest.mark.skipif(not AXE, reason="AXE names no axe.min.js; `make live` gets it from npm"),
]
ROBUST = BackboneFacts(name="mini-robust", sha256="ef" * 32)
WORDS = "Half of the gradients are exactly zero, so an attack by gradients sees a flat function where there is none. " * 3


def report_page() -> str:
    runs = (("zero_shot", {}, 82, 3), ("nap", {}, 78, 41), ("zero_shot", {"backbone": ROBUST}, 70, 47))
    found = []
    for method, changes, clean, robust in runs:
        falling = [(eps, max(robust - 9 * place, 0)) for place, eps in enumerate((1 / 255, 2 / 255, 4 / 255))]
        points = curve([record(method, clean, right, eps=eps, **changes) for eps, right in falling])
        shown = record(method, clean, robust, **changes)
        found.append(RunView(shown, log(5) if method == "nap" else (), [panel(label=CLASSES[0])], points))
    return page(found, title="ironclip demo")


def audit() -> str:
    shown = record("nap")
    radii = (Radius(eps=4 / 255, robust=shown.robust, attacks=shown.attacks, carried=0, seconds=3.0),)
    checks = tuple(
        Verdict(id=f"D{k}", title="dead gradients", level=level, value=0.12345, threshold="more than 0.1", text=WORDS)
        for k, level in enumerate(("fail", "warn", "pass"), 1)
    )
    return audit_page(AuditReport(target="somebody:model", clean=shown.clean, radii=radii, verdicts=checks, record=shown))


def matrix() -> str:
    found = [Entry(record("zero_shot"), {}), Entry(record("zero_shot", 70, 47, backbone=ROBUST), {})]
    found += [Entry(record("nap", 70, 30 + shots, shots=shots, seed=seed), {}) for shots in (1, 4, 16) for seed in (1, 2)]
    return matrix_page(matrices(found))


def board() -> str:
    found = [
        record("zero_shot", 82, 3),
        record("nap", 78, 61, knowledge="static"),
        record("nap", 78, 41),
        record("apt", eps=1 / 255),
    ]
    return str(site(lines(map(Measured, found)))["index.html"])


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("made", [report_page, audit, matrix, board], ids=lambda made: made.__name__)
def test_a_page_is_whole_and_accessible(browser, made, width: str, colors: str) -> None:
    opened = browser.new_page(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=colors)
    opened.set_content(made())
    keep(opened, f"{made.__name__}-{width}-{colors}")
    assert violations(opened) == []
    assert sideways(opened) <= 0
    opened.close()


def test_what_a_check_means_is_on_a_phones_screen(browser) -> None:
    opened = browser.new_page(viewport={"width": 390, "height": 900})
    opened.set_content(audit())
    boxes = [cell.bounding_box() for cell in opened.query_selector_all("td.words")]
    assert boxes
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    opened.close()


def test_a_filter_of_the_leaderboard_keeps_its_lines_by_keyboard(browser) -> None:
    opened = browser.new_page()
    opened.set_content(board())
    visible = "() => [...document.querySelectorAll('tbody tr')].filter(row => row.offsetParent).length"
    assert opened.evaluate(visible) == 3
    opened.focus("#by-threat")
    opened.keyboard.press("ArrowDown")
    assert opened.evaluate(visible) == 1
    opened.close()
