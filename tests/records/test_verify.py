"""`verify` says of each thing in a run's folder whether it can be believed."""

import json

import pytest
import torch
import yaml
from measured import ATTACKS, CONFIG, SAMPLES, SETUP
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ironclip.loops.evaluation import settings
from ironclip.records.folder import RunFolder
from ironclip.records.learned import Learned, fingerprint
from ironclip.records.summary import summarise
from ironclip.records.verify import verify

TENSORS = {"context": torch.ones(2, 3), "gate": torch.zeros(1)}


@pytest.fixture
def run(tmp_path):
    """A trained run with two evaluations."""
    run = RunFolder.create(CONFIG | {"options": {}}, out=tmp_path / "run")
    run.save_learned(Learned(TENSORS, "f00", "nap", {}, SETUP.data.classes))
    facts = {"config_hash": run.config_hash, "learned_sha256": fingerprint(TENSORS)}
    cost = SETUP.cost.model_copy(update={"learned_bytes": 28})
    setup = SETUP.model_copy(update={**facts, "cost": cost})
    for samples in (SAMPLES, SAMPLES[1:]):
        place = run.evaluation(settings(setup, {}, images=len(samples)), "part")
        place.append(samples)
        place.save_record(summarise(setup, samples, ATTACKS))
    return run


def bad(run) -> list[str]:
    return [f"{finding.path.relative_to(run.path.parent)}: {finding.text}" for finding in verify(run.path) if not finding.ok]


def test_a_sound_run_is_good_in_all_parts(run):
    found = verify(run.path)
    assert bad(run) == []
    assert [finding.path.name for finding in found][0::2] == ["run", "learned.safetensors"]
    assert found[2].text.startswith("2 tensors, sha256 ")


def metadata(path, **changes):
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file(load_file(path), path, old | changes)


def other(run, **changes):
    """Another sound learned file in its place."""
    fields = {"tensors": TENSORS, "base_sha256": "f00", "method": "nap", "options": {}, "classes": SETUP.data.classes}
    run.save_learned(Learned(**(fields | changes)))


def text(path, old, new):
    path.write_text(path.read_text().replace(old, new))


FAULTS = {
    "samples": (lambda run: text(run.path / "samples.jsonl", "-0.1", "-0.2"), "run: "),
    "a further record": (
        lambda run: text(next(run.path.glob("evaluations/*/record.json")), '"nap"', '"zero_shot"'),
        "does not fit its own sha256",
    ),
    "settings": (lambda run: text(next(run.path.glob("evaluations/*/settings.json")), '"images": 3', '"images": 4'), "its hash"),
    "settings gone": (lambda run: (run.path / "settings.json").unlink(), "record.json: results without their settings.json"),
    "configuration": (
        lambda run: (run.path / "config.yaml").write_text(yaml.safe_dump(run.config | {"seed": 9})),
        "config.yaml is not the configuration",
    ),
    "learned gone": (lambda run: (run.path / "learned.safetensors").unlink(), "does not exist"),
    "learned elsewhere": (lambda run: other(run, tensors={"context": torch.zeros(2, 3), "gate": torch.zeros(1)}), "measured"),
    "learned metadata": (lambda run: metadata(run.path / "learned.safetensors", method="tecoa"), "is damaged"),
    "another method": (lambda run: other(run, method="tecoa"), "method is 'tecoa', and 'nap' in config.yaml"),
    "other options": (lambda run: other(run, options={"depth": 3}), "options is"),
    "another backbone": (lambda run: other(run, base_sha256="f01"), "another backbone"),
    "other classes": (lambda run: other(run, classes=("c", "b", "a")), "its classes"),
    "an audit": (lambda run: (run.path / "audit.json").write_text("[]"), "audit.json: it is no report"),
    "no configuration": (lambda run: (run.path / "config.yaml").unlink(), "is no run"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "words"), FAULTS.values(), ids=FAULTS)
def test_whatever_was_changed_is_named(run, fault, words):
    fault(run)
    lines = bad(run)
    assert any(words in line for line in lines), lines
    assert not any("\n" in line for line in lines)


def test_the_report_of_an_audit_is_compared_with_the_records(run):
    record = run.record()
    report = {"record": record.model_dump(mode="json"), "clean": record.clean.model_dump(mode="json")}
    report["radii"] = [{"eps": record.threat.eps, "robust": record.robust.model_dump(mode="json")}]
    path = run.path / "audit.json"
    path.write_text(json.dumps(report))
    assert len(bad(run)) == 0
    report["radii"][0]["robust"]["count"] = 4
    path.write_text(json.dumps(report))
    assert "its numbers are not those of the records" in bad(run)[0]
