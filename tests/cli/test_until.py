"""`evaluate --until`: as few images as the answer needs, and on from there."""

import json
from pathlib import Path

import pytest

from ironclip.records import looks

EVALUATE = ["evaluate", "mini", "--data", "shapes", "--attack", "fgsm", "--eps", "1/255", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture
def measured(ironclip, monkeypatch, tmp_path):
    """(options) -> (the record, its samples, their folder), with looks of few images."""
    monkeypatch.setattr(looks, "FIRST", 6)

    def run(*options: str) -> tuple[dict, list[str], Path]:
        code, said, _ = ironclip(*EVALUATE, "--limit", "30", "--json", *options)
        assert code == 0
        (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/config.yaml"))
        (record,) = json.loads(said)
        return record, (folder / "samples.jsonl").read_text().splitlines(), folder

    return run


def test_it_stops_when_the_interval_is_narrow_and_goes_on_when_asked(ironclip, measured):
    first, some, folder = measured("--until", "28")
    assert first["looks"] == {"points": 28.0, "sizes": [6, 12]}
    assert first["images"] == len(some) in (6, 12)
    assert (first["robust"]["high"] - first["robust"]["low"]) / 2 < 0.28
    assert "--until 28" in first["command"]
    again, same, _ = measured("--until", "28")
    assert (again, same) == (first, some)

    (folder / "record.json").unlink()
    lines = "".join(f"{line}\n" for line in some[:-2])
    (folder / "samples.jsonl").write_text(lines + some[-2][:9])
    resumed, same, _ = measured("--until", "28")
    assert {**resumed, "timing": 0} == {**first, "timing": 0}
    assert same == some

    whole, every, _ = measured("--until", "0")
    assert whole["images"] == len(every) == 30
    assert every[: len(some)] == some, "what was measured is not measured again"
    assert measured("--until", "28")[0] == whole, "a narrower answer is there already"
    assert ironclip("verify", str(folder))[0] == 0


def test_what_does_not_go_together_is_one_line(ironclip):
    for options, reason in (
        (["--until", "3", "--shard", "1/2"], "it does not go with --shard"),
        (["--until", "3", "--workers", "2"], "it does not go with --workers"),
        (["--until", "3", "--distortion"], "it does not go with --distortion"),
        (["--until", "-1"], "--until is half the width of an interval in points"),
        (["--until", "70"], "--until is half the width of an interval in points"),
    ):
        code, _, said = ironclip(*EVALUATE, *options)
        assert (code, reason in said, said.count("\n")) == (2, True, 1), said
