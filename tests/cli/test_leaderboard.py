"""The verb `leaderboard`: from runs and audits to a site; what is refused leaves nothing behind."""

import json
from pathlib import Path

import pytest

ATTACK = ["--attack", "pgd", "--set", "steps=1", "--limit", "12"]


@pytest.fixture
def submitted(ironclip, tmp_path: Path) -> Path:
    assert ironclip("train", "zero_shot", "--data", "shapes", "--backbone", "mini", "--out", "submissions/a")[0] == 0
    assert ironclip("evaluate", "submissions/a", *ATTACK, "--eps", "4/255")[0] == 0
    return tmp_path / "submissions" / "a"


def test_submissions_are_listed_once_they_were_audited(ironclip, submitted, tmp_path):
    assert ironclip("verify", "submissions")[0] == 0
    made = ironclip("audit", "submissions/a", *ATTACK, "--eps", "4/255", "--diagnostics", "0", "--out", "audits/a")
    assert made[0] == 0
    code, said, _ = ironclip("leaderboard", "submissions", "--audits", "audits", "--html", "site", "--json")
    assert code == 0
    (line,) = json.loads(said)
    assert (line["method"], line["audited"], line["rank"], line["static"]) == ("zero_shot", True, 1, None)
    files = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.json")}
    assert len(files) == 4
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{name}"' in page for name in files)


def test_a_run_alone_is_listed_as_not_audited(ironclip, submitted):
    code, said, _ = ironclip("leaderboard", "submissions", "--html", "site", "--json")
    assert (code, json.loads(said)[0]["audited"]) == (0, False)


def test_what_no_audit_measured_leaves_no_site(ironclip, submitted, tmp_path):
    made = ironclip("audit", "submissions/a", *ATTACK, "--eps", "1/255", "--diagnostics", "0", "--out", "audits/a")
    assert made[0] == 0  # at another radius: the audit's own line alone is listed
    (line,) = json.loads(ironclip("leaderboard", "submissions", "--audits", "audits", "--html", "site", "--json")[1])
    assert line["threat"] == "linf 1/255 at 64 px"
    code, _, said = ironclip("leaderboard", "submissions", "--html", "submissions/a/config.yaml")
    assert (code, said.count("\n")) == (2, 1)
    assert "is no folder" in said
    stray = submitted / "evaluations" / "x"
    stray.mkdir(parents=True)
    (stray / "record.json").write_text("{}")
    code, _, said = ironclip("leaderboard", "submissions", "--html", "other")
    assert (code, said.count("\n"), (tmp_path / "other").exists()) == (2, 1, False)
    assert "results without their settings.json" in said
