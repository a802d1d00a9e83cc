"""The page of the package as an index shows it: addresses of the project, and the README's links made absolute.

The address of the repository is IRONCLIP_HOME, or that of the git remote `origin`, or what the PKG-INFO of a source archive says.
Where none is known, a link inside the repository is its text alone: a page has no dead links.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PLACES = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md", "Issues": "issues"}


class Page(MetadataHookInterface):
    """Sets `readme` and `urls`, which pyproject.toml calls dynamic."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        home = address(root)
        text = absolute((root / "README.md").read_text(encoding="utf-8"), home)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(home)


def address(root: Path) -> str:
    """https address of the repository, without a slash at the end; "" where none is known."""
    if given := os.environ.get("IRONCLIP_HOME"):
        return given.rstrip("/")
    info = root / "PKG-INFO"
    if info.is_file():
        found = re.search(r"^Project-URL: Repository, (\S+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        return found.group(1) if found else ""
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
    said = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", said)
    return said.removesuffix(".git") if said.startswith("https://") else ""


def urls(home: str) -> dict[str, str]:
    """The addresses that an index lists beside the page."""
    if not home:
        return {}
    places = {name: f"{home}/{place}" if "." not in place else f"{home}/blob/HEAD/{place}" for name, place in PLACES.items()}
    return {"Repository": home, **places}


def absolute(text: str, home: str) -> str:
    """Markdown whose links into the repository are absolute, or mere text where no address is known."""

    def link(found: "re.Match[str]") -> str:
        words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found.group(0)
        return f"[{words}]({home}/blob/HEAD/{target})" if home else words

    def picture(found: "re.Match[str]") -> str:
        words, target = found.groups()
        return f"![{words}]({home}/raw/HEAD/{target})" if home else ""

    text = re.sub(r"!\[([^\]]*)\]\((?![a-z]+:)([^)\s]+)\)", picture, text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", link, text)
