"""Test-time methods from the command line: on a backbone, on a trained run without retraining, in classify, and refused."""

import json
from pathlib import Path

import pytest

SMALL = ("--attack", "pgd", "--set", "steps=1", "--set", "rtpt.views=2", "--limit", "2", "--device", "cpu")


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, complaint = result
    lines = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), complaint
    for word in words:
        assert word in lines[0]


def test_static_and_adaptive_numbers_stand_side_by_side_and_leave_the_run_as_it_was(ironclip, photos: Path) -> None:
    quick = ("--set", "epochs=1", "--set", "attack.steps=1", "--set", "length=2", "--shots", "1", "--device", "cpu")
    code, said, _ = ironclip("train", "apt", "--data", str(photos), *quick, "--json")
    assert code == 0
    run = Path(json.loads(said)["run"])

    code, said, _ = ironclip("evaluate", str(run), "--test-time", "rtpt", *SMALL, "--json")
    assert code == 0
    static, adaptive = json.loads(said)
    assert [record["method"] for record in (static, adaptive)] == ["apt+rtpt", "apt+rtpt"]
    assert [record["threat"]["knowledge"] for record in (static, adaptive)] == ["static", "adaptive"]
    assert adaptive["options"]["rtpt.views"] == 2
    assert adaptive["options"]["apt.length"] == 2
    assert adaptive["robust"]["count"] <= static["robust"]["count"] <= static["clean"]["count"]
    assert [attack["name"] for attack in static["attacks"]] == ["pgd/base"]
    assert [attack["name"] for attack in adaptive["attacks"]] == ["pgd", "pgd/views", "pgd/selection", "pgd/draws", "pgd/base"]
    assert [(record["cost"]["forward_passes"], record["cost"]["backward_passes"]) for record in (static, adaptive)] == [
        (2, 0)
    ] * 2
    assert static["timing"]["answer_seconds"] > 0
    assert not (run / "record.json").exists()  # the run's own record is that of its own method

    code, said, _ = ironclip("evaluate", str(run), "--test-time", "rtpt", *SMALL, "--knowledge", "static")
    assert code == 0
    assert "static alone is no robustness" in said
    assert "2 + 0" in said
    code, said, _ = ironclip("classify", str(photos / "dark"), "--model", str(run), "--test-time", "rtpt", "--set", "views=2",
                             "--limit", "2", "--json")  # fmt: skip
    assert code == 0
    assert len(json.loads(said)) == 2


def test_a_method_named_alone_is_a_run_on_zero_shot(ironclip) -> None:
    code, said, _ = ironclip("train", "aom", "--data", "shapes", "--set", "copies=2", "--device", "cpu", "--json")
    assert code == 0
    run = json.loads(said)["run"]
    code, said, _ = ironclip("evaluate", run, "--attack", "fgsm", "--limit", "4", "--device", "cpu", "--json")
    assert code == 0
    assert {record["method"] for record in json.loads(said)} == {"zero_shot+aom"}
    refused(ironclip("evaluate", run, "--test-time", "rtpt"), "already", "rtpt")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "rtpt+nap", "--data", "shapes"), ("written last", "nap+rtpt")),
        (("train", "nap+rtpt+atpt", "--data", "shapes"), ("at most one",)),
        (("train", "rtpt", "--data", "shapes", "--set", "veiws=3"), ("views",)),
        (("evaluate", "mini", "--data", "shapes", "--test-time", "rtp"), ("rtpt",)),
        (("evaluate", "mini", "--data", "shapes", "--test-time", "rtpt", "--set", "rtpt.veiws=3"), ("views",)),
        (("evaluate", "mini", "--data", "shapes", "--test-time", "atpt", "--set", "atpt.variant=released"), ("paper, code",)),
        (("classify", "x.png", "--names", "a,b", "--set", "views=3"), ("--test-time",)),
    ],
)
def test_wrong_names_give_one_line(ironclip, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(ironclip(*arguments), *words)


def test_classify_writes_a_page_with_attention_and_kept_views(ironclip, photos: Path) -> None:
    (photos / "dark" / "0-broken.png").write_text("no")
    page = photos / "page.html"
    adapting = ("--names", "dark,bright", "--test-time", "rtpt", "--set", "views=4", "--limit", "3", "--report", str(page))
    code, said, complaint = ironclip("classify", str(photos / "dark"), *adapting, "--json")
    assert code == 2
    assert "0-broken.png" in complaint
    html = page.read_text()
    shown = json.loads(said)
    assert len(shown) == 2
    assert html.count("<article") == 2
    assert html.count("<img") == 2 * (2 + 4)
    assert all(f"{100 * each['predictions'][0]['probability']:.1f}" in html for each in shown)
    assert "4 of 4 views, with 100.0 % of the weight" in html
    assert "with rtpt" in html
    assert "not an image" in html
    plain = ("classify", str(photos / "bright"), "--names", "dark,bright", "--limit", "1", "--report", str(page))
    assert ironclip(*plain)[0] == 0
    assert page.read_text().count("<img") == 2
