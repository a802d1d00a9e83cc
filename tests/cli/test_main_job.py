"""The verbs on embedded defaults and on a user's own folder, as a new user would type them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ironclip.attacks import STANDARD_FAST
from ironclip.cli.common import Progress

TRAIN = ("--shots", "1", "--set", "epochs=1", "--set", "attack.steps=1", "--device", "cpu")


def test_help_imports_little() -> None:
    code = (
        "import sys; sys.argv = ['ironclip', '--help']\n"
        "from ironclip.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'yaml', 'pandas', 'matplotlib'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
        "print('modules', len(sys.modules))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "evaluate" in said
    assert int(said.split("modules")[1]) < 600  # 409 when this was written; torch alone brings a thousand more


@pytest.mark.parametrize("what", ["methods", "attacks", "backbones", "datasets", "presets"])
def test_listing_imports_no_torch(what: str) -> None:
    code = (
        f"import sys; sys.argv = ['ironclip', 'list', '{what}', '--json']\n"
        "from ironclip.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(said)


def test_train_evaluate_attack_classify_show_and_report(ironclip, photos: Path, tmp_path: Path) -> None:
    code, said, _ = ironclip("train", "apt", "--data", str(photos), *TRAIN, "--set", "length=2", "--json")
    assert code == 0
    run = json.loads(said)["run"]
    assert json.loads(said)["status"] == "trained"

    code, said, _ = ironclip("evaluate", run, "--attack", "fgsm,pgd", "--set", "steps=2", "--eps", "1/255,4/255", "--json")
    assert code == 0
    near, far = json.loads(said)
    assert near["threat"]["eps"] == pytest.approx(1 / 255)
    assert near["images"] == far["images"] > 0
    assert far["robust"]["count"] <= far["clean"]["count"] == near["clean"]["count"]
    assert [attack["name"] for attack in far["attacks"]] == ["fgsm", "pgd"]

    code, said, _ = ironclip("attack", run, "--save", "adv", "--set", "steps=2", "--json")
    assert code == 0
    manifest = json.loads((tmp_path / "adv" / "manifest.json").read_text())
    assert manifest == json.loads(said)
    assert max(entry["distance"] for entry in manifest["images"]) <= 4 / 255 + 1e-6
    assert len(list((tmp_path / "adv").glob("*.png"))) == len(manifest["images"])

    code, said, _ = ironclip("classify", "adv", "--model", run, "--json")
    assert code == 0
    labelled = {Path(row["image"]).name: row["predictions"][0]["class"] for row in json.loads(said)}
    for entry in manifest["images"]:
        assert labelled[entry["file"]] == manifest["classes"][entry["prediction"]]

    code, said, _ = ironclip("show", run, "--json")
    assert code == 0
    assert len(json.loads(said)["records"]) == 2
    code, said, _ = ironclip("show", "runs")
    assert code == 0
    assert "apt" in said

    code, said, _ = ironclip("report", run, "--html", "r.html", "--latex", "t.tex", "--markdown", "t.md", "--csv", "t.csv")
    assert code == 0
    assert "<html" in (tmp_path / "r.html").read_text()
    assert "toprule" in (tmp_path / "t.tex").read_text()
    assert ironclip("report", run, "--figures", "f")[0] == 2
    assert ironclip("evaluate", run, "--eps", "8/255", "--attack", "pgd", "--set", "steps=1", "--limit", "4")[0] == 0
    assert ironclip("report", run, "--matrix", "--csv", "m.csv", "--figures", "f")[0] == 0
    (line, *_) = json.loads(ironclip("report", run, "--matrix", "--json")[1])
    assert line["clean"] == pytest.approx(near["clean"]["value"])
    assert "apt" in (tmp_path / "m.csv").read_text()
    assert [path.suffix for path in (tmp_path / "f").iterdir()] == [".svg"]


def test_the_progress_of_a_mask_that_passes_over_its_images_again_shows_one_falling_rate(ironclip, photos, monkeypatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(Progress, "__call__", lambda self, event: rates.append(event["lr"]) if event["event"] == "step" else None)
    options = ("min_steps=12", "warmup_steps=2", "epochs=3", "batch_size=1", "lr=0.01", "attack.steps=1")
    changes = [part for option in options for part in ("--set", option)]
    code, _, said = ironclip("train", "advmask", "--data", str(photos), "--shots", "1", *changes, "--device", "cpu")
    assert code == 0, said
    assert rates[:3] == [0.005, 0.01, 0.01]
    assert len(rates) == 12
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_a_finished_run_is_not_trained_again(ironclip, photos: Path) -> None:
    arguments = ("train", "apt", "--data", str(photos), *TRAIN, "--set", "length=1", "--json")
    first = json.loads(ironclip(*arguments)[1])["run"]
    learned = Path(first, "learned.safetensors")
    before = learned.stat().st_mtime_ns
    assert json.loads(ironclip(*arguments)[1])["run"] == first
    assert learned.stat().st_mtime_ns == before
    said = ironclip(*arguments[:-1])[1]
    assert f"next: ironclip evaluate {first} --eps 4/255\n" in said.replace("\r", "")  # the default attack, not one loss
    assert "training radius: 4/255 (of the preset apt/default; --eps changes it)" in said
    said = ironclip("train", "apt", "--data", str(photos), *TRAIN, "--set", "length=1", "--eps", "1/255")[1]
    assert "training radius: 1/255 (as given)" in said
    assert "--eps 1/255\n" in said.replace("\r", "")


def test_zero_shot_by_a_backbone_is_the_first_row(ironclip, photos: Path) -> None:
    code, said, _ = ironclip("evaluate", "mini", "--data", str(photos), "--attack", "fgsm", "--limit", "4", "--json")
    assert code == 0
    (record,) = json.loads(said)
    assert record["method"] == "zero_shot"
    assert record["images"] == 4
    assert record["cost"]["trainable_parameters"] == 0


def test_nobody_names_an_attack_and_gets_the_worst_case(ironclip, photos: Path, tmp_path: Path) -> None:
    code, said, _ = ironclip("evaluate", "mini", "--data", str(photos), "--eps", "1/255", "--limit", "2")
    assert code == 0
    assert ", ".join(STANDARD_FAST) in said
    assert "one loss" not in said
    assert "2 images: one image is 50 points" in said
    code, said, _ = ironclip("evaluate", "mini", "--data", str(photos), "--attack", "fgsm", "--eps", "1/255", "--limit", "2")
    assert "robust ≤ " in said
    assert "one loss: upper bound" in said
    (run,) = (tmp_path / "runs").glob("zero_shot*")
    assert "robust ≤ " in ironclip("show", str(run))[1]


def test_static_evaluation_is_labelled(ironclip, photos: Path) -> None:
    run = json.loads(ironclip("train", "apt", "--data", str(photos), *TRAIN, "--set", "length=1", "--json")[1])["run"]
    code, said, _ = ironclip("evaluate", run, "--knowledge", "static", "--attack", "fgsm", "--limit", "4")
    assert code == 0
    assert "static" in said


def test_classify_without_a_run_and_with_a_bad_picture(ironclip, photos: Path) -> None:
    (photos / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    code, said, complaint = ironclip("classify", str(photos / "dark"), "--names", "night,day", "--json")
    assert code == 2
    assert len(json.loads(said)) == 10
    assert "broken.jpg" in complaint


def test_dry_run_prints_the_configuration_and_writes_nothing(ironclip, tmp_path: Path) -> None:
    code, said, _ = ironclip("train", "nap", "--data", "shapes", "--eps", "2/255", "--set", "hidden_ratio=0.25", "--dry-run")
    config = json.loads(said)
    assert code == 0
    assert config["eps"] == pytest.approx(2 / 255)
    assert config["options"]["hidden_ratio"] == 0.25
    assert not (tmp_path / "runs").exists()


def test_data_check_reports_and_fails_on_a_bad_picture(ironclip, photos: Path) -> None:
    assert ironclip("data", "check", str(photos))[0] == 0
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photos / "dark" / "ok.png")
    (photos / "dark" / "broken.png").write_bytes(b"\x89PNG nothing")
    code, said, _ = ironclip("data", "check", str(photos))
    assert code == 1
    assert "broken.png" in said


def test_doctor_and_data_list(ironclip) -> None:
    code, said, _ = ironclip("doctor", "--json")
    assert code == 0
    assert "shapes" in json.loads(said)["data sets ready"]
    code, said, _ = ironclip("data", "list", "--json")
    assert code == 0
    assert {"shapes", "caltech101", "imagenet"} <= {entry["name"] for entry in json.loads(said)}


def test_quick_demo_ends_with_a_self_contained_page(ironclip, tmp_path: Path) -> None:
    code, said, _ = ironclip("demo", "--quick", "--html", "demo.html", "--device", "cpu", "--json")
    assert code == 0
    page = (tmp_path / "demo.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(json.loads(said)["runs"]) == 3
