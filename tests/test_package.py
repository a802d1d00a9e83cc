"""What the package says of itself: its dependencies, its page, what lies inside."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = {
    "open-clip-torch": "open_clip", "huggingface-hub": "huggingface_hub", "pillow": "PIL", "pyyaml": "yaml",
    "python-multipart": "multipart", "prometheus-client": "prometheus_client", "lightning-fabric": "lightning_fabric",
    "pillow-heif": "pillow_heif",
}  # fmt: skip
"""Distribution -> module, where they differ."""
TOOLS = ("dev", "docs", "live", "crosscheck")
WITH_OTHERS = {"starlette", "onnx_ir", "lightning", "markupsafe"}
"""Modules that come with fastapi, onnxscript and jinja2, and another name of lightning_fabric."""
NEVER_IMPORTED = {"multipart", "onnx"}
"""What fastapi's forms and torch.onnx import."""


def modules(requirements: list[str]) -> set[str]:
    found = (re.split(r"[\[><=! ]", each)[0].lower().replace("_", "-") for each in requirements)
    return {NAMES.get(name, name.replace("-", "_")) for name in found}


def imported() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "ironclip").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - {"ironclip", *sys.stdlib_module_names}


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    project, here = FACTS["project"], imported()
    extras = [needs for name, needs in project["optional-dependencies"].items() if name not in TOOLS]
    offered = modules(project["dependencies"]).union(*map(modules, extras))
    assert not offered - here - NEVER_IMPORTED, "nothing imports these"
    assert not here - offered - WITH_OTHERS, "these are imported and not among the dependencies"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    source = (ROOT / "hatch_build.py").read_text(encoding="utf-8")
    module = ModuleType("hatch_build")
    stub = ModuleType("hatchling.metadata.plugin.interface")
    stub.MetadataHookInterface = object  # type: ignore[attr-defined]
    sys.modules["hatchling.metadata.plugin.interface"] = stub
    try:
        exec(compile(source, "hatch_build.py", "exec"), module.__dict__)
    finally:
        del sys.modules["hatchling.metadata.plugin.interface"]
    return module


def test_the_page_has_absolute_links_or_none(hook: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for home in ("https://example.org/you/ironclip", ""):
        page = hook.absolute(text, home)
        targets = re.findall(r"\]\(([^)\s]+)\)", page)
        assert all(re.match(r"https?:|#", target) for target in targets)
        assert any("docs/glossary.md" in target for target in targets) == bool(home)
        assert "glossary" in page
    assert hook.urls("") == {}
    assert hook.urls("https://example.org/i")["Changelog"] == "https://example.org/i/blob/HEAD/CHANGELOG.md"


REMOTES = {"git@host.org:you/ironclip.git": "https://host.org/you/ironclip", "/srv/git/x.git": ""}


@pytest.mark.parametrize("remote", REMOTES)
def test_the_address_is_the_remote(hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str) -> None:
    monkeypatch.delenv("IRONCLIP_HOME", raising=False)
    for command in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert hook.address(tmp_path) == REMOTES[remote]
    (tmp_path / "PKG-INFO").write_text("Project-URL: Repository, https://elsewhere.org/i\n")
    assert hook.address(tmp_path) == "https://elsewhere.org/i"


def test_what_the_wheel_and_the_source_archive_take_exists() -> None:
    targets = FACTS["tool"]["hatch"]["build"]["targets"]
    named = [*targets["wheel"]["force-include"], *(each.removeprefix("/") for each in targets["sdist"]["include"])]
    assert [each for each in named if not (ROOT / each).exists()] == []
    version = FACTS["project"]["version"]
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_an_image_of_the_page_is_shown_or_left_out(hook: ModuleType) -> None:
    text = "![what](docs/images/a.svg) and ![b](https://example.org/b.svg)"
    assert hook.absolute(text, "https://example.org/i") == (
        "![what](https://example.org/i/raw/HEAD/docs/images/a.svg) and ![b](https://example.org/b.svg)"
    )
    assert hook.absolute(text, "") == " and ![b](https://example.org/b.svg)"
