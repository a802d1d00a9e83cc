"""A page in a real browser, at the widths and in the colors people use, and what axe says of it (`make live`).

CHROMIUM names the browser where it is not on the path, AXE the file axe.min.js of the npm package axe-core; SCREENSHOTS a folder
that keeps what was shown.
"""

import os
import shutil
from pathlib import Path

CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium")) or shutil.which("google-chrome")
AXE = os.environ.get("AXE", "")
AXE = AXE if Path(AXE).is_file() else ""
WIDTHS = {"desktop": 1280, "phone": 390}


def violations(page) -> list[str]:
    """What axe finds wrong with the page as it stands: rule and place."""
    page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    asked = "async () => (await axe.run()).violations.map(v => [v.id, v.nodes.map(n => n.target.join(' '))])"
    return [f"{rule}: {', '.join(places)[:300]}" for rule, places in page.evaluate(asked)]


def sideways(page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")


def keep(page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
