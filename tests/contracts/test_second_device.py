"""Every method and every attack on a device that is not the CPU, simulated.

Nothing of the CPU meets anything of the device, no CPU generator serves it, no 64-bit float reaches it; the answers are a CPU's.
"""

from collections.abc import Callable, Sequence

import pytest
import tagged
import torch
from tagged import Met, Tagged, move, second_device
from torch import Tensor
from torch.testing import assert_close

from ironclip import attacks, defenses, testtime
from ironclip.backbones import ClipBackbone, assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.tensors import generator
from ironclip.core.types import Batch
from ironclip.protocols.device_check import own_radius

CLASSES = ("cat", "golden retriever", "school bus", "tram")
QUICK = ("apt", "nap", "advmask", "avp_pixel", "tapt", "mta", "pgd", "apgd", "square")  # the others are slow together
WAITS = 150  # .item(), bool() and .tolist() of one call: a loop over images or steps that waits for the device has more


def some(names: Sequence[str]) -> list:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


def batch() -> Batch:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(4), torch.arange(4), CLASSES)


def there(batch: Batch) -> Batch:
    return Batch(Tagged(batch.images), Tagged(batch.labels), Tagged(batch.indices), batch.classes)


def agree(work: Callable[[ClipBackbone, Batch], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The work on the CPU and on the second device gives the same, and waits for the device now and then alone."""
    here = work(tiny_backbone(), batch())
    backbone = tiny_backbone()
    with second_device(monkeypatch):
        found = work(move(backbone), there(batch()))
    found = found.inner if isinstance(found, Tagged) else found
    assert_close(found, here, atol=1e-3, rtol=1e-4)
    assert len(tagged.waits) <= WAITS, f"{len(tagged.waits)} waits for the device"


@pytest.mark.parametrize("name", some(defenses.NAMES))
def test_a_training_step_stays_on_its_device(name, monkeypatch):
    def step(backbone: ClipBackbone, given: Batch) -> Tensor:
        options = {"length": 4} if "length" in defenses.options(name) else {}
        defense = move_like(defenses.build(name, backbone, CLASSES, generator=generator(1), given=options), backbone)
        defense.prepare(backbone, [batch()])
        if not defenses.method(name).learns:
            return torch.zeros(())
        terms = defense.loss(backbone, given, attacks.build("pgd", eps=4 / 255, steps=2))
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        return total.detach()

    agree(step, monkeypatch)


def move_like(defense, backbone):
    return move(defense) if backbone.device.type == "meta" else defense


@pytest.mark.parametrize("name", some(testtime.NAMES))
def test_an_answer_stays_on_its_device(name, monkeypatch):
    def answer(backbone: ClipBackbone, given: Batch) -> Tensor:
        method = testtime.build(name, {"views": 4} if "views" in testtime.options(name) else {})
        base = assemble(backbone, CLASSES)
        method.prepare(base, iter([batch()]))
        with torch.no_grad():
            return method(base)(given.images).softmax(1)

    agree(answer, monkeypatch)


@pytest.mark.parametrize("name", some([name for name in attacks.CATALOGUE if name != "transfer"]))
def test_an_attack_stays_on_its_device(name, monkeypatch):
    known = set(attacks.kind(name).__dataclass_fields__) if name not in attacks.FIXED else set()
    short = {option: value for option, value in (("steps", 3), ("queries", 10)) if option in known}

    def attacked(backbone: ClipBackbone, given: Batch) -> Tensor:
        attack = attacks.build(name, **own_radius(name, 1 / 255), **short)
        return attack(assemble(backbone, CLASSES), given.images, given.labels, indices=given.indices)

    agree(attacked, monkeypatch)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda x: x + torch.rand(4), "meets one of the CPU"),
        (lambda x: torch.rand(4)[x > 0], "meets one of the CPU"),
        (lambda x: x.new_empty(4).uniform_(generator=torch.Generator()), "CPU generator"),
        (lambda x: x.double(), "float64 on a device that has none"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_what_a_device_refuses_is_found(fault, words, monkeypatch):
    with second_device(monkeypatch), pytest.raises(Met, match=words):
        fault(Tagged(torch.rand(4)))


def test_waiting_for_the_device_is_counted(monkeypatch):
    with second_device(monkeypatch):
        numbers = Tagged(torch.arange(3.0))
        assert [float(each) for each in numbers] + numbers.tolist() == [0, 1, 2, 0, 1, 2]
        assert float(numbers[[2, 0]].sum()) == 2.0
    assert len(tagged.waits) == 5
