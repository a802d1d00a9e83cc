"""The README is true: its commands parse, its Python runs, its files exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOOKS = (ROOT / "docs" / "hooks.py").read_text(encoding="utf-8")
GENERATED = {ROOT / "docs" / page for page in [*re.findall(r'"(reference/[a-z-]+\.md)"', HOOKS), "board/index.html"]}
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGES, re.DOTALL)
LINES = [
    part.strip() for line in [*README.splitlines(), *"\n".join(BLOCKS).splitlines()] for part in line.split("#")[0].split(";")
]
COMMANDS = sorted({line.removesuffix("\\").strip() for line in LINES if line.startswith("ironclip ")})


@pytest.mark.parametrize("line", COMMANDS)
def test_readme_command_parses(line: str) -> None:
    from ironclip.cli import app

    group = get_command(app)
    arguments = ["1" if word == "N" else word for word in shlex.split(line)[1:]]  # some pages leave a number open
    while hasattr(group, "commands"):
        name, *arguments = arguments
        assert name in group.commands, f"no verb {name!r}"
        group = group.commands[name]
    group.make_context(name, list(arguments))


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_extend_page_example_trains() -> None:
    import torch

    from ironclip.attacks import PGD
    from ironclip.backbones.tiny import tiny_backbone
    from ironclip.core.types import Batch

    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    space: dict = {}
    exec(compile(block, "extend.md", "exec"), space)
    backbone, classes = tiny_backbone(), ("cat", "dog")
    defense = space["METHOD"](backbone, classes)
    batch = Batch(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), torch.arange(2), classes)
    (loss,) = defense.loss(backbone, batch, PGD(eps=1 / 255, steps=1)).values()
    loss.backward()
    assert defense.vector.grad is not None
    assert defense.vector.grad.abs().sum() > 0


def test_linked_files_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            made = (page.parent / target).resolve() in GENERATED
            assert made or (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
