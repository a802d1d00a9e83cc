"""The pages of docs/extend: their code runs as it stands, and does what the page says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ironclip
from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.types import Batch

HOME = Path(__file__).resolve().parents[1]
FOLDER = HOME / "docs" / "extend"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (FOLDER / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)


def code(page: str) -> str:
    (block,) = blocks(page)
    return block


def executed(page: str) -> dict:
    space: dict = {"__name__": page}
    exec(compile(code(page), f"{page}.md", "exec"), space)
    return space


def with_one_file_more(home: Path, place: str, page: str, text: str = "") -> Path:
    """A package in `home` that is ours, by links, and holds the page's code (or this text) as one more file at `place`."""
    target = home / "ironclip"
    ours = HOME / "ironclip"
    target.mkdir(parents=True)
    for folder in [Path(), *reversed(Path(place).parents[:-1])]:
        (target / folder).mkdir(exist_ok=True)
        for path in (ours / folder).iterdir():
            if path.name != "__pycache__" and not Path(place).is_relative_to(folder / path.name):
                (target / folder / path.name).symlink_to(path)
    (target / place).write_text(text or code(page), encoding="utf-8")
    return home


def run(home: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_file_is_all_that_an_attack_takes(tmp_path: Path) -> None:
    home = with_one_file_more(tmp_path, "attacks/corners.py", "attack")
    assert "the worst of some random corners" in run(home, "-m", "ironclip", "list", "attacks")
    assert re.search(r"draws +10 +.*corners tried", run(home, "-m", "ironclip", "list", "options", "corners"))
    said = "from ironclip import attacks as a; print(a.Corners(eps=0.5), 'corners' in a.without_gradients(), a.usual('corners'))"
    assert run(home, "-c", said) == "Corners(eps=0.5, draws=10, seed=0) True {'draws': 10}\n"


def test_every_page_is_executed() -> None:
    pages = {"attack", "data", "diagnostic", "format", "test-time-method", "vision-language"}
    assert {path.stem for path in FOLDER.glob("*.md")} == pages


def test_the_target_of_a_vision_language_model_asks_for_it_with_the_classes(monkeypatch) -> None:
    """Without the model: its class is tested in `tests/api/test_vision_language.py`."""
    asked = []
    reader = lambda *given, **options: asked.append((given, options)) or "classifier"  # noqa: E731
    monkeypatch.setattr(ironclip.VisionLanguageClassifier, "from_pretrained", reader)
    space: dict[str, Any] = {}
    exec(compile(blocks("vision-language")[0], "llava.py", "exec"), space)
    assert space["classifier"](("cat", "dog")) == "classifier"
    ((name, classes), options), *others = asked
    assert not others
    assert (name, classes) == ("llava-hf/llava-1.5-7b-hf", ("cat", "dog"))
    assert "<image>" in options["prompt"]


@pytest.fixture(scope="module")
def pictures() -> tuple[AdaptedClassifier, Batch]:
    """A classifier, and images with the labels that it says."""
    classes, images = ("cat", "dog", "tram"), torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = assemble(tiny_backbone(), classes)
        return base, Batch(images, base(images).argmax(1), torch.arange(3), classes)


def test_a_test_time_method_of_ones_own_meets_the_adaptive_attack(pictures) -> None:
    """A method that names no attack is attacked on itself, on draws of its randomness and on the classifier below."""
    base, batch = pictures
    space: dict = {"base": base, "batches": [batch]}
    for block in blocks("test-time-method")[:2]:
        exec(compile(block, "test-time-method.md", "exec"), space)
    found = space["result"].samples
    everywhere = {name for sample in found for name in sample.adversarial}
    assert everywhere <= {"adaptive", "adaptive/draws", "adaptive/surrogate2", "adaptive/base"}
    assert any(len(sample.adversarial) == 3 or sample.broken_by for sample in found)


def test_a_method_made_of_parts_is_a_whole_method(pictures) -> None:
    base, batch = pictures
    space: dict = {"__name__": "sharpened"}
    exec(compile(blocks("test-time-method")[2], "test-time-method.md", "exec"), space)
    method = space["METHOD"](views=6, select=0.5)
    classifier = method(base)
    with torch.no_grad():
        views = classifier.observed(batch.images)
        tuned = method.tuned(classifier.base, views.views)
        assert torch.allclose(classifier(batch.images), tuned.logits.mean(1), atol=1e-5)
        assert not torch.allclose(tuned.logits, tuned.start, atol=1e-4)
    assert torch.allclose(views.weights, torch.full((3, 6), 1 / 6))
    assert [each.name for each in method.surrogates(classifier)] == ["views", "selection", "draws"]


def test_one_file_is_all_that_a_test_time_method_takes(tmp_path: Path) -> None:
    for number, name in ((0, "noisy"), (2, "sharpened")):
        home = with_one_file_more(tmp_path / name, f"testtime/{name}.py", "test-time-method", blocks("test-time-method")[number])
        assert f"{name} " in run(home, "-m", "ironclip", "list", "methods")


def test_the_attack_stays_in_the_ball_breaks_something_and_does_not_depend_on_the_batch() -> None:
    attack = executed("attack")["Corners"](eps=0.1, draws=20)
    images, labels = torch.rand(6, 3, 4, 4), torch.zeros(6, dtype=torch.long)

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    adv = attack(function, images, labels)
    assert (adv - images).abs().max() <= 0.1 + 1e-6
    assert ((adv >= 0) & (adv <= 1)).all()
    assert (function(adv)[:, 0] < function(images)[:, 0]).any()
    assert torch.equal(attack(function, images[3:], labels[3:], indices=torch.arange(3, 6)), adv[3:])
    assert str(attack) == "Corners(eps=0.1, draws=20, seed=0)"


def test_the_data_set_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from ironclip.data.catalogue import Entry

    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path))
    data = executed("data")["data"]
    assert data.classes == ("bright", "dark")
    assert isinstance(data.batch(limit=2, resolution=8), Batch)
    assert "2 classes" in capsys.readouterr().out
    (text,) = re.findall(r"```json\n(.*?)```", (FOLDER / "data.md").read_text(encoding="utf-8"), re.DOTALL)
    for name, facts in json.loads(text).items():
        assert "split_zhou_MyBirds.json" in Entry(name=name, **facts).how()


def test_the_diagnostic_gives_a_verdict() -> None:
    import masked

    verdict = executed("diagnostic")["CHECK"](masked.lab(masked.Plain(), steps=3, many=8))
    assert (verdict.id, verdict.title) == ("D20", "grey copies")
    assert verdict.level in ("pass", "warn")
    assert set(verdict.numbers) == {"colour", "grey"}


def test_one_file_is_all_that_a_diagnostic_takes(tmp_path: Path) -> None:
    home = with_one_file_more(tmp_path, "audit/checks/grey.py", "diagnostic")
    assert run(home, "-c", "from ironclip.audit.diagnose import CHECKS as c; print(*c)").endswith(" D19 D20 D15\n")


def test_one_file_is_all_that_a_table_format_takes(tmp_path: Path) -> None:
    home = with_one_file_more(tmp_path, "report/formats/typst.py", "format")
    assert re.search(r"--typst +<path> +Write a Typst table", run(home, "-m", "ironclip", "report", "--help"))
    said = "from ironclip.report import formats as f, rows; print(f.NAMES, f.written('typst', 2 * [rows([])]).count('#figure'))"
    assert run(home, "-c", said) == "('latex', 'markdown', 'typst') 2\n"


def test_the_format_holds_the_numbers_and_the_caption() -> None:
    from reporting import record

    from ironclip.report import rows

    text = executed("format")["typst"](rows([record("nap", 80, 40), record("apt", 70, 30)]))
    assert "[*80.0* [" in text
    assert "Wilson interval" in text
    assert text.count("(") == text.count(")")
