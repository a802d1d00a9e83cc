"""kill -9 in the middle of each attack of an evaluation, then the same evaluation: the identical record."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from halfspaces import EPS, HalfSpace, batches
from halfspaces import setup as setup_of
from loops.test_evaluation_resumed import CONFIG

from ironclip.attacks import PGD, AutoAttack
from ironclip.attacks._options import AttackOptions
from ironclip.core.threat import Threat
from ironclip.loops.evaluation import evaluate_into, settings
from ironclip.records.folder import RunFolder
from ironclip.records.record import Record, Setup

SMALL = EPS / 100  # every image that is right withstands it and meets every attack
ATTACKS = {"pgd": PGD(SMALL, steps=6, mode="compact"), **AutoAttack(SMALL, steps=6, queries=20).members}


def setup() -> Setup:
    return setup_of(threat=Threat(eps=SMALL))


def record_into(root: Path) -> Record:
    run = RunFolder.create(CONFIG, root=root)
    with run.lock():
        place = run.evaluation(settings(setup(), ATTACKS))
        record, _ = evaluate_into(place, setup(), HalfSpace(), ATTACKS, batches(1), keep_examples=2)
    return record


def killed_in(root: Path, stage: str) -> int:
    """The status of a child that kills itself in the fourth call of this attack on the second image that meets it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    torch.set_num_threads(1)
    whole, met, calls = AttackOptions.__call__, 0, 0

    def call(self, function, *given, **options):
        nonlocal met
        met += self is ATTACKS[stage]

        def dying(images):
            nonlocal calls
            calls += 1
            if calls == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(images)

        return whole(self, dying if self is ATTACKS[stage] and met == 2 else function, *given, **options)

    AttackOptions.__call__ = call  # type: ignore[method-assign]
    record_into(root)
    os._exit(0)


def test_an_evaluation_killed_in_every_attack_ends_with_the_identical_record(tmp_path: Path) -> None:
    expected = record_into(tmp_path / "calm")
    assert list(ATTACKS) == ["pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    # A process of its own: it forks before torch has started any thread.
    script = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from loops import test_killed_attacks as test
root, seen = Path({str(tmp_path / "killed")!r}), []
for stage in test.ATTACKS:
    status = test.killed_in(root, stage)
    done = sum(len(file.read_text().splitlines()) for file in root.rglob("samples.jsonl"))
    seen.append((stage, status, done, len(list(root.rglob("record.json")))))
print(json.dumps(seen))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen == [[stage, -signal.SIGKILL, place + 2, 0] for place, stage in enumerate(ATTACKS)], done
    record = record_into(tmp_path / "killed")
    assert record.outcome() == expected.outcome()
    run = RunFolder.create(CONFIG, root=tmp_path / "killed")
    assert sorted(sample.index for sample in run.samples()) == list(range(8))
    assert expected.robust.count == 7
    assert not list(run.path.rglob("*.tmp"))
