"""The Dockerfile read as text: no image can be built where the tests run, but what it names must exist."""

import re
import tomllib
from pathlib import Path

from typer.main import get_command

from ironclip.cli import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in re.sub(r"\\\n", " ", TEXT).splitlines() if line and not line.startswith("#")]
FACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def said(word: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(f"{word} ")]


def test_what_is_copied_exists_and_is_what_the_wheel_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [source for line in said("COPY") for source in line.split()[:-1]]
    assert [each for each in copied if not (ROOT / each).exists() or each in ignored] == []
    targets = FACTS["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        *targets["packages"],
        *targets["force-include"],
        "pyproject.toml",
        "hatch_build.py",
        *FACTS["project"]["license-files"],
    }
    assert needed | {"README.md"} <= set(copied)  # hatch_build.py reads the README


def test_its_python_and_its_extras_are_those_of_the_package() -> None:
    (image,) = said("FROM")
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", image)
    assert version
    assert f"Programming Language :: Python :: {version[1]}.{version[2]}" in FACTS["project"]["classifiers"]
    arguments = dict(each.split("=") for each in said("ARG"))
    assert arguments["TORCH"] == "cpu"
    assert set(arguments["EXTRAS"].split(",")) <= set(FACTS["project"]["optional-dependencies"])
    assert 'install ".[${EXTRAS}]"' in TEXT
    assert "whl/${TORCH}" in TEXT


def test_it_serves_as_a_user_without_rights_and_asks_whether_it_is_ready() -> None:
    (user,) = said("USER")
    assert f"useradd --create-home --uid 1000 {user}" in TEXT
    assert LINES.index(f"USER {user}") > max(k for k, line in enumerate(LINES) if line.startswith("RUN "))
    words = re.findall(r'"([^"]*)"', said("ENTRYPOINT")[0])
    command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    options = {option for each in command.params for option in each.opts}
    assert words[0] in FACTS["project"]["scripts"]
    assert {word for word in words[2:] if word.startswith("--")} <= options
    (health,) = said("HEALTHCHECK")
    (port,) = said("EXPOSE")
    assert f"127.0.0.1:{port}/readyz" in health
    assert next(each.default for each in command.params if "--port" in each.opts) == int(port)
    assert any('"/readyz"' in path.read_text(encoding="utf-8") for path in (ROOT / "ironclip" / "serve").glob("*.py"))
