"""The coverage list of the papers: every option, preset and grid variant that it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from ironclip import presets
from ironclip.core.threat import parse_eps
from ironclip.protocols.resolve import resolve

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| item", "| *"))]
CODES = [code.replace("\\|", "|") for row in ROWS for code in re.findall(r"`([^`]+)`", row)]
TRAIN = [code for code in CODES if code.startswith("train ") and "..." not in code]
GRIDS = [code for code in CODES if code.startswith("grid ")]


def test_every_row_has_a_status():
    for row in ROWS:
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == 6, row
        assert cells[3].strip() in {"measured", "built", "planned", "not done"}, row


@pytest.mark.parametrize("command", sorted(set(TRAIN)))
def test_a_training_command_resolves(command):
    _, method, *words = shlex.split(command)
    given = {}
    if "--eps" in words:
        at = words.index("--eps")
        given["eps"] = parse_eps(words[at + 1])
    changes = [word for word in words if "=" in word]
    assert resolve(method, "shapes", given=given, changes=changes).method == method


def test_presets_and_grid_variants_are_there():
    methods = {name.split("/")[0] for name in presets.names()}
    named = {code for code in CODES if code.count("/") == 1 and code.split("/")[0] in methods}
    assert named
    assert named <= set(presets.names())
    for code in GRIDS:
        name, _, variants = code.removeprefix("grid ").partition(":")
        text = (ROOT / f"grids/{name.strip()}.yaml").read_text(encoding="utf-8")
        for variant in filter(None, map(str.strip, variants.split(","))):
            assert f"{variant}:" in text or f"[{variant}" in text or f"attacks: [{variant}]" in text, code


def test_the_options_of_the_test_time_method_are_its_own():
    changes = [code for code in CODES if code.startswith("--set atpt.")]
    pairs = [pair for code in changes for pair in re.findall(r"--set (atpt\.\S+)", code)]
    assert pairs
    for pair in pairs:
        resolve("zero_shot+atpt", "shapes", given={}, changes=[pair])
