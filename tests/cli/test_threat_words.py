"""Each word of the threat, from the command line to caption, record, page and export."""

import json

import pytest

QUICK = ("--attack", "pgd", "--set", "steps=1", "--limit", "6", "--device", "cpu")
CAPTIONS = {
    "white-box": ((), "(white-box linf 4/255 at 64 px; pgd (steps 1); n=6)"),
    "adaptive": ((), "(adaptive linf 4/255 at 64 px; no surrogate, so adaptive equals white-box here; pgd (steps 1); n=6)"),
    "transfer": (
        ("--source", "mini-robust"),
        "(transfer linf 4/255 at 64 px, made on zero_shot on mini-robust; pgd/surrogate1 (steps 1); n=6)",
    ),
}


@pytest.mark.parametrize("word", CAPTIONS)
def test_the_caption_says_who_was_attacked(ironclip, word):
    more, caption = CAPTIONS[word]
    code, said, complaint = ironclip("evaluate", "mini", "--data", "shapes", "--knowledge", word, *more, *QUICK)
    assert code == 0, complaint
    assert caption in " ".join(said.split())


def test_a_static_attack_on_a_run_names_what_its_pictures_were_made_on(ironclip):
    trained = ("train", "apt", "--data", "shapes", "--shots", "1", "--set", "epochs=1", "--set", "attack.steps=1")
    code, _, complaint = ironclip(*trained, "--eps", "1/255", "--out", "kept", "--device", "cpu")
    assert code == 0, complaint
    code, said, complaint = ironclip("evaluate", "kept", "--knowledge", "static", *QUICK)
    assert code == 0, complaint
    assert "(static linf 4/255 at 64 px, made on " in " ".join(said.split())
    assert "says little about an attacker who knows this classifier" in " ".join(said.split())


def test_black_box_attacks_see_scores_alone(ironclip):
    given = ("evaluate", "mini", "--data", "shapes", "--knowledge", "black-box", "--limit", "6", "--device", "cpu")
    code, said, complaint = ironclip(*given, "--attack", "square", "--set", "queries=5")
    assert code == 0, complaint
    assert "(black-box linf 4/255 at 64 px; square (queries 5); n=6)" in " ".join(said.split())
    code, _, complaint = ironclip(*given, "--attack", "pgd")
    assert code == 2
    assert "needs gradients, but the threat is black-box" in complaint


def test_training_and_scoring_in_l2_say_so_everywhere(ironclip, tmp_path):
    train = ("train", "tecoa", "--data", "shapes", "--shots", "1", "--set", "epochs=1", "--set", "attack.steps=1")
    code, _, complaint = ironclip(*train, "--norm", "l2", "--eps", "0.5", "--out", "kept", "--device", "cpu")
    assert code == 0, complaint
    config = (tmp_path / "kept" / "config.yaml").read_text()
    assert "norm: l2" in config
    code, said, complaint = ironclip("evaluate", "kept", *QUICK, "--norm", "l2", "--eps", "1", "--json")
    assert code == 0, complaint
    (record,) = json.loads(said)
    assert (record["threat"]["norm"], record["threat"]["eps"]) == ("l2", 1.0)


def test_an_l2_audit_has_its_norm_on_the_page_and_in_the_export(ironclip, tmp_path):
    files = ("--html", "page.html", "--robustbench", "info.json")
    given = ("audit", "mini", "--data", "shapes", *QUICK, "--diagnostics", "0", *files)
    code, said, complaint = ironclip(*given, "--norm", "l2", "--eps", "0.5,3")
    assert code == 0, complaint
    assert "\nl2 eps" in said
    exported = json.loads((tmp_path / "info.json").read_text())
    assert (exported["norm"], exported["eps"]) == ("L2", "3")
    assert "l2 3" in exported["footnote"]
    page = (tmp_path / "page.html").read_text()
    assert "l2" in page
    assert "/255" not in page.partition("<body")[2]
