"""The page in a real browser: an image by keyboard and by file, an attack, a stop, errors, a phone, the dark (`make live`).

CHROMIUM names the browser where it is not on the path; SCREENSHOTS a folder that keeps what it showed.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsing import AXE, WIDTHS, sideways, violations
from serve.conftest import png

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `make live` installs it")
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium")) or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path")]

SERVICE = """
import sys
from pathlib import Path
from ironclip.protocols.few_shot import train
from ironclip.protocols.resolve import resolve
from ironclip.serve.limits import Limits
from ironclip.serve.model import open_model
from ironclip.serve.run import serve

changes = ["options.length=2", "epochs=1", "attack.steps=1"]
run = train(resolve("nap", "shapes", given={"shots": 1, "eps": 1 / 255}, changes=changes), out=Path(sys.argv[1]))
say = lambda text: print(text, flush=True)
serve(open_model(run.path), Limits(), host="127.0.0.1", port=0, token=sys.argv[2] or None, ready=say)
"""


@contextmanager
def service(folder: Path, token: str = "") -> Iterator[str]:
    command = [sys.executable, "-c", SERVICE, str(folder / "run"), token]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http"), process.stderr.read()
        yield address
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=60)
        assert "Traceback" not in complaint
    finally:
        process.kill()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with service(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, address: str) -> Iterator:
    """A page of a kind; whatever it asks of other sites or says on the console fails the test."""
    faults: list[str] = []
    contexts = []

    def opened(**kind):
        context = browser.new_context(**kind)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or faults.append(asked.url))
        page.goto(address)
        page.wait_for_selector("#examples button")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def keep(page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def attack(page, **choices: str) -> None:
    for field, value in choices.items():
        if field == "steps":
            page.fill("#steps", value)
        else:
            page.select_option(f"#{field}", value)
    page.click("#go")


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("desktop", {"viewport": {"width": 1100, "height": 800}}),
        ("phone", {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}),
        ("dark", {"viewport": {"width": 1100, "height": 800}, "color_scheme": "dark"}),
    ],
)
def test_an_example_by_keyboard_and_an_attack_on_it(open_page, name: str, kind: dict) -> None:
    page = open_page(**kind)
    keep(page, f"{name}-start")
    assert page.is_hidden("#answer")
    page.focus("#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers .card li")
    assert page.locator("#answers .card").count() == 2
    best = page.locator("#answers .card li:first-child span:last-child").all_inner_texts()
    assert len(best) == 2
    assert all(0 < float(shown.removesuffix(" %")) <= 100 for shown in best)
    attack(page, name="pgd", eps="8/255", steps="10", target="defended")
    page.wait_for_selector("#pictures img >> nth=2")
    assert page.locator("#pictures img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth === 64)")
    assert page.locator("#changes .card").count() == 2
    assert "largest change 8/255" in page.inner_text("#verdict")
    assert page.locator("#maps canvas").count() == 4
    assert page.inner_text("#error") == ""
    assert fits(page)
    keep(page, f"{name}-attacked")


def test_a_dropped_file_and_one_that_is_no_picture(open_page, tmp_path: Path) -> None:
    page = open_page()
    good, bad = tmp_path / "good.png", tmp_path / "bad.svg"
    good.write_bytes(png(3, (300, 200)))
    bad.write_text("<svg onload='alert(1)'/>")
    drop = """([bytes, name]) => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(bytes)], name));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, [list(good.read_bytes()), "good.png"])
    page.wait_for_selector("#answers .card li")
    assert "good.png" in page.inner_text("#drop")
    page.set_input_files("#file", bad)
    page.wait_for_function("() => document.querySelector('#error').textContent")
    assert "not an image" in page.inner_text("#error")
    assert page.is_hidden("#answer")
    keep(page, "error")
    page.evaluate("""() => document.dispatchEvent(new DragEvent("drop", {dataTransfer: new DataTransfer(), cancelable: true}))""")
    assert "that was no file" in page.inner_text("#error")
    page.set_input_files("#file", good)
    page.wait_for_selector("#answers .card li")
    assert page.inner_text("#error") == ""


def test_an_attack_shows_progress_and_stops_when_told(open_page) -> None:
    page = open_page()
    page.click("#examples button >> nth=1")
    page.wait_for_selector("#attack")
    attack(page, name="pgd", steps="1000")
    page.wait_for_function("() => /\\d+ of 1002 passes/.test(document.querySelector('#state').textContent)")
    assert page.inner_text("#go") == "stop"
    keep(page, "progress")
    page.click("#go")
    page.wait_for_function("() => document.querySelector('#state').textContent === 'stopped'")
    assert page.inner_text("#go") == "attack"
    assert page.is_hidden("#result")
    attack(page, name="fgsm")  # the service stopped the first one and has room
    page.wait_for_selector("#pictures img >> nth=2")


@pytest.mark.skipif(not AXE, reason="AXE names no axe.min.js; `make live` gets it from npm")
@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_after_an_attack(open_page, width: str, colors: str) -> None:
    page = open_page(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=colors)
    page.click("#examples button")
    page.wait_for_selector("#answer:not([hidden])")
    attack(page, name="fgsm")
    page.wait_for_selector("#maps canvas")
    assert violations(page) == []
    assert sideways(page) <= 0


def test_a_large_photo_is_made_smaller_before_it_is_sent_and_the_page_says_so(open_page, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(1, (2000, 1500)))
    page = open_page()
    sent: list[int] = []
    page.on("request", lambda asked: "classify" in asked.url and sent.append(len(asked.post_data_buffer or b"")))
    page.set_input_files("#file", tmp_path / "large.png")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.inner_text("#busy").startswith("made smaller before sending: 2000 x 1500 to 1365 x 1024")
    assert sent[0] < (tmp_path / "large.png").stat().st_size / 2


def test_a_field_that_cannot_be_right_is_named_in_our_words(open_page) -> None:
    page = open_page()
    page.click("#examples button")
    page.wait_for_selector("#answer:not([hidden])")
    for given in ("", "0", "-3", "1.5"):
        page.fill("#steps", given)
        page.click("#go")
        assert page.inner_text("#error") == "steps are a whole number from 1 to 1000"


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_and_long_names_are_shown_and_cut_nothing_off(open_page, width: str) -> None:
    page = open_page(viewport={"width": WIDTHS[width], "height": 900})
    page.evaluate("() => { model.classes[0] = 'a\\u202eb<img src=x onerror=alert(1)>' + 'x'.repeat(300); }")
    page.evaluate("() => { const all = model.classes.map((_, k) => k ? 0.001 : 0.971); document.body.append(bars(all)); }")
    shown = page.locator("body > ol li:first-child span")
    assert shown.nth(0).inner_text().startswith("a\\u202eb<img")
    assert shown.nth(1).inner_text() == "97.1 %"
    box = shown.nth(1).bounding_box()
    assert box["x"] + box["width"] <= WIDTHS[width]
    lines = "e => { const r = document.createRange(); r.selectNodeContents(e); return r.getClientRects().length; }"
    assert shown.nth(1).evaluate(lines) == 1, "percentages stand on one line"
    assert page.locator("ol img").count() == 0
    assert fits(page)
    keep(page, f"{width}-long")


def test_a_token_is_asked_for(browser, tmp_path: Path) -> None:
    with service(tmp_path, "open sesame") as address:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("#login:not([hidden])")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('#error').textContent")
        page.fill("#token", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#examples button")
        assert page.inner_text("#error") == ""
        assert page.is_hidden("#login")
        page.close()
