"""What is counted, whom the attack is handed, and that neither batches nor interruptions change the outcome."""

import random
from dataclasses import dataclass

import pytest
import torch
from halfspaces import EPS, WHITE, HalfSpace, batches, setup
from torch import Tensor

from ironclip.attacks import FGSM, PGD
from ironclip.core.errors import AttackError, DataError, NonFinite, UsageError
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.loops.evaluation import constants, evaluate
from ironclip.records.record import DataFacts, Record
from ironclip.records.summary import summarise


class Stairs(HalfSpace):
    """The same decision on logits without a slope: gradients are zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sign()


@dataclass(frozen=True)
class Shift:
    """Adds a constant to every pixel."""

    by: float

    def __call__(self, function, images, labels, *, indices=None, loss=None):
        return images + self.by


@dataclass(frozen=True)
class Still:
    def __call__(self, function, images, labels, *, indices=None, loss=None):
        return images


def recorded(classifier, attacks, threat=WHITE, surrogates=(), **options) -> Record:
    found = evaluate(classifier, attacks, batches(), threat, surrogates=surrogates, **options)
    return summarise(setup(threat=threat), found.samples, constants(classifier, attacks, threat, surrogates))


def test_an_image_counts_only_if_it_is_right_clean_and_attacked():
    record = recorded(HalfSpace(), {"fgsm": FGSM(EPS)})
    assert (record.clean.count, record.robust.count, record.images) == (7, 3, 8)
    found = evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(), WHITE)
    assert [sample.broken_by for sample in found.samples] == ["clean", None, "fgsm", "fgsm", "fgsm", "fgsm", None, None]
    assert [sample.robust for sample in found.samples] == [sample.margin < 0 for sample in found.samples]


def test_the_margin_is_that_of_the_worst_picture():
    (sample,) = (s for s in evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(), WHITE).samples if s.index == 6)
    assert sample.clean_margin == pytest.approx(-2 * 20 * 0.04, abs=1e-4)
    assert sample.margin == pytest.approx(-2 * 20 * (0.04 - EPS), abs=1e-4)
    assert sample.distance == pytest.approx(EPS, abs=1e-6)


def test_the_worst_case_over_attacks_is_taken_per_image():
    attacks = {"up": Shift(EPS), "down": Shift(-EPS)}
    early, full = (recorded(HalfSpace(), attacks, stop_early=stop) for stop in (True, False))
    assert early.robust == full.robust
    assert early.robust.count == 3
    assert [(a.attacked, a.broken, a.survivors) for a in early.attacks] == [(7, 2, 5), (5, 2, 3)]
    assert [(a.attacked, a.broken, a.survivors) for a in full.attacks] == [(8, 2, 5), (8, 2, 3)]
    samples = evaluate(HalfSpace(), attacks, batches(), WHITE, stop_early=False).samples
    assert all(sample.adversarial.keys() == {"up", "down"} for sample in samples)
    assert [s.broken_by for s in samples] == ["clean", None, "up", "up", "down", "down", None, None]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_neither_the_size_nor_the_order_of_batches_changes_an_outcome(size):
    attacks = {"pgd": PGD(EPS, steps=2, step_size=EPS / 3, keep="last", seed=3)}
    one = evaluate(HalfSpace(), attacks, batches(8), WHITE)
    order = random.Random(size).sample(range(8), 8)
    other = evaluate(HalfSpace(), attacks, batches(size, order), WHITE)
    assert [s.index for s in other.samples] == list(range(8))
    for mine, theirs in zip(one.samples, other.samples):
        assert theirs.margin == pytest.approx(mine.margin, abs=1e-5)
        assert theirs.model_copy(update={"margin": 0, "clean_margin": 0, "distance": 0}) == mine.model_copy(
            update={"margin": 0, "clean_margin": 0, "distance": 0}
        )


def test_a_weaker_attack_afterwards_leaves_the_worst_margin_and_the_longest_way():
    attacks = {"down": Shift(-EPS), "back": Shift(-EPS / 2), "still": Still()}
    (sample,) = (s for s in evaluate(HalfSpace(), attacks, batches(), WHITE, stop_early=False).samples if s.index == 6)
    assert sample.margin == pytest.approx(-2 * 20 * (0.04 - EPS), abs=1e-4)
    assert sample.distance == pytest.approx(EPS, abs=1e-6)


class OnePixel(HalfSpace):
    """Decides by the mean of the first channel alone."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :1])


def test_a_gradient_is_dead_where_all_of_it_is_zero_and_is_asked_for_only_where_attacks_may():
    def dead(classifier, threat=WHITE, surrogates=()):
        samples = evaluate(classifier, {}, batches(), threat, surrogates=surrogates).samples
        return {sample.dead_gradient for sample in samples}

    assert dead(Stairs()) == {True}
    assert dead(HalfSpace()) == dead(OnePixel()) == {False}
    for knowledge in ("static", "transfer"):
        assert dead(Stairs(), Threat(eps=EPS, knowledge=knowledge), [HalfSpace()]) == {None}
    assert dead(Stairs(), Threat(eps=EPS, knowledge="black-box")) == {None}


def test_more_radius_breaks_no_fewer_images():
    counts = [recorded(HalfSpace(), {"fgsm": FGSM(k / 255)}, Threat(eps=k / 255)).robust.count for k in (1, 4, 8, 16)]
    assert counts == [7, 5, 3, 1]


@pytest.mark.parametrize(
    ("attack", "error", "message"),
    [
        (Shift(EPS + 1e-4), AttackError, r"attack 'cheat' left the ball: image 1 moved by 0\.0314\d\d in linf, but eps is 8/255"),
        (lambda f, x, y, indices: (x - 0.03).where(x > 2, x - 0.9), AttackError, r"left the range of pixels \[0, 1\]"),
        (lambda f, x, y, indices: x * float("nan"), NonFinite, "attack 'cheat' returned NaN or infinity"),
        (lambda f, x, y, indices: x[:, :1], AttackError, r"returned images of shape \(2, 1, 4, 4\) for \(2, 3, 4, 4\)"),
    ],
)
def test_an_attack_that_cheats_is_refused(attack, error, message):
    with pytest.raises(error, match=message):
        evaluate(HalfSpace(), {"cheat": attack}, batches(), WHITE)


def test_the_l2_ball_is_watched_too():
    threat = Threat(norm="l2", eps=0.2)
    recorded(HalfSpace(), {"pgd": PGD(0.2, steps=3, norm="l2")}, threat)
    with pytest.raises(AttackError, match=r"image 1 moved by 0\.2173\d\d in l2, but eps is 0\.2 = "):
        evaluate(HalfSpace(), {"shift": Shift(EPS)}, batches(), threat)


def test_a_picture_that_is_not_misclassified_breaks_nothing():
    record = recorded(HalfSpace(), {"still": Still()})
    assert record.robust == record.clean
    assert [flag.id for flag in record.flags] == ["nothing_perturbed", "one_loss", "resolution"]


def test_zero_gradients_are_flagged_and_a_surrogate_gets_past_them():
    masked = recorded(Stairs(), {"fgsm": FGSM(EPS)})
    assert masked.robust == masked.clean
    assert {"dead_gradient", "nothing_perturbed"} <= {flag.id for flag in masked.flags}
    adaptive = recorded(Stairs(), {"fgsm": FGSM(EPS)}, Threat(eps=EPS, knowledge="adaptive"), [HalfSpace()])
    assert adaptive.robust.count == 3
    assert [(attack.name, attack.survivors) for attack in adaptive.attacks] == [("fgsm", 7), ("fgsm/surrogate1", 3)]


def test_surrogates_that_have_a_name_are_recorded_under_it_once_each():
    smooth = [HalfSpace() for _ in range(3)]
    for surrogate in smooth[1:]:
        surrogate.name = "smooth"
    record = recorded(Stairs(), {"fgsm": FGSM(EPS)}, Threat(eps=EPS, knowledge="adaptive"), smooth)
    assert [attack.name for attack in record.attacks] == ["fgsm", "fgsm/surrogate1", "fgsm/smooth", "fgsm/smooth3"]


def test_a_static_attack_is_made_on_another_classifier_and_says_so():
    threat = Threat(eps=EPS, knowledge="static")
    record = recorded(HalfSpace(), {"fgsm": FGSM(EPS)}, threat, [HalfSpace(-1.0)])
    assert record.robust == record.clean
    assert {flag.id: flag.level for flag in record.flags} == {
        "nothing_broken": "warn",
        "static": "note",
        "one_loss": "warn",
        "resolution": "note",
    }

    @dataclass(frozen=True)
    class Spares:
        """As stored AutoAttack images do: what the surrogate gets wrong is handed over as it was."""

        def __call__(self, function, images, labels, *, indices=None, loss=None):
            return torch.where((indices % 2 == 0).view(-1, 1, 1, 1), images, images + EPS)

    for knowledge in ("static", "transfer"):
        record = recorded(HalfSpace(), {"spares": Spares()}, Threat(eps=EPS, knowledge=knowledge), [HalfSpace()])
        texts = {flag.id: flag.text for flag in record.flags}
        assert texts["unperturbed"] == "3 of 7 images reached the classifier as they were"
        assert texts[knowledge].startswith("made on another classifier")


@pytest.mark.parametrize(
    ("knowledge", "surrogates", "message"),
    [
        ("static", [], "made on another classifier; hand one in"),
        ("transfer", [], "made on another classifier"),
        ("white-box", [HalfSpace()], "surrogates belong to an adaptive"),
        ("black-box", [], "attack 'fgsm' needs gradients, but the threat is black-box"),
    ],
)
def test_the_threat_decides_whom_the_attack_is_handed(knowledge, surrogates, message):
    with pytest.raises(UsageError, match=message):
        evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(), Threat(eps=EPS, knowledge=knowledge), surrogates=surrogates)


def test_an_attack_on_scores_may_be_black_box():
    def climb(function, images, labels, *, indices=None, loss=None):
        up, down = function(images + EPS), function(images - EPS)
        rows = torch.arange(len(labels))
        return torch.where((up[rows, labels] < down[rows, labels]).view(-1, 1, 1, 1), images + EPS, images - EPS)

    assert recorded(Stairs(), {"climb": climb}, Threat(eps=EPS, knowledge="black-box")).robust.count == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda b: Batch(b.images, b.labels + 1, b.indices, b.classes), DataError, r"labels must lie in 0 \.\. 1"),
        (lambda b: Batch(b.images, b.labels, b.indices, ("light", "dark")), DataError, "classes are not the data's"),
        (lambda b: Batch(b.images * 255, b.labels, b.indices, b.classes), DataError, r"in \[0, 1\], before normalisation"),
        (lambda b: Batch(b.images * torch.nan, b.labels, b.indices, b.classes), DataError, "must be finite"),
        (lambda b: Batch(b.images, b.labels, b.indices * 0, b.classes), DataError, "an image comes twice"),
        (lambda b: Batch(b.images[:0], b.labels[:0], b.indices[:0], b.classes), DataError, "there is no image"),
    ],
)
def test_data_that_cannot_be_scored_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        evaluate(HalfSpace(), {}, [change(batch) for batch in batches()], WHITE)


@pytest.mark.parametrize(
    ("classifier", "error", "message"),
    [
        (lambda images: images.flatten(1), DataError, r"2 classes need logits \[3, 2\]; got \[3, 48\]"),
        (lambda images: images.flatten(1)[:, :2] / 0, NonFinite, "the classifier returned NaN or infinity"),
    ],
)
def test_logits_that_cannot_be_scored_are_refused(classifier, error, message):
    with pytest.raises(error, match=message):
        evaluate(classifier, {}, batches(), WHITE)


def test_a_threat_at_another_resolution_or_rounding_is_refused():
    with pytest.raises(UsageError, match="the threat lives at 224 px, but the images have 4"):
        evaluate(HalfSpace(), {}, batches(), Threat(eps=EPS, resolution=224))
    with pytest.raises(UsageError, match="quantised=True, but the images are rounded: none"):
        evaluate(HalfSpace(), {}, batches(), Threat(eps=EPS, quantised=True))


def test_the_callers_state_is_left_as_found():
    model = HalfSpace().train()
    before = torch.get_rng_state(), torch.get_float32_matmul_precision()
    evaluate(model, {"pgd": PGD(EPS, steps=2)}, batches(), WHITE)
    assert model.training
    assert model.slope.requires_grad
    assert model.slope.grad is None
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_float32_matmul_precision() == before[1]


def test_the_callers_autocast_does_not_reach_the_pictures():
    plain = evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(), WHITE)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        cast = evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(), WHITE)
    assert cast.samples == plain.samples


def test_the_callback_hears_how_it_goes():
    heard: list[dict] = []
    evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(4), WHITE, total=8, callback=heard.append)
    assert [event["event"] for event in heard] == ["attack", "batch", "attack", "batch"]
    assert (heard[0]["attack"], heard[0]["attacked"], heard[0]["broken"]) == ("fgsm", 3, 2)
    assert (heard[1]["done"], heard[1]["clean"], heard[1]["robust"]) == (4, 0.75, 0.25)
    assert heard[1]["eta"] > 0
    assert (heard[3]["done"], heard[3]["clean"], heard[3]["robust"], heard[3]["eta"]) == (8, 7 / 8, 3 / 8, 0)


def test_the_first_broken_pictures_can_be_kept():
    found = evaluate(HalfSpace(), {"fgsm": FGSM(EPS)}, batches(), WHITE, keep_examples=3)
    assert [example.index for example in found.examples] == [2, 3, 4]
    for example in found.examples:
        for picture, prediction in ((example.clean, example.clean_prediction), (example.adversarial, example.prediction)):
            assert int(HalfSpace()(picture[None]).argmax()) == prediction


def test_flags_of_numbers_not_to_be_trusted():
    everything_wrong = tuple(range(8))
    found = evaluate(HalfSpace(), {}, batches(wrong=everything_wrong), WHITE)
    data = DataFacts(name="toy", classes=HalfSpace.classes, available=100)
    record = summarise(setup(data=data), found.samples, {})
    assert {flag.id: flag.level for flag in record.flags} == {
        "clean_below_chance": "fail",
        "no_attack": "warn",
        "subset": "note",
        "resolution": "note",
    }


def test_accuracy_is_below_chance_only_where_its_whole_interval_is():
    for wrong, flagged in ((range(5), False), (range(8), True)):
        found = evaluate(HalfSpace(), {}, batches(wrong=tuple(wrong)), WHITE)
        record = summarise(setup(), found.samples, {})
        assert ("clean_below_chance" in {flag.id for flag in record.flags}) is flagged


def test_a_record_names_each_class():
    record = recorded(HalfSpace(), {"fgsm": FGSM(EPS)})
    assert [(c.name, c.images, c.clean, c.robust) for c in record.per_class] == [("dark", 3, 3, 1), ("light", 5, 4, 2)]
    assert record.harmonic == pytest.approx(2 * 7 * 3 / (7 + 3) / 8)
