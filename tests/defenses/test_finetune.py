"""The fine-tuning engine and its four losses: groups and counts, interpolation, low rank, composition, and what stays put."""

import pytest
import torch
from finetuned import stirred
from finetuned_tower import METHODS, STILL, classifier
from open_clip.transformer import VisionTransformer
from torch.testing import assert_close

from ironclip import presets
from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.merging import merge
from ironclip.core.types import Adaptation, Mask
from ironclip.defenses import Stack, build, options
from ironclip.defenses._named import select
from ironclip.defenses.tecoa import TeCoA
from ironclip.loops.training import Schedule, State, fit
from ironclip.protocols.config import configure
from ironclip.protocols.few_shot import training_attack

every_method = pytest.mark.parametrize("name", METHODS)


def image_tower(patch: int) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        net = VisionTransformer(224, patch, 768, 12, 12, 4.0, output_dim=512)
    return dict(net.named_parameters())


COUNTS = {
    "all": 87_849_216, "attn": 28_348_416, "mlp": 56_669_184, "last_1": 7_087_872, "last_3": 3 * 7_087_872, "ln": 39_936,
    "proj": 393_216, "embed": 768 + 50 * 768 + 3 * 32**2 * 768,
}  # fmt: skip


def test_groups_hold_the_published_counts_of_vit_b32():
    tower = image_tower(32)
    for group, expected in COUNTS.items():
        assert sum(tower[name].numel() for name in select(list(tower), group)) == expected, group
    assert sum(value.numel() for value in image_tower(16).values()) == 86_192_640


def test_groups_cover_the_tower_and_add_up():
    names = list(image_tower(32))
    parts = [select(names, group) for group in ("attn", "mlp", "ln", "proj", "embed")]
    assert sorted(sum(parts, ())) == sorted(names)
    assert select(names, ["proj", "ln", "ln"]) == tuple(name for name in names if name in parts[2] + parts[3])
    assert select(names, "*.ln_1.*") == tuple(name for name in names if ".ln_1." in name)
    assert select(names, "proj") == ("proj",)


def test_the_last_tensors_in_order_are_not_the_last_of_the_tower():
    """The released option counts tensors as they are registered, where the projection comes before the blocks."""
    names = list(image_tower(32))
    assert names.index("proj") < min(names.index(name) for name in select(names, "last_12"))
    assert "proj" not in names[-20:]
    assert all(name.startswith(("transformer.resblocks.11.", "ln_post.")) for name in names[-14:])


@pytest.mark.parametrize("tune", ["all", "attn", ["ln", "proj"], "last_1", "*.mlp.*"], ids=str)
def test_training_changes_exactly_the_named_tensors_and_stores_no_other(backbone, batch, attack, tune):
    defense = TeCoA(backbone, batch.classes, tune=tune)
    wanted = select(backbone.spec.image_parameters, tune)
    assert set(defense.state_dict()) == {f"image.{name}" for name in wanted}
    fit(defense, backbone, lambda epoch: [batch], attack, schedule=Schedule(epochs=2, lr=0.01, warmup_epochs=0))
    adaptation = defense.adaptation(backbone, batch.classes)
    assert tuple(adaptation.image_weights) == wanted
    assert not adaptation.text_weights
    moved = {name for name in wanted if not torch.equal(adaptation.image_weights[name], backbone.image_weight(name))}
    assert moved == set(wanted)


@every_method
@pytest.mark.parametrize("given", [{}, {"lora_rank": 2, "tune": "attn"}], ids=["weights", "low rank"])
def test_the_start_is_the_original(backbone, batch, name, given):
    defense = build(name, backbone, batch.classes, generator=torch.Generator().manual_seed(0), given=given)
    expected = assemble(backbone, batch.classes, Adaptation(templates=("This is a photo of a {}",)))
    assert_close(classifier(defense, backbone, batch.classes)(batch.images), expected(batch.images), atol=1e-5, rtol=0)
    assert torch.equal(defense.original(backbone, batch.classes)(batch.images), expected(batch.images))


@every_method
def test_the_original_never_moves_and_builds_no_graph(backbone, batch, attack, name):
    defense = build(name, backbone, batch.classes)
    before = defense.original(backbone, batch.classes)(batch.images)
    fit(defense, backbone, lambda epoch: [batch], attack, schedule=Schedule(epochs=2, lr=0.01, warmup_epochs=0))
    after = defense.original(backbone, batch.classes)(batch.images)
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert (classifier(defense, backbone, batch.classes)(batch.images) - after).abs().max() > 1e-3


@every_method
def test_text_features_are_kept_between_steps_and_equal_fresh_ones(backbone, batch, name, monkeypatch):
    defense = stirred(build(name, backbone, batch.classes))
    made = defense.classifier(backbone, batch.classes, None)
    calls = []
    monkeypatch.setattr(backbone, "encode_text", lambda *args, **given: calls.append(args))
    again = defense.classifier(backbone, batch.classes, None)
    assert not calls
    monkeypatch.undo()
    assert torch.equal(again(batch.images), made(batch.images))
    assert torch.equal(again(batch.images), classifier(defense, backbone, batch.classes)(batch.images))
    others = defense.classifier(backbone, ("dog", "boat", "oak tree"), None)
    assert torch.equal(others(batch.images), classifier(defense, backbone, ("dog", "boat", "oak tree"))(batch.images))


def test_a_tuned_text_tower_learns_too(backbone, batch, attack):
    defense = TeCoA(backbone, batch.classes, tune="ln", text_tune="last_1")
    assert {name.split(".")[0] for name in defense.state_dict()} == {"image", "text"}
    defense.loss(backbone, batch, attack)["adv_ce"].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in defense.text.parameters())
    features = [classifier(d, backbone, batch.classes).text_features for d in (stirred(defense), TeCoA(backbone, batch.classes))]
    assert (features[0] - features[1]).abs().max() > 1e-3


@every_method
def test_interpolation_runs_from_the_original_to_the_tuned_weights(backbone, batch, name):
    tuned = stirred(build(name, backbone, batch.classes))
    state, found = tuned.state_dict(), {}
    for k in (0.0, 0.25, 1.0):
        defense = build(name, backbone, batch.classes, given={"interpolation": k})
        defense.load_state_dict(state)
        found[k] = defense.adaptation(backbone, batch.classes).image_weights
        values = classifier(defense, backbone, batch.classes)(batch.images)
        if k == 0:
            assert torch.equal(values, tuned.original(backbone, batch.classes)(batch.images))
    for weight, value in found[0.25].items():
        assert torch.equal(found[0.0][weight], backbone.image_weight(weight))
        assert torch.equal(found[1.0][weight], tuned.adaptation(backbone, batch.classes).image_weights[weight])
        assert_close(value, 0.75 * found[0.0][weight] + 0.25 * found[1.0][weight])


def test_training_does_not_see_the_interpolation(backbone, batch, attack):
    results = []
    for k in (1.0, 0.3):
        defense = TeCoA(backbone, batch.classes, interpolation=k)
        fit(defense, backbone, lambda epoch: [batch], attack, schedule=Schedule(epochs=2, lr=0.01, warmup_epochs=0))
        results.append(defense)
    for name, value in results[0].state_dict().items():
        assert torch.equal(value, results[1].state_dict()[name])
    logits = [classifier(defense, backbone, batch.classes)(batch.images) for defense in results]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_low_rank_changes_are_what_they_say(backbone, batch):
    draw = torch.Generator().manual_seed(0)
    defense = TeCoA(backbone, batch.classes, tune=["attn", "ln"], lora_rank=3, lora_alpha=6.0, generator=draw)
    matrices = [name for name in backbone.spec.image_weights if ".attn." in name]
    assert set(defense.state_dict()) == {f"image.{name}.{part}" for name in matrices for part in ("up", "down")}
    assert sum(p.numel() for p in defense.parameters()) == 3 * 2 * ((96 + 32) + (32 + 32))
    stirred(defense)
    weights = defense.adaptation(backbone, batch.classes).image_weights
    for name in matrices:
        pair = defense.state_dict()[f"image.{name}.up"], defense.state_dict()[f"image.{name}.down"]
        change = weights[name] - backbone.image_weight(name)
        assert_close(change, 2 * pair[0] @ pair[1], atol=1e-6, rtol=1e-5)
        assert torch.linalg.matrix_rank(change, atol=1e-4) == 3


@every_method
def test_a_resumed_run_takes_the_same_steps(backbone, batch, attack, name):
    schedule = Schedule(epochs=3, lr=0.005, warmup_epochs=0)
    saved: list[State] = []
    whole = build(name, backbone, batch.classes)
    fit(whole, backbone, lambda epoch: [batch], attack, schedule=schedule, save=saved.append)
    again = build(name, backbone, batch.classes)
    fit(again, backbone, lambda epoch: [batch], attack, schedule=schedule, resume=saved[0])
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_a_mask_multiplies_the_tuned_value(backbone, batch):
    defense, name = stirred(TeCoA(backbone, batch.classes)), backbone.spec.image_weights[0]
    keep = (torch.arange(backbone.image_weight(name).numel()) % 3 > 0).view_as(backbone.image_weight(name)).float()
    own = defense.adaptation(backbone, batch.classes)
    for whole in (
        merge(own, Adaptation(image_weights={name: Mask(keep)})),
        merge(Adaptation(image_weights={name: Mask(keep)}), own),
    ):
        found = assemble(backbone, batch.classes, whole)
        assert torch.equal(found.image_weights[name], own.image_weights[name] * keep)
    defense.loss(backbone, batch, STILL, adaptation=whole)["adv_ce"].backward()
    assert not defense.image.get_parameter(name).grad[keep == 0].any()
    assert defense.image.get_parameter(name).grad[keep == 1].any()


def test_in_a_stack_the_weights_may_have_a_smaller_rate_than_the_prompts(backbone, batch):
    stack = build("tecoa+apt", backbone, batch.classes, given={"tecoa.lr_mult": 0.01, "apt.length": 2})
    rates = {id(p): group["lr"] for group in stack.parameter_groups(0.5) for p in group["params"]}
    assert rates == {id(p): 0.005 if name.startswith("parts.tecoa.") else 0.5 for name, p in stack.named_parameters()}


@every_method
def test_stacked_on_prompts_both_learn(backbone, batch, attack, name):
    parts = {part: build(part, backbone, batch.classes, given={"length": 2} if part == "apt" else {}) for part in (name, "apt")}
    stack = Stack(parts)
    terms = stack.loss(backbone, batch, attack)
    sum(terms.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in stack.parameters())
    assert parts["apt"].context.grad.abs().max() > 0


def test_the_frozen_guide_stays_plain_clip_in_a_stack(backbone, batch):
    parts = {
        part: build(part, backbone, batch.classes, given={"length": 2} if part == "apt" else {}) for part in ("pmg_aft", "apt")
    }
    stack = Stack(parts)
    plain = assemble(backbone, batch.classes, Adaptation(templates=("This is a photo of a {}",)))(batch.images)
    stack.loss(backbone, batch, STILL)
    assert torch.equal(parts["pmg_aft"].original(backbone, batch.classes)(batch.images), plain)


@pytest.fixture(scope="module")
def double():
    return tiny_backbone().double()


@every_method
def test_float64_and_bfloat16(backbone, double, batch, name):
    wide = type(batch)(batch.images.double(), batch.labels, batch.indices, batch.classes)
    defense = build(name, double, batch.classes)
    assert {p.dtype for p in defense.parameters()} == {torch.float64}
    assert all(term.dtype == torch.float64 for term in defense.loss(double, wide, STILL).values())
    rough = classifier(build(name, backbone, batch.classes), backbone, batch.classes, precision="bfloat16")(batch.images)
    assert rough.dtype == torch.float32
    assert (rough - defense.original(double, batch.classes)(wide.images)).abs().max() < 0.7


def test_the_tower_learns_eight_images_at_a_small_radius(backbone, batch):
    attack = PGD(eps=1 / 255, step_size=1 / 255, steps=2, keep="last")
    defense = TeCoA(backbone, batch.classes)
    start = classifier(defense, backbone, batch.classes).detached()
    before = start(PGD(eps=1 / 255, steps=10)(start, batch.images, batch.labels)).argmax(1) == batch.labels
    fit(
        defense, backbone, lambda epoch: [batch], attack,
        schedule=Schedule(epochs=20, batch_size=8, optimizer="adamw", lr=0.003, weight_decay=0.0, warmup_epochs=0),
    )  # fmt: skip
    function = classifier(defense, backbone, batch.classes).detached()
    robust = function(PGD(eps=1 / 255, steps=10)(function, batch.images, batch.labels)).argmax(1) == batch.labels
    assert before.double().mean() < 0.8
    assert robust.all()


BAD = [
    ("tecoa", {"tune": "atn"}, "unknown group of weights 'atn'; did you mean 'attn'"),
    ("tecoa", {"tune": []}, "tune takes all, attn"),
    ("tecoa", {"tune": 3}, "tune takes all, attn"),
    ("tecoa", {"tune": "last_3"}, "1 to 2 blocks"),
    ("tecoa", {"tune": "nothing.*"}, "no weight of this tower is in 'nothing"),
    ("tecoa", {"text_tune": "embd"}, "did you mean 'embed'"),
    ("tecoa", {"interpolation": 1.5}, "interpolation must be a number of at least 0 and at most 1"),
    ("tecoa", {"lora_rank": -1}, "lora_rank must be a whole number"),
    ("tecoa", {"lora_rank": 32}, "saves nothing"),
    ("tecoa", {"lora_rank": 2, "tune": "ln"}, "there is none among the weights to tune"),
    ("tecoa", {"lora_alpha": 2.0}, "set lora_rank"),
    ("tecoa", {"lora_alpha": 0, "lora_rank": 1}, "lora_alpha must be a number of above 0"),
    ("tecoa", {"lr_mult": 0}, "lr_mult must be a number of above 0"),
    ("tecoa", {"adv_weight": 2}, "adv_weight must be"),
    ("tecoa", {"templates": []}, "templates must hold at least one prompt"),
    ("tecoa", {"templates": ["a photo"]}, "a template needs"),
    ("fare", {"clean_weight": -1}, "clean_weight must be"),
    ("fare", {"trades": 1}, "trades must be true or false"),
    ("tga_zsr", {"alpha": -1}, "alpha must be"),
    ("tga_zsr", {"tga_norm": "none"}, "tga_norm must be one of token_axis, feature"),
    ("tga_zsr", {"distance": "linf"}, "distance must be one of l2, l1, cos"),
    ("pmg_aft", {"kl_reduction": "mean"}, "kl_reduction must be one of batchmean, sum"),
    ("pmg_aft", {"normalisation": "none"}, "normalisation must be one of clip, imagenet"),
    ("pmg_aft", {"detach_clean": None}, "detach_clean must be true or false"),
]


@pytest.mark.parametrize(("name", "given", "message"), BAD, ids=[f"{name} {given}" for name, given, _ in BAD])
def test_bad_options_fail_at_construction(backbone, batch, name, given, message):
    with pytest.raises(UsageError, match=message) as caught:
        build(name, backbone, batch.classes, given=given)
    assert "\n" not in str(caught.value)


def test_the_shared_options_have_the_same_defaults_everywhere():
    shared = {"tune": "all", "interpolation": 1.0, "lora_rank": 0, "lora_alpha": None, "lr_mult": 1.0}
    assert all(shared.items() <= options(name).items() for name in METHODS)


PRESETS = [preset for preset in presets.names() if preset.split("/")[0] in METHODS]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_their_method_and_their_attack(backbone, batch, name):
    config = configure({**presets.preset(name), "dataset": "shapes"})
    defense = build(config.method, backbone, batch.classes, given=config.options)
    attack = training_attack(config)
    assert attack.steps == (2 if config.method != "fare" else 4 if name == "fare/quick" else 10)
    assert defense.loss(backbone, batch, attack)
    if name.endswith("/published"):
        assert config.shots is None
        assert attack.derived["step_size"] == pytest.approx(1 / 255)
