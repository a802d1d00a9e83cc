"""Which function the inner attack of a training is handed, over every method that learns: a new method is tested by existing.

A recording attack stands in for the real one. What it is handed must give the answers of the defence as it is now (in a stack:
of all parts together), not those of the backbone or of the defence's start. All learned tensors are moved far from their start
first, so that these differ by far more than rounding. Methods whose paper attacks another function on purpose say so in CASES.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, normalize
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.types import Adaptation, Batch
from ironclip.defenses import NAMES, build, method, options

TEMPLATE = "This is a photo of a {}"
CLASSES = ("cat", "golden_retriever", "school bus", "tram")
SMALL = {"length": 4}
FAR = 0.3  # logits of the defence and of the undefended model differ by more than this; rounding is below 1e-4
EVERYTHING, LATER_HALF, NOTHING = 0, 3, 6  # the first image that is attacked


def own(backbone, defense, whole):
    """What is trained, all of it."""
    return assemble(backbone, CLASSES, whole)


def own_features(backbone, defense, whole):
    """FARE attacks the distance of features, so it is handed the tuned tower."""
    return assemble(backbone, CLASSES, whole).encode_image


def described(backbone, defense, whole):
    """SAFT attacks the answers to all its descriptions; without a file that is one, the template's."""
    return lambda images: own(backbone, defense, whole)(images)[:, None]


def frozen_tower(backbone, defense, whole):
    """AdvPT attacks the frozen image tower, which knows no prompt."""
    return backbone.encode_image


def fixed_words(backbone, defense, whole):
    """APT "constant": the fixed prompt in place of the learned words, everything else as it is trained."""
    return assemble(backbone, CLASSES, replace(whole, context=None, templates=("a photo of a {}",)))


def framed(backbone, defense, whole):
    """FAP's AdvVP: the frame is there in training, and missing in the classifier that is evaluated."""
    return assemble(backbone, CLASSES, replace(whole, pixels=(defense.frame, *whole.pixels)))


def cosines(backbone, defense, images):
    """Of the original tower's features and the defence's prompts."""
    words = Adaptation(templates=tuple(getattr(defense, "templates", ())))
    return assemble(backbone, CLASSES, words)(images) / backbone.spec.logit_scale


@dataclass(frozen=True)
class Case:
    """A method with options, and what its inner attack must be handed.

    Args:
        sees: (backbone, defence, whole adaptation) -> function.
        first: the first image of the batch that is attacked.
        raises: the loss that is ascended: "ce", "kl" from the clean prediction, "original" or "tuned" feature distance,
            "alignment" with the original's softened prediction.
        weight: of the term "adv_ce", where there is one.
    """

    name: str
    given: dict[str, Any] = field(default_factory=dict)
    sees: Callable = own
    first: int = EVERYTHING
    raises: str = "ce"
    weight: float = 1.0

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{key}={value}" for key, value in self.given.items())])


SPECIAL = (
    Case("adapt", weight=6.0),
    Case("adapt", {"objective": "kl", "depth": 1}),
    Case("advclip_lora", first=NOTHING),  # one perturbation for all images; the attack only says how large
    Case("advclip_lora", {"inner": "image"}),
    Case("advflyp", sees=own_features, raises="captions both ways"),
    Case("agft", raises="alignment"),
    Case("agft", {"train_scale": 50.0, "target_ratio": 1.0}, raises="alignment"),
    Case("comp_tga", {"tga_norm": "feature"}),
    Case("qt_aft", sees=own_features, raises="captions and original"),
    Case("saft", sees=described, raises="described"),
    Case("simclip", sees=own_features, raises="original"),
    Case("simclip", {"target": "siamese"}, sees=own_features, raises="original"),
    Case("advpt", sees=frozen_tower, raises="kl"),
    Case("advvlp", {"mix": "half"}, first=LATER_HALF),
    Case("advvlp", {"mix": "clean"}, first=NOTHING),
    Case("advvlp", {"term": "kl"}, raises="kl"),
    Case("advmask", {"alignment": "none"}),
    Case("advmask", {"alignment": "kl", "detach_clean": True}),
    Case("advmask", {"alignment": "js", "targets": "both"}),
    Case("advmask", {"align_tokens": "cls", "layers": (1,)}),
    Case("apd", {"ce_on": "clean", "sides": "text"}),
    Case("apd", weight=0.5),
    Case("apd", {"teacher_epochs": 1}, weight=0.5),
    Case("apt", {"strategy": "constant"}, sees=fixed_words),
    Case("apt", {"strategy": "perturbed", "prompt_step": 0.1}),
    Case("apt", {"class_specific": True, "position": "middle"}),
    Case("avp_pixel", {"frame_at_test": False}, sees=framed),
    Case("avp_pixel", {"tokens": 0}),
    Case("capt", {"guide": "none"}),
    Case("capt", {"inner": "kl"}, raises="kl"),
    Case("capt", {"lam": 0.0}, first=NOTHING),
    Case("capt", {"prompts": "image", "alpha_mode": "constant", "alpha": 1.0}),
    Case("defeat", {"decay": 0.0, "fusion": "probs"}),
    Case("defeat", {"reconstruct": "pixels", "fusion_weight": 0.0}),
    Case("defeat", {"fusion_weight": "adaptive", "length": 0}),
    Case("fap", raises="kl"),
    Case("fap", {"direction": "vision2text", "term": "mae"}, raises="kl"),
    Case("fare", sees=own_features, raises="original"),
    Case("fare", {"trades": True}, sees=own_features, raises="tuned"),
    Case("fare", {"clean_weight": 1.0}, sees=own_features, raises="original", first=NOTHING),
    Case("nap", {"mix": "half_batch"}, first=LATER_HALF),
    Case("nap", {"adv_weight": 0.5}, weight=0.5),
    Case("nap", {"depth": 0}),
    Case("nap", {"refiner_layers": 0, "first_prompt": "before_ln_pre"}),
    Case("paft", {"normalize": True, "init": "zero_shot"}),
    Case("pmg_aft", {"normalisation": "imagenet", "detach_clean": True}),
    Case("tecoa", {"adv_weight": 0.5}, weight=0.5),
    Case("tecoa", {"adv_weight": 0.0}, first=NOTHING),
    Case("tecoa", {"interpolation": 0.3}),
    Case("tecoa", {"lora_rank": 2, "text_tune": "all"}),
    Case("tga_zsr", {"alpha": 0.0}),
)
TRAINED = [name for name in NAMES if method(name).learns]
PLAIN = [case for case in SPECIAL if not case.given]
CASES = [*SPECIAL, *(Case(name) for name in TRAINED if name not in {case.name for case in PLAIN})]
STACKS = (
    ("nap", "advmask"), ("advmask", "apt"), ("capt", "advmask"), ("advmask", "defeat"), ("fap", "tecoa"),
    ("tecoa", "apt"), ("fare", "apt"), ("pmg_aft", "nap"), ("tga_zsr", "apt"), ("avp_pixel", "advmask"), ("paft", "advmask"),
    ("advpt", "advmask"), ("apd", "advmask"), ("adv_vpt", "apt"), ("apt", "advmask", "avp_pixel"), ("advmaple", "advmask"),
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.rand(6, 3, 32, 32, generator=draw), torch.tensor([0, 1, 2, 3, 1, 2]), torch.arange(40, 46), CLASSES)


def pushed(images):
    """Other images in the ball: what the recording attack returns."""
    return (images + torch.tensor([4, -4]).repeat(images.shape[-1] // 2) / 255).clamp(0, 1)


class Recorder:
    """An attack that writes down what it is handed."""

    start = "uniform"

    def __init__(self):
        self.calls = []

    def __call__(self, function, images, labels, *, indices=None, loss=None):
        with torch.no_grad():
            answer = function(images)
        self.calls.append({"answer": answer, "images": images, "labels": labels, "indices": indices, "loss": loss})
        return pushed(images)


def trained(name, given, backbone, batch):
    """The defence in training, its learned tensors far from where they start."""
    small = {key: value for key, value in ((key, SMALL.get(key.rpartition(".")[2])) for key in options(name)) if value}
    defense = build(name, backbone, CLASSES, generator=torch.Generator().manual_seed(0), given={**small, **given})
    defense.train()
    defense.prepare(backbone, [batch])
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in defense.parameters():
            size = float(parameter.abs().mean())
            parameter += torch.randn(parameter.shape, generator=draw).to(parameter) * (size or 0.2)
    return defense


@torch.no_grad()
def expected(case, backbone, defense, batch, whole):
    """What the recorder must have seen, computed before the loss, which may move DEFEAT's codes."""
    function, clean = case.sees(backbone, defense, whole), own(backbone, defense, whole)
    tower = assemble(backbone, CLASSES, whole).encode_image if case.raises == "tuned" else backbone.encode_image
    return {
        "answer": function(batch.images)[case.first :],
        "clean": clean(batch.images),
        "features": tower(batch.images),
        "original": cosines(backbone, defense, batch.images),
        "scale": backbone.spec.logit_scale,
        "tau": getattr(defense, "tau", torch.zeros(())).detach().clamp(0, 4.6052).exp(),
        "captions": assemble(backbone, CLASSES, Adaptation(templates=(TEMPLATE,))).text_features[batch.labels],
        "adv_ce": case.weight * cross_entropy(function(pushed(batch.images)).flatten(1), batch.labels),
    }


def check(call, case, batch, known):
    """One call of the recorder against one case."""
    assert call["images"].equal(batch.images[case.first :])
    assert call["indices"].equal(batch.indices[case.first :])
    assert_close(call["answer"], known["answer"], atol=1e-3, rtol=1e-4)
    if case.raises in ("ce", "kl"):
        assert call["labels"].equal(batch.labels[case.first :])
    labels, other = call["labels"], known["answer"].flip(0) + 0.1 * known["answer"]
    raised = cross_entropy(other, labels, reduction="none") if case.raises == "ce" else None
    if case.raises == "ce" and case.given.get("strategy") != "perturbed":
        assert call["loss"] is None  # the attack's own
        return
    if case.raises == "kl":
        source = known["answer"] if case.sees is frozen_tower else known["clean"]
        raised = kl_div(other.log_softmax(1), source.log_softmax(1), log_target=True, reduction="none").sum(1)
    elif case.raises.startswith("captions"):
        logits = (known["tau"] if "original" in case.raises else known["scale"]) * normalize(other, dim=-1) @ known["captions"].T
        equal = (batch.labels[:, None] == batch.labels) & ~torch.eye(len(batch), dtype=torch.bool)
        logits, rows = logits.masked_fill(equal, -torch.inf), torch.arange(len(batch))
        there, back = (cross_entropy(each, rows, reduction="none") for each in (logits, logits.T))
        raised = (other - known["features"]).square().sum(1) + 10 * there if "original" in case.raises else (there + back) / 2
    elif case.raises == "described":
        raised = cross_entropy(other[:, 0], labels, reduction="none")
    elif case.raises == "alignment":
        scale, ratio = case.given.get("train_scale", 180.0), case.given.get("target_ratio", 0.4)
        target = (ratio * scale * known["original"]).softmax(1)
        raised = -(target * (scale * other / known["scale"]).log_softmax(1)).sum(1)
    elif case.raises != "ce":
        raised = (other - known["features"]).square().sum(1)
    assert_close(call["loss"](other, labels), raised, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_inner_attack_is_handed_the_defence_as_it_is_now(backbone, batch, case):
    defense, attack = trained(case.name, case.given, backbone, batch), Recorder()
    known = expected(case, backbone, defense, batch, defense.adaptation(backbone, CLASSES))
    terms = defense.loss(backbone, batch, attack)
    if case.first == NOTHING:
        assert not attack.calls
        return
    (call,) = attack.calls
    check(call, case, batch, known)
    if "adv_ce" in terms and case.sees in (own, framed):  # trained on what the attack returned, through what it attacked
        assert_close(terms["adv_ce"], known["adv_ce"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.first != NOTHING and case.sees not in (fixed_words, frozen_tower)], ids=str
)
def test_neither_the_backbone_nor_the_start_would_pass_for_the_defence(backbone, batch, case):
    """Else the test above could not fail. Where the paper attacks the undefended model there is nothing to tell apart."""
    defense = trained(case.name, case.given, backbone, batch)
    fresh = build(
        case.name, backbone, CLASSES, generator=torch.Generator().manual_seed(0),
        given={**{key: value for key, value in SMALL.items() if key in options(case.name)}, **case.given},
    ).train()  # fmt: skip
    with torch.no_grad():
        answer = case.sees(backbone, defense, defense.adaptation(backbone, CLASSES))(batch.images)
        start = case.sees(backbone, fresh, fresh.adaptation(backbone, CLASSES))(batch.images)
        templates = [(), tuple(getattr(defense, "templates", ())), ("a photo of a {}",)]
        bare = [assemble(backbone, CLASSES, Adaptation(templates=each)) for each in templates]
        undefended = [backbone.encode_image] if case.sees is own_features else bare
        for other in (start, *(function(batch.images) for function in undefended)):
            assert (answer - other).abs().amax(1).min() > FAR


@pytest.mark.parametrize("names", STACKS, ids="+".join)
def test_in_a_stack_every_part_is_trained_against_all_of_them(backbone, batch, names):
    name, attack = "+".join(names), Recorder()
    stack = trained(name, {f"{part}.tune": "last_1" for part in names if "tune" in options(part)}, backbone, batch)
    whole = stack.adaptation(backbone, CLASSES)
    cases = [next(case for case in CASES if case.name == part and not case.given) for part in names]
    known = [expected(case, backbone, stack.parts[case.name], batch, whole) for case in cases]
    with torch.no_grad():
        alone = [assemble(backbone, CLASSES, stack.parts[part].adaptation(backbone, CLASSES))(batch.images) for part in names]
    stack.loss(backbone, batch, attack)
    assert len(attack.calls) == len(names)
    for case, call, right, wrong in zip(cases, attack.calls, known, alone, strict=True):
        check(call, case, batch, right)
        if case.sees is own:
            assert (call["answer"] - wrong).abs().amax(1).min() > FAR


def test_apt_with_fixed_words_keeps_the_other_parts_of_its_stack_under_attack(backbone, batch):
    stack, attack = trained("apt+advmask", {"apt.strategy": "constant"}, backbone, batch), Recorder()
    whole = stack.adaptation(backbone, CLASSES)
    stack.loss(backbone, batch, attack)
    with torch.no_grad():
        bare = fixed_words(backbone, stack, Adaptation())(batch.images)
        right = fixed_words(backbone, stack, whole)(batch.images)
    assert_close(attack.calls[0]["answer"], right, atol=1e-3, rtol=1e-4)
    assert (right - bare).abs().max() > FAR


def test_the_perturbed_prompt_of_apt_moves_with_the_attack_and_the_learned_one_does_not(backbone, batch):
    defense = trained("apt", {"strategy": "perturbed", "prompt_step": 5.0}, backbone, batch)
    kept, answers = defense.context.detach().clone(), []

    def attack(function, images, labels, *, indices=None, loss=None):
        for _ in range(2):
            logits = function(images)
            answers.append(logits.detach())
            loss(logits, labels)
        answers.append(function(images).detach())
        return images

    defense.loss(backbone, batch, attack)
    first, _, last = (cross_entropy(answer, batch.labels) for answer in answers)
    assert last > first
    assert defense.context.equal(kept)
