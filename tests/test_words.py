"""One word for one thing, in the books and in all that the program says: an image is no "picture", a gradient no "slope"."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OTHER = {"picture": "image", "slope": "gradient"}
CAPTIONS = ("shapes.py", "captions.py", "pretraining/data.py", "pretraining/sets.py", "mini_card.py")
"""Files with sentences that a text tower reads: another word there is another model."""
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"])
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
TEMPLATES = sorted((ROOT / "ironclip").rglob("*.j2"))


def prose(page: str) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))


def said(path: Path) -> Iterator[str]:
    """What a module says: its docstrings and messages. A single word is a key."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield prose(node.value)


def notebook(path: Path) -> str:
    """All cells of a notebook, code too: a reader types it off."""
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


@pytest.mark.parametrize(("other", "word"), OTHER.items())
def test_one_thing_has_one_word(other: str, word: str) -> None:
    wrong = re.compile(rf"\b{other}s?\b(?!\.(png|jpg)|\s*[=:] )", re.IGNORECASE)
    texts = [(page, prose(page.read_text(encoding="utf-8"))) for page in PAGES]
    texts += [(page, prose(notebook(page))) for page in NOTEBOOKS]
    texts += [(page, re.sub(r"{[{%].*?[}%]}|<[^>]*>", " ", page.read_text(encoding="utf-8"))) for page in TEMPLATES]
    modules = sorted(path for path in (ROOT / "ironclip").rglob("*.py") if not path.as_posix().endswith(CAPTIONS))
    texts += [(module, text) for module in modules for text in said(module)]
    assert len(texts) > 3000
    found = [
        f"{path.relative_to(ROOT)}: {text[max(0, hit.start() - 40) : hit.end() + 20]!r}"
        for path, text in texts
        for hit in wrong.finditer(text)
    ]
    assert not found, f'say "{word}":\n' + "\n".join(found)
