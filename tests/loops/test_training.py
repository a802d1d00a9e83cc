"""The training loop: the published schedule, resuming bitwise, collapse, errors that name their cause, events."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ironclip.attacks.pgd import PGD
from ironclip.core.errors import CheckpointError, NonFinite, UsageError
from ironclip.core.types import Adaptation, Batch, Defense
from ironclip.loops.training import Schedule, State, collapsed, fit, seeded


class Toy(Defense):
    """A linear classifier of 2x2 images, trained on attacked ones; `bad` and `scale` break it on purpose."""

    def __init__(self, *, bad: str = "", scale: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.offset = nn.Parameter(torch.zeros(3))
        for parameter in self.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        self.bad, self.scale, self.seen = bad, scale, []

    def adaptation(self, backbone, classes):
        return Adaptation()

    def loss(self, backbone, batch, attack, *, adaptation=None):
        function = lambda images: self.scale * (self.layer(images.flatten(1)) + self.offset)  # noqa: E731
        adv = attack(function, batch.images, batch.labels, indices=batch.indices)
        self.seen.append(adv)
        terms = {"adv_ce": cross_entropy(function(adv), batch.labels), "size": 0.01 * self.offset.square().sum()}
        if self.bad == "loss":
            terms["size"] = terms["size"] / 0
        if self.bad == "gradient":
            terms["size"] = (self.offset - self.offset.detach()).square().sum().sqrt()
        return terms

    def parameter_groups(self, lr):
        return [{"params": list(self.layer.parameters()), "lr": lr}, {"params": [self.offset], "lr": 0.1 * lr}]


class Backbone:
    device = torch.device("cpu")


def batches(epoch: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(epoch)
    return [
        Batch(torch.rand(4, 3, 2, 2, generator=draw), torch.arange(4) % 3, torch.arange(4) + 4 * i, ("a", "b", "c"))
        for i in range(3)
    ]


ATTACK = PGD(eps=4 / 255, steps=2, keep="last")


def run(defense, epochs: int = 4, **options):
    schedule = {"lr": 0.1, "batch_size": 4, **options.pop("schedule", {})}
    return fit(
        defense, Backbone(), options.pop("batches", batches), ATTACK, schedule=Schedule(epochs=epochs, **schedule), **options
    )


# ---- schedule


def test_the_learning_rate_is_the_published_list():
    schedule = Schedule(epochs=10, lr=3.5e-3)
    rates = [schedule.lr_at(epoch) for epoch in range(1, 11)]
    assert rates[0] == 1e-5
    assert rates[1:4] == pytest.approx([3.5e-3, 3.414e-3, 3.166e-3], rel=1e-3)
    assert rates[-1] == pytest.approx(3.34e-4, rel=2e-3)
    assert rates[1:] == pytest.approx([1.75e-3 * (1 + math.cos(math.pi * (e - 2) / 10)) for e in range(2, 11)])


def test_other_warm_ups_and_the_constant_schedule():
    assert [Schedule(epochs=4, lr=1.0, warmup_epochs=2, schedule="constant").lr_at(e) for e in range(1, 5)] == [1e-5, 1e-5, 1, 1]
    assert Schedule(epochs=4, lr=1.0, warmup_epochs=0).lr_at(1) == 1.0
    assert Schedule(epochs=1, lr=1.0).lr_at(1) == 1.0  # a warm-up alone would learn nothing
    assert [Schedule(epochs=2, lr=1.0).lr_at(e) for e in (1, 2)] == [1e-5, 1.0]


def test_by_the_step_it_is_open_clips_cosine():
    schedule = Schedule(epochs=3, lr=2.0, warmup_steps=4)
    rates = [schedule.lr_at_step(step, 12) for step in range(12)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * step / 8) for step in range(8)])
    assert [Schedule(lr=2.0, warmup_steps=2, schedule="constant").lr_at_step(step, 4) for step in range(4)] == [1, 2, 2, 2]
    assert Schedule(lr=2.0, warmup_steps=0).lr_at_step(0, 5) == 2.0


def test_by_the_step_every_step_has_its_rate_also_after_a_resume():
    schedule, count = {"warmup_steps": 3}, len(list(batches(1)))
    seen, again, saved = [], [], []

    def note(rates):
        return lambda event: rates.append(event["lr"]) if event["event"] == "step" else None

    whole, rest = Toy(), Toy()
    run(whole, schedule=schedule, callback=note(seen), save=saved.append)
    run(rest, schedule=schedule, callback=note(again), resume=saved[1])
    assert seen == [Schedule(epochs=4, lr=0.1, **schedule).lr_at_step(step, 4 * count) for step in range(4 * count)]
    assert again == seen[2 * count :]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters()))


@pytest.mark.parametrize("by", [{}, {"warmup_steps": 3}], ids=["by the epoch", "by the step"])
def test_an_epoch_has_the_number_of_steps_that_it_says(by):
    class Lying(list):
        def __len__(self):
            return 2

    with pytest.raises(UsageError, match="epoch 1 has 3 batches, but said that it has 2"):
        run(Toy(), schedule=by, batches=lambda epoch: Lying(batches(epoch)))
    with pytest.raises(UsageError, match="epoch 3 has 2 batches, the one before it 3"):
        run(Toy(), schedule=by, batches=lambda epoch: batches(epoch)[: 3 if epoch < 3 else 2])
    with pytest.raises(UsageError, match="need a length, for the learning rate; got list_iterator: pass a list"):
        run(Toy(), schedule=by, batches=lambda epoch: iter(batches(epoch)))


REFUSED = [
    ({"warmup_steps": -1}, "warmup_steps must be a whole number of at least 0; got -1"),
    ({"warmup_steps": 0.5}, "warmup_steps must be a whole number"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
    ({"epochs": 2.5}, "epochs must be a whole number"),
    ({"batch_size": 0}, "batch_size"),
    ({"warmup_epochs": -1}, "warmup_epochs must be a whole number of at least 0"),
    ({"lr": 0.0}, "lr must be positive"),
    ({"lr": float("nan")}, "lr must be positive"),
    ({"lr": float("inf")}, "lr must be positive"),
    ({"warmup_lr": -1.0}, "warmup_lr must be positive"),
    ({"clip_norm": 0.0}, "clip_norm must be positive"),
    ({"momentum": 1.0}, "momentum must be in"),
    ({"weight_decay": -1e-4}, "weight_decay at least 0"),
    ({"optimizer": "adam"}, "optimizer is sgd or adamw"),
    ({"schedule": "step"}, "schedule cosine or constant"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_schedules_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        Schedule(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_steps_are_those_of_a_plain_loop(optimizer):
    defense, plain = Toy(), Toy()
    run(defense, schedule={"optimizer": optimizer, "clip_norm": 0.5})
    schedule = Schedule(epochs=4, lr=0.1)
    kind = {
        "sgd": lambda g: torch.optim.SGD(g, momentum=0.9, weight_decay=5e-4),
        "adamw": lambda g: torch.optim.AdamW(g, weight_decay=5e-4),
    }
    solver = kind[optimizer]([{"params": plain.layer.parameters(), "lr": 0.0}, {"params": [plain.offset], "lr": 0.0}])
    count = 0
    for epoch in range(1, 5):
        for group, ratio in zip(solver.param_groups, (1, 0.1)):
            group["lr"] = ratio * schedule.lr_at(epoch)
        for batch in batches(epoch):
            adv = defense.seen[count]  # the same attacked images
            count += 1
            solver.zero_grad()
            plain.loss(None, batch, lambda *args, adv=adv, **options: adv)
            out = plain.layer(adv.flatten(1)) + plain.offset
            (cross_entropy(out, batch.labels) + 0.01 * plain.offset.square().sum()).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            solver.step()
    for found, expected in zip(defense.parameters(), plain.parameters()):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


# ---- resume


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adamw"}, {"optimizer": "adamw", "clip_norm": 0.1}, {"clip_norm": 0.1}], ids=str
)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_ends_bitwise_like_an_uninterrupted_one(options, stop):
    whole, states = Toy(), []
    run(whole, 5, schedule=options, save=states.append)
    assert [state.epoch for state in states] == [1, 2, 3, 4, 5]
    again, later = Toy(), []
    for parameter in again.parameters():
        parameter.data.zero_()
    run(again, 5, schedule=options, resume=states[stop - 1], save=later.append)
    for found, expected in zip(again.parameters(), whole.parameters()):
        assert torch.equal(found, expected)
    assert len(later) == 5 - stop
    for state, expected in zip(later, states[stop:]):
        assert state.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(state.tensors[name], expected.tensors[name]) for name in state.tensors)


def test_states_are_copies_that_later_epochs_leave_alone():
    states, copies = [], []

    def save(state):
        states.append(state)
        copies.append({name: tensor.clone() for name, tensor in state.tensors.items()})

    run(Toy(), save=save)
    for state, copied in zip(states, copies):
        assert all(torch.equal(state.tensors[name], copied[name]) for name in copied)
    assert not torch.equal(states[0].tensors["learned.offset"], states[-1].tensors["learned.offset"])


def test_a_state_of_another_defence_is_refused_in_one_line():
    state = State(1, {"learned.layer.weight": torch.zeros(5, 12)})
    with pytest.raises(CheckpointError, match="another defence or other options") as caught:
        run(Toy(), resume=state)
    assert "\n" not in str(caught.value)


def test_flags_survive_a_resume():
    assert run(Toy(), resume=State(4, {}, ("collapse",))) == ("collapse",)


# ---- randomness


def test_the_attack_is_keyed_on_seed_and_epoch_and_the_global_state_left_alone():
    one = [batches(1)[0]]
    first, again, other = Toy(), Toy(), Toy()
    state = torch.random.get_rng_state()
    for defense, seed in ((first, 0), (again, 0), (other, 1)):
        run(defense, 2, batches=lambda epoch: one, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.seen[0], again.seen[0])
    assert not torch.equal(first.seen[0], other.seen[0])
    assert not torch.equal(first.seen[0], first.seen[1])


def test_an_attack_without_a_seed_is_taken_as_it_is():
    plain = lambda function, images, labels, **options: images  # noqa: E731
    assert seeded(plain, 3) is plain
    assert seeded(ATTACK, 3).seed == 3
    assert ATTACK.seed == 0


# ---- collapse


def test_constant_outputs_are_a_collapse_and_confident_wrong_ones_are_not():
    assert run(Toy(scale=1e-6)) == ("collapse",)
    assert run(Toy(scale=100.0)) == ()
    assert run(Toy()) == ()


def test_a_run_that_recovers_is_no_collapse():
    class Late(Toy):
        def loss(self, backbone, batch, attack, *, adaptation=None):
            self.scale = 1e-6 if not self.seen else 100.0
            return super().loss(backbone, batch, attack, adaptation=adaptation)

    events = []
    assert run(Late(), batches=lambda epoch: [batches(epoch)[0]], callback=events.append) == ()
    assert [event["flags"] for event in events if event["event"] == "epoch"][:2] == [("collapse",), ()]


def test_the_rule_of_collapse():
    chance = math.log(10)
    assert collapsed({"adv_ce": chance, "kl": 0.001}, 10)
    assert collapsed({"fap.clean_ce": 2.28, "fap.kl": 0.0}, 10)  # the case in lionel-w2/FAP issue 3
    assert not collapsed({"adv_ce": chance, "kl": 0.5}, 10)
    assert not collapsed({"adv_ce": 9.0, "kl": 0.001}, 10)
    assert not collapsed({"adv_ce": chance, "clean_ce": 0.4}, 10)
    assert not collapsed({"features": 0.0}, 10)
    assert not collapsed({}, 10)
    assert collapsed({"nap.adv_ce": 0.3 * chance, "nap.clean_ce": 0.7 * chance}, 10)
    assert not collapsed({"nap.adv_ce": 0.3 * chance, "apt.adv_ce": 0.7 * chance}, 10)


def test_a_loss_that_only_has_the_value_of_chance_as_its_mean_is_no_collapse():
    class Scattered(Toy):
        def loss(self, backbone, batch, attack, *, adaptation=None):
            terms = super().loss(backbone, batch, attack)
            shift = 0.2 * (-1) ** len(self.seen)
            return {"adv_ce": terms["adv_ce"] * 0 + math.log(3) + shift}

    assert run(Scattered(), batches=lambda epoch: batches(epoch)[:2]) == ()


# ---- errors


def test_a_term_that_is_not_finite_is_named():
    with pytest.raises(NonFinite, match=r"the loss term 'size' became (nan|inf); lower the learning rate"):
        run(Toy(bad="loss"))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_the_step(clip):
    defense = Toy(bad="gradient")
    before = defense.offset.detach().clone()
    with pytest.raises(NonFinite, match="the gradient's norm became nan"):
        run(defense, schedule={"clip_norm": clip})
    assert torch.equal(defense.offset, before)


def test_an_epoch_without_batches_is_named():
    with pytest.raises(UsageError, match="epoch 2 has no batches; the training split is empty"):
        run(Toy(), batches=lambda epoch: batches(epoch) if epoch == 1 else [])


def test_a_defence_without_parameters_is_not_trained():
    class Nothing(Defense):
        def adaptation(self, backbone, classes):
            return Adaptation()

        def loss(self, backbone, batch, attack, *, adaptation=None):
            raise AssertionError

    assert run(Nothing()) == ()


def test_training_runs_under_no_grad_of_the_caller():
    defense, plain = Toy(), Toy()
    with torch.no_grad():
        run(defense)
    run(plain)
    assert all(torch.equal(a, b) for a, b in zip(defense.parameters(), plain.parameters()))


# ---- events


def test_events_come_for_every_step_and_epoch_with_weighted_means():
    events, defense = [], Toy()
    sizes = (4, 1)

    def uneven(epoch):
        cut = zip(batches(epoch), sizes)
        return [Batch(batch.images[:size], batch.labels[:size], batch.indices[:size], batch.classes) for batch, size in cut]

    run(defense, 2, batches=uneven, callback=events.append)
    assert [(e["event"], e["epoch"]) for e in events] == [
        ("step", 1),
        ("step", 1),
        ("epoch", 1),
        ("step", 2),
        ("step", 2),
        ("epoch", 2),
    ]
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 1, 2]
    assert {e["epochs"] for e in events} == {2}
    assert [e["lr"] for e in events] == [1e-5] * 3 + [0.1] * 3
    for name in ("adv_ce", "size"):
        first, second, mean = (events[i]["terms"][name] for i in range(3))
        assert mean == pytest.approx((4 * first + second) / 5)
    assert events[-1]["flags"] == ()
    assert not defense.training


def test_what_a_defence_logs_beside_its_loss_reaches_the_events_and_changes_nothing():
    class Telling(Toy):
        def diagnostics(self):
            return {"calls": float(len(self.seen))}

    events = []
    telling, silent = Telling(), Toy()
    run(telling, epochs=2, callback=events.append)
    run(silent, epochs=2)
    assert [e["diagnostics"]["calls"] for e in events if e["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [e["diagnostics"]["calls"] for e in events if e["event"] == "epoch"] == [2, 5]
    assert all(torch.equal(a, b) for a, b in zip(telling.parameters(), silent.parameters(), strict=True))


def test_a_defence_trains_in_training_mode_and_ends_in_evaluation_mode():
    class Dropping(Toy):
        def loss(self, backbone, batch, attack, *, adaptation=None):
            modes.append(self.training)
            return super().loss(backbone, batch, attack, adaptation=adaptation)

    modes: list[bool] = []
    defense = Dropping().eval()
    run(defense, epochs=1)
    assert modes == [True] * 3
    assert not defense.training
