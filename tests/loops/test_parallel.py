"""Training on two processes equals training on one; parts and sums on their own."""

import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.testing import assert_close

from ironclip import attacks, defenses
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import DataError, RunError, UsageError
from ironclip.core.schedule import Schedule
from ironclip.core.signals import SOON, Leaving, finishing
from ironclip.core.types import Batch
from ironclip.loops.parallel import Parallel, launch, raised
from ironclip.loops.training import fit

CLASSES = ("cat", "dog", "car")


def batches(epoch, sizes=(6, 5, 1)):
    """The last batch has fewer images than processes."""
    draw = torch.Generator().manual_seed(epoch)
    start, found = 0, []
    for size in sizes:
        images = torch.rand(size, 3, 32, 32, generator=draw)
        found.append(Batch(images, torch.arange(size) % 3, torch.arange(start, start + size), CLASSES))
        start += size
    return found


def trained(parallel, path):
    """Learned tensors and the losses of the epochs, written by the first process."""
    torch.set_num_threads(1)
    backbone = tiny_backbone()
    defense = defenses.build(
        "nap", backbone, CLASSES, generator=torch.Generator().manual_seed(5), given={"length": 2, "depth": 2}
    )
    losses = []

    def tell(event):
        if event["event"] == "epoch":
            losses.append(event["terms"])

    attack = attacks.build("pgd", eps=4 / 255, steps=2, keep="last")
    schedule = Schedule(epochs=2, batch_size=6, lr=0.01, warmup_epochs=0)
    fit(defense, backbone, batches, attack, schedule=schedule, seed=3, callback=tell, parallel=parallel)
    if parallel is None or parallel.rank == 0:
        torch.save({"learned": defense.learned(), "losses": losses}, path)


class Fake:
    """A fabric of two processes in which the other one has sent `other`."""

    global_rank, world_size, device = 0, 2, "cpu"

    def __init__(self, other=0.0):
        self.other = other

    def all_reduce(self, tensor, reduce_op):
        assert reduce_op == "sum"
        return tensor + self.other


def test_parts_make_up_the_batch_and_shares_add_up():
    (batch,) = batches(1, sizes=(5,))
    fakes = [Fake(), Fake()]
    fakes[1].global_rank = 1
    parts = [Parallel(fake).part(batch) for fake in fakes]
    assert sorted(torch.cat([part.indices for part, _ in parts]).tolist()) == list(range(5))
    assert [share for _, share in parts] == [0.6, 0.4]
    (single,) = batches(1, sizes=(1,))
    assert Parallel(Fake()).part(single)[1] == 0.5


def test_gradients_are_added_and_missing_ones_are_nothing():
    a, b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    a.grad = torch.tensor([1.0, 3.0])
    Parallel(Fake(other=10.0)).add_gradients([a, b], 0.5)
    assert_close(a.grad, torch.tensor([10.5, 11.5]))
    assert_close(b.grad, torch.tensor([10.0, 10.0]))
    assert Parallel(Fake(other=1.0)).means({"ce": 2.0}, 0.5) == {"ce": 2.0}


def test_every_process_has_the_rates_of_one():
    backbone, seen = tiny_backbone(), []
    for parallel in (None, Parallel(Fake())):
        defense = defenses.build("apt", backbone, CLASSES, generator=torch.Generator().manual_seed(5), given={"length": 1})
        rates = []
        schedule = Schedule(epochs=2, batch_size=6, lr=0.01, warmup_steps=2)
        attack = attacks.build("pgd", eps=4 / 255, steps=1, keep="last")
        tell = lambda event, rates=rates: rates.append(event["lr"]) if event["event"] == "step" else None  # noqa: E731
        fit(defense, backbone, batches, attack, schedule=schedule, callback=tell, parallel=parallel)
        seen.append(rates)
    assert seen[0] == seen[1] == [schedule.lr_at_step(step, 6) for step in range(6)]


def test_one_process_is_not_several():
    with pytest.raises(UsageError, match="at least 2"):
        launch(trained, processes=1)


def test_one_device_is_not_several():
    with pytest.raises(UsageError, match="several processes need a device each, and cuda:1 is one"):
        launch(trained, processes=2, device="cuda:1")


def test_what_a_process_raised_is_raised_here():
    text = "-- Process 1 terminated with the following error:\nTraceback ...\nironclip.core.errors.DataError: no image: none"
    error = raised(text)
    assert (type(error), str(error)) == (DataError, "no image: none")
    assert type(raised("Traceback\nKeyError: 3")) is RuntimeError


class Dying:
    """A fabric whose processes end as they are told; torch says how."""

    def __init__(self, error):
        self.error = error

    def launch(self, *_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ProcessExitedException("signal SIGUSR1", 0, 1, -10), Leaving),
        (ProcessRaisedException("RuntimeError: connection closed by peer", 0, 1), Leaving),
        (ProcessRaisedException("ironclip.core.errors.DataError: no image", 0, 1), DataError),
    ],
)
def test_processes_that_die_of_a_signal_to_leave_have_left(monkeypatch, error, kind):
    """A scheduler's signal goes to all of them, and ends one that has not yet begun to listen."""
    plugins = SimpleNamespace(environments=SimpleNamespace(LightningEnvironment=lambda: None))
    fabric = SimpleNamespace(Fabric=lambda **_: Dying(error), plugins=plugins, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lightning_fabric", fabric)
    monkeypatch.setitem(sys.modules, "lightning_fabric.plugins", plugins)

    def told():
        with finishing():
            signal.raise_signal(SOON[0])
            launch(trained, processes=2)

    with pytest.raises(kind):
        told()
    with pytest.raises((RunError, RuntimeError, DataError)):
        launch(trained, processes=2)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra dist")
    trained(None, tmp_path / "one.pt")
    launch(trained, tmp_path / "two.pt", processes=2, strategy="ddp_fork")
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert one["learned"].keys() == two["learned"].keys()
    for name, tensor in one["learned"].items():
        assert_close(two["learned"][name], tensor, rtol=1e-4, atol=1e-6)
    for mine, other in zip(one["losses"], two["losses"], strict=True):
        assert other == pytest.approx(mine, rel=1e-5)
