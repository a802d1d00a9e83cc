"""`ironclip audit` on files that end, shout, import and hide: a requirement is met by a finished audit and by nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ironclip.audit.diagnose import CHECKS

GOOD = """
import torch
from torch import nn

class Brightness(nn.Module):
    resolution = 8
    def __init__(self, order):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(40.0 * order))
    def forward(self, images):
        above = self.weight * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-above, above], 1)

def order(classes):
    return 1 if classes == ("dark", "bright") else -1

def make(classes):
    return Brightness(order(classes))
"""
ENDINGS = {
    "exit 0": "sys.exit(0)",
    "exit words": "sys.exit('x')",
    "system exit": "raise SystemExit",
    "keyboard": "raise KeyboardInterrupt",
    "generator": "raise GeneratorExit",
    "error": "raise RuntimeError('one\\ntwo')",
    "argparse": "__import__('argparse').ArgumentParser().parse_args(['--their-option'])",
    "_exit": "os._exit(0)",
}
TOP = "import os, sys\n{ending}\n"
MAKER = """
import os, sys
made = make

def make(classes):
    {ending}
    return made(classes)
"""
FORWARD = """
import os, sys

class Ending(Brightness):
    calls = 0
    def forward(self, images):
        self.calls += 1
        if self.calls > LIMIT:
            {ending}
        return super().forward(images)

def make(classes):
    return Ending(order(classes))
"""
SURROGATES = """
import os, sys

class Ending(Brightness):
    def surrogates(self):
        {ending}

def make(classes):
    return Ending(order(classes))
"""
BACKWARD = """
import os, sys

class Cut(torch.autograd.Function):
    calls = 0
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, slope):
        Cut.calls += 1
        if Cut.calls > 2:
            {ending}
        return slope

class Ending(Brightness):
    def forward(self, images):
        return super().forward(Cut.apply(images))

def make(classes):
    return Ending(order(classes))
"""
PLACES = {
    "import": TOP + GOOD,
    "maker": GOOD + MAKER,
    "first call": GOOD + FORWARD.replace("LIMIT", "0"),
    "late call": GOOD + FORWARD.replace("LIMIT", "9"),
    "surrogates": GOOD + SURROGATES,
    "backward": GOOD + BACKWARD,
}
SMALL = ("--split", "train", "--eps", "1/255", "--set", "queries=5", "--diagnostics", "0", "--device", "cpu")
QUICK = ("--set", "steps=2")  # of the attacks with gradients


@pytest.fixture
def audit(ironclip, photos: Path, tmp_path: Path):
    def run(source: str, *more: str, name: str = "theirs.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(source)
        return ironclip("audit", f"{path}:make", "--data", str(photos), *SMALL, *more)

    return run


CASES = [("import", ending) for ending in ENDINGS] + [
    (place, ending) for place in PLACES if place != "import" for ending in ("exit 0", "keyboard", "_exit")
]


@pytest.mark.parametrize(("place", "ending"), CASES)
def test_a_requirement_is_not_met_by_silence(audit, place: str, ending: str) -> None:
    code, said, complaint = audit(PLACES[place].replace("{ending}", ENDINGS[ending]), "--require", "clean>=0", "--json", *QUICK)
    assert code == 2
    assert said == ""
    lines = [line for line in complaint.splitlines() if not line.startswith("audit ")]  # progress
    assert len(lines) == 1, complaint
    assert lines[0].startswith("error: ")
    assert "usage" not in lines[0]


@pytest.mark.parametrize("beside", [False, True], ids=["its own file", "a file beside it"])
def test_other_gradients_behind_the_same_answers_are_another_audit(audit, tmp_path: Path, beside: bool) -> None:
    """A detached input changes no logit of a clean image; the record of the version before must not be read."""
    code = GOOD.replace("images.mean((1, 2, 3))", "bent(images).mean((1, 2, 3))") + "from ways import bent\n"
    first, second = ("def bent(images):\n    return images\n", "def bent(images):\n    return images.detach() + 0 * images\n")
    (tmp_path / "ways.py").write_text(first)
    before = audit(code)
    if beside:
        (tmp_path / "ways.py").write_text(second)
        after = audit(code)
    else:
        after = audit(code.replace("from ways import bent", second))
    assert before[0] == after[0] == 0
    assert len([path for path in (tmp_path / "audits").iterdir() if path.is_dir()]) == 2


def test_what_a_target_prints_does_not_mix_with_the_report(audit) -> None:
    code, said, complaint = audit("print('loading')\n" + GOOD, "--require", "clean>=1", "--json", *QUICK)
    assert code == 0
    assert json.loads(said)["requirements"][0]["met"]
    assert "loading" in complaint


def test_dataclasses_with_annotations_as_strings_and_modules_beside_it_load(audit, tmp_path: Path) -> None:
    theirs = tmp_path / "deep" / "folder"
    theirs.mkdir(parents=True)
    (theirs / "its_net.py").write_text("SCALE = 40.0\n")
    (theirs / "its_late.py").write_text("SHIFT = 0.5\n")
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\nfrom typing import ClassVar\n"
        "import its_net\n"
        + GOOD
        + "\n@dataclass\nclass Options:\n    kind: ClassVar[str] = 'a'\n    scale: float = its_net.SCALE\n"
        + "    more: list[int] = field(default_factory=list)\n"
        + "\nclass Late(Brightness):\n    def forward(self, images):\n        from its_late import SHIFT\n"
        + "        above = Options().scale * self.weight.sign() * (images.mean((1, 2, 3)) - SHIFT)\n"
        + "        return torch.stack([-above, above], 1)\n"
        + "\ndef make(classes):\n    return Late(order(classes))\n"
    )
    before = sys.path.copy()
    code, said, complaint = audit(source, "--json", *QUICK, name="deep/folder/theirs.py")
    assert code == 0, complaint
    assert json.loads(said)["clean"]["value"] == 1
    assert sys.path == before


@pytest.mark.parametrize("name", ["json.py", "ironclip.py"])
def test_a_file_may_be_called_like_an_installed_module(audit, name: str) -> None:
    module = sys.modules.get(name.removesuffix(".py"))
    code, _, complaint = audit(GOOD, "--require", "clean>=1", *QUICK, name=f"theirs/{name}")
    assert code == 0, complaint
    assert sys.modules.get(name.removesuffix(".py")) is module


SCORES = {
    "no_grad": "with torch.no_grad():\n            return super().forward(images)",
    "detach": "return super().forward(images).detach()",
    "cut before": "return super().forward(images.detach())",
    "numpy": "return torch.from_numpy(super().forward(torch.from_numpy(images.numpy())).detach().numpy())",
}


@pytest.mark.parametrize("how", SCORES)
def test_a_target_that_gives_scores_only_is_attacked_by_its_scores(audit, how: str) -> None:
    source = GOOD + f"\nclass Scores(Brightness):\n    def forward(self, images):\n        {SCORES[how]}\n"
    source += "\ndef make(classes):\n    return Scores(order(classes))\n"
    more = ("--diagnostics", "6", "--steps", "2", "--html", "page.html", "--robustbench", "info.json")
    code, said, complaint = audit(source, *more, "--require", "clean>=1", "--json", "--eps", "1/255,150/255")
    assert code == 0, complaint
    report = json.loads(said)
    assert report["gradients"] is False
    assert report["record"]["threat"]["knowledge"] == "black-box"
    assert [attack["name"] for attack in report["radii"][0]["attacks"]] == ["square"]
    assert report["radii"][1]["robust"]["value"] < 1
    assert {verdict["id"] for verdict in report["verdicts"] if verdict["missing"]} == set(CHECKS) - {
        "D2",
        "D3",
        "D4",
        "D5",
        "D16",
    }
    assert json.loads(Path("info.json").read_text())["unreliable"] is None
    assert "score attacks only" in Path("page.html").read_text()
    flags = [flag["id"] for flag in report["flags"]]
    assert "nothing_broken" in flags
    if how == "detach":
        said = audit(source, *more)[1]
        assert "score attacks only: the target gives no gradients" in said
        assert "no attack broke a single image" in said
        code, _, complaint = audit(source, "--attack", "pgd,square")
        assert code == 2
        assert "gives no gradients, which pgd needs; use square or transfer" in complaint
        given = ("--attack", "transfer,square", "--set", "source=mini", "--eps", "8/255", "--json")
        code, said, complaint = audit(source.replace("resolution = 8", "resolution = 64"), *given)
        assert code == 0, complaint
        assert [attack["name"] for attack in json.loads(said)["radii"][0]["attacks"]] == ["transfer", "square"]


def test_a_whole_process_that_is_ended_by_its_target_ends_with_2(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("import os\nos._exit(0)\n")
    arguments = ["audit", "theirs.py:make", "--data", str(photos), *SMALL, *QUICK, "--require", "clean>=0"]
    code = f"import sys; sys.argv = ['ironclip', *{arguments}]; from ironclip.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: cannot import 'theirs.py': it calls os._exit to end the process\n"
