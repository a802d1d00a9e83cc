"""What a run folder promises: one identity, resumable, one writer, one clear line when something is wrong."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from ironclip.core.errors import CheckpointError, RunError, UsageError
from ironclip.records.folder import RunFolder, run_name
from ironclip.records.learned import Learned
from ironclip.records.lock import locked
from ironclip.records.record import BackboneFacts, DataFacts, Sample, Setup
from ironclip.records.summary import summarise

CONFIG = {"method": "nap+advmask", "dataset": "photos/birds", "backbone": "ViT-B-32/openai", "shots": 16, "seed": 1, "lr": 1e-05}


def sample(index: int, **changes) -> Sample:
    return Sample(**{"index": index, "label": 0, "clean": 0, "clean_margin": -1.0, "margin": -0.5} | changes)


def record(samples):
    return summarise(Setup(method="nap", backbone=BackboneFacts(name="x"), data=DataFacts(name="toy")), samples, {})


def test_the_name_says_what_the_run_is(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    assert run.path.name == run_name(CONFIG)
    assert run.path.name.startswith("nap+advmask-photos-birds-ViT-B-32-openai-16shot-seed1-")
    assert run_name(CONFIG | {"shots": None}).startswith("nap+advmask-photos-birds-ViT-B-32-openai-seed1-")
    assert run.config == CONFIG
    assert run.status == "new"


def test_the_same_configuration_is_the_same_run_whatever_the_order_of_its_keys(tmp_path):
    backwards = dict(reversed(CONFIG.items())) | {"shots": 16}
    assert RunFolder.create(CONFIG, root=tmp_path).path == RunFolder.create(backwards, root=tmp_path).path
    assert RunFolder.create(CONFIG | {"lr": 2e-5}, root=tmp_path).path != RunFolder.create(CONFIG, root=tmp_path).path


def test_numbers_survive_the_configuration_file_exactly(tmp_path):
    values = {"eps": 4 / 255, "tiny": 1e-300, "huge": 1e22, "no": None, "text": "1e-3", "flag": True, "list": (1, 2.5)}
    run = RunFolder.create(CONFIG | values, root=tmp_path)
    assert run.config == CONFIG | values | {"list": [1, 2.5]}
    assert run.path.name.endswith(run.config_hash[:8])


def test_a_folder_of_another_run_is_refused(tmp_path):
    RunFolder.create(CONFIG, out=tmp_path / "mine")
    with pytest.raises(RunError, match=r"mine holds another run \(nap.*; choose another --out or remove it"):
        RunFolder.create(CONFIG | {"seed": 2}, out=tmp_path / "mine")


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(RunError, match="holds other files"):
        RunFolder.create(CONFIG, out=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({key: CONFIG[key] for key in CONFIG if key != "seed"}, "seed is missing"),
        (CONFIG | {"lr": float("nan")}, "a configuration holds numbers"),
        (CONFIG | {"lr": torch.ones(1)}, "Tensor is not JSON"),
    ],
)
def test_a_configuration_that_cannot_be_stored_is_refused(tmp_path, config, message):
    with pytest.raises(UsageError, match=message):
        RunFolder.create(config, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(RunError, match=r"is no run: it has no config\.yaml"):
        RunFolder.open(tmp_path / "typo")
    (tmp_path / "config.yaml").write_text("just text")
    with pytest.raises(RunError, match="must hold keys and values"):
        RunFolder.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="Not a directory"):
        RunFolder.create(CONFIG, root=tmp_path / "runs")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.append([sample(0)])
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    writes = [
        lambda: run.append([sample(1)]),
        lambda: run.save_record(record([sample(0)])),
        lambda: run.log({"epoch": 1}),
        lambda: run.save_state({"epoch": 1}),
        lambda: run.save_learned(Learned({"a": torch.ones(3)}, "f00", "nap", {}, ("a", "b"))),
        lambda: run.save_environment("cpu"),
        lambda: RunFolder.create(CONFIG | {"seed": 5}, root=tmp_path),
    ]
    for write in writes:
        with pytest.raises(RunError) as caught:
            write()
        assert os.strerror(number) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.name != "log.jsonl"} == before
    assert run.entries() == []


def test_the_status_follows_the_run(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    seen = [run.status]
    run.save_state({"epoch": 1})
    seen.append(run.status)
    run.save_learned(Learned({"a": torch.ones(3)}, "f00", "nap", {"length": 4}, ("a", "b")))
    seen.append(run.status)
    run.save_record(record([sample(0)]))
    assert [*seen, run.status] == ["new", "training", "trained", "evaluated"]
    assert not (run.path / "state.safetensors").exists()


def test_a_training_killed_at_its_end_leaves_no_state(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.save_state({"epoch": 1})
    state = (run.path / "state.safetensors").read_bytes()
    with run.lock():
        assert (run.path / "state.safetensors").exists()  # it goes on from there
    run.save_learned(Learned({"a": torch.ones(3)}, "f00", "nap", {"length": 4}, ("a", "b")))
    (run.path / "state.safetensors").write_bytes(state)  # as it is where the process dies before it is removed
    with run.lock():
        assert not (run.path / "state.safetensors").exists()


def test_samples_survive_a_torn_line(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.append([sample(0), sample(1, adversarial={"pgd": 3}, broken_by="pgd")])
    path = run.path / "samples.jsonl"
    path.write_bytes(path.read_bytes() + b'{"index": 2, "lab')
    assert [s.index for s in run.samples()] == [0, 1]
    run.append([sample(2)])
    assert [s.index for s in run.samples()] == [0, 1, 2]
    assert run.samples()[1] == sample(1, adversarial={"pgd": 3}, broken_by="pgd")


def test_a_damaged_line_is_named(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.append([sample(0)])
    with (run.path / "samples.jsonl").open("a") as file:
        file.write('{"index": 1, "colour": 3}\n')
    with pytest.raises(RunError, match=r"samples.jsonl, line 2 is no sample; remove the file"):
        run.samples()


def test_a_record_comes_back_equal(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    assert run.record() is None
    run.append([sample(0), sample(1, clean=1, broken_by="clean")])
    run.save_record(record([sample(0), sample(1, clean=1, broken_by="clean")]))
    assert run.record() == record([sample(0), sample(1, clean=1, broken_by="clean")])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("{}", r"is no record: method: Field required"), ('{"colour": 1}', "is no record")],
)
def test_a_damaged_record_is_one_line(tmp_path, text, message):
    run = RunFolder.create(CONFIG, root=tmp_path)
    (run.path / "record.json").write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        run.record()
    assert "\n" not in str(caught.value)


def test_further_evaluations_lie_beside_the_first(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    first = run.evaluation({"eps": 1 / 255}, "linf")
    second = run.evaluation({"eps": 4 / 255}, "linf 4/255")
    assert first.path == run.path
    assert second.path.parent == run.path / "evaluations"
    assert second.path.name.startswith("linf-4-255-")
    assert run.evaluation({"eps": 4 / 255}, "linf 4/255").path == second.path
    assert run.evaluation({"eps": 1 / 255}).path == run.path
    assert [place.path for place in run.evaluations()] == [first.path, second.path]


def test_training_goes_on_where_it_stood_and_the_log_forgets_what_comes_again(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    optimizer = {"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.randn(3)}}, "param_groups": [{"betas": (0.9, 0.999)}]}
    run.log({"epoch": 1})
    run.save_state({"epoch": 1, "optimizer": optimizer, "rng": torch.get_rng_state()})
    run.log({"epoch": 2})
    state = run.load_state()
    assert run.entries() == [{"epoch": 1}]
    assert state["epoch"] == 1
    assert torch.equal(state["rng"], torch.get_rng_state())
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], optimizer["state"][0]["exp_avg"])
    assert state["optimizer"]["param_groups"] == optimizer["param_groups"]
    run.log({"epoch": 2})
    assert run.entries() == [{"epoch": 1}, {"epoch": 2}]


def test_a_training_killed_before_its_first_state_starts_with_an_empty_log(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.log({"epoch": 1})
    assert run.load_state() is None
    assert run.entries() == []


def test_a_creation_that_was_killed_can_be_repeated(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".config.yaml.x1.tmp").touch()
    assert RunFolder.create(CONFIG, out=tmp_path / "mine").config == CONFIG


def test_no_state_is_none_and_a_foreign_one_is_an_error(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    assert run.load_state() is None
    (run.path / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="is damaged"):
        run.load_state()


def test_a_folder_has_one_writer(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    with run.lock():
        with pytest.raises(RunError, match=rf"seed1-\w+ is in use by process {os.getpid()}; wait for it"), run.lock():
            pass
        other = f"from pathlib import Path; from ironclip.records.lock import locked\nwith locked(Path({str(run.path)!r})): pass"
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert f"is in use by process {os.getpid()}" in done.stderr
    with run.lock():
        pass


def test_a_lock_ends_with_its_process_and_is_not_kept_by_its_children(tmp_path):
    script = f"""
import os, sys, time
from pathlib import Path
from ironclip.records.lock import locked
with locked(Path({str(tmp_path)!r})):
    if os.fork() == 0:
        print("the child runs", flush=True)
        os.close(1)
        time.sleep(20)
        os._exit(0)
    time.sleep(20)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(RunError, match="is in use"), locked(tmp_path):
                pass
            process.kill()
            process.wait()
            with locked(tmp_path):
                pass
        finally:
            os.killpg(process.pid, 9)


def test_the_environment_names_what_it_runs_on(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.save_environment("cpu")
    assert run.environment["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert run.environment["device"] == "cpu"


def test_reading_a_run_imports_no_torch(tmp_path):
    run = RunFolder.create(CONFIG, root=tmp_path)
    run.append([sample(0)])
    run.save_record(record([sample(0)]))
    script = f"""
import sys
from pathlib import Path
from ironclip.records.folder import RunFolder
run = RunFolder.open(Path({str(run.path)!r}))
print(run.record(), run.status, run.samples(), run.environment)
sys.exit("torch" in sys.modules or "numpy" in sys.modules or "scipy" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
