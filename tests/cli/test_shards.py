"""`--shard`, `--workers` and `ironclip merge`: one evaluation by many, and one line where that cannot be."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from marked import MARK, marked

KILLS = int(os.environ.get("IRONCLIP_KILLS", "40"))
EVALUATE = ["evaluate", "mini", "--data", "shapes", "--eps", "1/255", "--attack", "pgd", "--set", "steps=2", "--device", "cpu"]


def results(root: Path) -> tuple[dict, bytes, str]:
    """Record without times, samples and settings of the one run in a folder."""
    (folder,) = (path.parent for path in root.glob("*/config.yaml"))
    record = json.loads((folder / "record.json").read_text())
    record.pop("timing"), record.pop("sha256")
    return record, (folder / "samples.jsonl").read_bytes(), (folder / "settings.json").read_text()


def test_shards_in_any_order_end_with_the_record_of_the_whole(ironclip, tmp_path):
    evaluate = [*EVALUATE, "--limit", "12", "--batch-size", "4"]
    assert ironclip(*evaluate)[0] == 0
    whole = results(tmp_path / "runs")
    (tmp_path / "runs").rename(tmp_path / "whole")

    code, said, _ = ironclip(*evaluate, "--shard", "3/3")
    assert (code, "these are not finished: 1/3, 2/3" in said) == (0, True)
    for wrong, reason in (
        (["--shard", "9/8"], "--shard is k/n with k from 1 to n"),
        (["--shard", "1/3", "--batch-size", "5"], "under other settings: its batch_size is 4, not 5"),
        (["--shard", "1/3", "--workers", "2"], "leave one of them out"),
        (["--shard", "1/3", "--targeted", "next"], "--targeted looks at all images"),
        (["--workers", "0"], "--workers is a number from 1 to"),
    ):
        code, _, said = ironclip(*evaluate, *wrong)
        assert (code, reason in said, said.count("\n")) == (2, True, 1), (wrong, said)
    run = str(next((tmp_path / "runs").glob("*/config.yaml")).parent)
    code, _, said = ironclip("merge", run)
    assert (code, "2 of 3 shards are missing or not finished: 1/3, 2/3" in said) == (2, True)

    code, said, _ = ironclip(*evaluate, "--shard", "any/8", "--json")
    assert code == 0
    assert json.loads(said)[0]["images"] == 12
    assert results(tmp_path / "runs") == whole
    assert ironclip("merge", run)[0] == ironclip("verify", run)[0] == 0
    assert ironclip("merge", run.replace("runs", "whole"))[0] == 2, "it has no shards"


MODULE = '''
import torch
from torch import nn

class Noisy(nn.Module):
    """Dark against bright, by the mean of the pixels behind noise of the global generator."""
    resolution = 8
    def __init__(self, noise):
        super().__init__()
        self.weight, self.noise = nn.Parameter(torch.tensor(-40.0)), noise
    def forward(self, images):
        above = self.weight * (images.mean((1, 2, 3)) - 0.5) + self.noise * torch.randn(len(images))
        return torch.stack([-above, above], 1)

def plain(classes):
    return Noisy(0.0)

def noisy(classes):
    return Noisy(1.0)
'''


@pytest.mark.parametrize("target", ["plain", "noisy"])
def test_an_audit_in_shards_is_that_of_the_whole_at_every_radius(ironclip, photos, tmp_path, target):
    (tmp_path / "theirs.py").write_text(MODULE)
    audit = [
        "audit",
        f"theirs.py:{target}",
        "--data",
        str(photos),
        "--eps",
        "0.02,0.1,0.2",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    audit += ["--attack", "pgd,square", "--set", "steps=2", "--set", "queries=5", "--diagnostics", "0", "--batch-size", "2"]
    assert ironclip(*audit)[0] == 0
    (tmp_path / "audits").rename(tmp_path / "whole")

    for number in (2, 3):
        code, said, _ = ironclip(*audit, "--shard", f"{number}/3")
        assert (code, "not finished: 1/3" in said) == (0, True)
    code, said, _ = ironclip(*audit, "--shard", "any/5")
    assert (code, "all shards are merged" in said) == (0, True)
    assert ironclip(*audit)[0] == 0

    found = []
    for root in ("whole", "audits"):
        files = sorted((tmp_path / root).glob("*/**/record.json"))
        records = [json.loads(file.read_text()) for file in files if "shards" not in file.parts]
        found.append([{key: value for key, value in each.items() if key not in ("timing", "sha256")} for each in records])
    assert len(found[0]) == 3
    assert found[0] == found[1]
    (report,) = (tmp_path / "audits").glob("*/audit.json")
    assert ironclip("verify", str(report.parent))[0] == 0


def test_pictures_written_in_shards_are_those_of_the_whole(ironclip, tmp_path):
    attack = ["attack", "mini", "--data", "shapes", "--eps", "2/255", "--set", "steps=2", "--limit", "6", "--batch-size", "2"]
    assert ironclip(*attack, "--save", "whole")[0] == 0
    for share in ("3/3", "1/3"):
        code, said, _ = ironclip(*attack, "--save", "parts", "--shard", share)
        assert (code, "not finished: " in said) == (0, True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "parts").glob("*.png")}
    code, _, said = ironclip(*attack, "--save", "parts", "--shard", "2/3", "--seed", "4")
    assert (code, "under other settings: its attack.seed is 0, not 4" in said) == (2, True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").glob("*.png")} == before
    assert ironclip(*attack, "--save", "parts", "--shard", "any/2")[0] == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes(), path.name
    code, _, said = ironclip(*attack, "--save", "whole", "--shard", "1/3")
    assert (code, "holds other files than shards" in said) == (2, True)


@pytest.mark.slow
def test_workers_killed_at_random_moments_end_with_the_record_of_the_whole(ironclip, tmp_path):
    evaluate = [*EVALUATE, "--limit", "160", "--batch-size", "2"]
    assert ironclip(*evaluate)[0] == 0
    whole = results(tmp_path / "runs")
    (tmp_path / "runs").rename(tmp_path / "whole")

    mark, chance, kills = f"workers-{os.getpid()}", random.Random(0), 0
    environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from ironclip.cli import main; main()", *evaluate, "--workers", "2"]
    driver, before = subprocess.Popen(command, env=environment), 0
    while driver.poll() is None:
        time.sleep(chance.uniform(0, 1))
        workers = [pid for pid, _ in marked(mark) if pid != driver.pid]
        if kills == KILLS or not workers or scored(tmp_path) == before:
            continue  # whoever dies before anything gets done is given up
        kills, before = kills + 1, scored(tmp_path)
        if chance.random() < 0.2:
            driver.kill()
            driver.wait()
            driver = subprocess.Popen(command, env=environment)
        else:
            os.kill(chance.choice(workers), signal.SIGKILL)
    print("killed", kills)
    assert driver.wait() == 0
    assert kills > 0
    assert results(tmp_path / "runs") == whole


def scored(folder: Path) -> int:
    """Bytes of samples that the shards hold."""
    return sum(path.stat().st_size for path in folder.glob("runs/*/shards/*/samples.jsonl"))
