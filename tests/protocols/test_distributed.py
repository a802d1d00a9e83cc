"""One run trained by several processes: who writes, what is refused, and that it learns what one process learns."""

import importlib.util

import pytest
import torch
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.loops.parallel import Parallel
from ironclip.protocols.distributed import train_together
from ironclip.protocols.few_shot import train
from ironclip.protocols.resolve import resolve

CHANGES = ["epochs=2", "attack.steps=1", "batch_size=20"]


def config(method: str = "apt", *changes: str):
    return resolve(method, "shapes", given={"backbone": "mini", "shots": 1}, changes=[*CHANGES, *changes])


class Second:
    """The second of two processes, of which the first one sends nothing."""

    global_rank, world_size, device = 1, 2, torch.device("cpu")

    def all_reduce(self, tensor, reduce_op):
        return tensor

    def barrier(self):
        pass


def test_only_the_first_process_writes(tmp_path):
    run = train(config("apt", "epochs=1"), out=tmp_path / "run", parallel=Parallel(Second()))
    assert {path.name for path in run.path.iterdir()} <= {"config.yaml", ".lock"}


@pytest.mark.parametrize("method", ["defeat", "advmask", "apt+advmask"])
def test_a_method_that_looks_across_a_batch_is_refused_before_anything_is_written(tmp_path, method):
    made = resolve(method, "shapes", given={"backbone": "mini", "shots": 1})
    with pytest.raises(UsageError, match="looks across the images of a batch"):
        train(made, out=tmp_path / "run", parallel=Parallel(Second()))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("lightning_fabric") is not None, reason="the extra dist is here")
def test_without_the_extra_it_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"needs the extra: pip install 'ironclip\[dist\]'"):
        train_together(config(), processes=2, out=tmp_path / "run")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_each_goes_on_where_the_other_stopped(tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra dist")
    one = train(config(), out=tmp_path / "one")
    two = train_together(config(), processes=2, out=tmp_path / "two")

    class Stopped(Exception):
        pass

    def stop(event):
        if event["event"] == "step" and event["epoch"] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(config(), out=tmp_path / "three", callback=stop)
    three = train_together(config(), processes=2, out=tmp_path / "three")
    expected = one.load_learned().tensors
    for run in (two, three):
        for name, tensor in run.load_learned().tensors.items():
            assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
        assert [entry["epoch"] for entry in run.entries() if entry["event"] == "epoch"] == [1, 2]
