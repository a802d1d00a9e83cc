"""`evaluate --task`: a table or JSON for retrieval and corruptions, one line for what does not fit."""

import json
import sys

import pytest


def test_recall_of_a_backbone_on_shapes(ironclip):
    code, said, _ = ironclip(
        "evaluate", "mini", "--data", "shapes", "--task", "retrieval", "--limit", "12", "--set", "steps=1", "--json"
    )
    assert code == 0
    found = json.loads(said)
    assert list(found) == ["clean", "coattack on both", "pgd on images"]
    assert found["clean"]["image to text at 1"]["of"] == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--attack", "pgd"], "--task retrieval has no --attack"),
        (["--norm", "l2"], "--task retrieval has no --norm"),
        (["--test-time", "mta"], "--task retrieval has no --test-time"),
        (["--set", "loss=ce"], "has the option steps alone"),
        (["--eps", "0"], "eps 0 cannot move a pixel"),
    ],
)
def test_what_retrieval_does_not_have_is_one_line(ironclip, given, message):
    code, _, said = ironclip("evaluate", "mini", "--data", "shapes", "--task", "retrieval", *given)
    assert (code, said.count("\n")) == (2, 1)
    assert message in said
    assert ironclip("evaluate", "mini", "--data", "shapes", "--task", "vqa")[0] == 2


def test_corruptions_are_a_table_and_no_robust_accuracy(ironclip):
    code, said, _ = ironclip("evaluate", "mini", "--data", "shapes", "--task", "corruptions", "--limit", "4", "--json")
    assert code == 0
    found = json.loads(said)
    assert len(found["kinds"]) == 14
    assert {len(parts) for parts in found["kinds"].values()} == {5}
    assert found["clean"]["of"] == 4
    code, _, said = ironclip("evaluate", "mini", "--data", "shapes", "--task", "corruptions", "--eps", "4/255")
    assert (code, "--task corruptions has no --eps" in said) == (2, True)


def test_without_the_extra_corruptions_are_one_line(ironclip, monkeypatch):
    monkeypatch.delitem(sys.modules, "ironclip.protocols.corruption_table", raising=False)
    monkeypatch.delitem(sys.modules, "ironclip.data.corruptions", raising=False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    options = ("--data", "shapes", "--task", "corruptions", "--limit", "2", "--device", "cpu")
    code, shown, said = ironclip("evaluate", "mini", *options)
    assert (code, shown, len(said.strip().splitlines())) == (2, "", 1)
    assert "pip install 'ironclip[corruptions]'" in said
