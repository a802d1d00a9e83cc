"""The page of `doctor --gpu`: what a device computes, compared with a CPU, and how fast."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ironclip.core.display import facts_html, table_html

STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td,th{padding:.2em .6em;text-align:left}"


def device_page(report: Mapping[str, Any]) -> str:
    """One HTML file without scripts; `report` as `protocols.device_check.check_device` gives it."""
    checks = [["good" if c["ok"] else "NOT GOOD", c["name"], c["text"], f"{c['seconds']:.1f} s"] for c in report["checks"]]
    speeds = [[row["what"], row["precision"], row["text"]] for row in report["speeds"]]
    note = "Tiny models: the speeds mean nothing." if report["quick"] else "Random weights of the published sizes."
    parts = [
        facts_html("Device check", report["machine"]),
        f"<p>{escape(note)} {report['good']} of {len(report['checks'])} checks are good, in {report['seconds']:.0f} s.</p>",
        table_html(["", "check", "found", "time"], checks),
        "<h2>Speed</h2>",
        table_html(["what", "precision", "reached"], speeds),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Device check</title><style>{STYLE}</style>'
        f"<body>{body}</body></html>\n"
    )
