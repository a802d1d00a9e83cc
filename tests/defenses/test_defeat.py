"""DEFEAT: counts, fusion, where gradients go, levels of reconstruction, the gate, stacks, weight decay, refusals."""

from copy import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip import presets
from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import AdaptationClash, UnsupportedEdit, UsageError
from ironclip.core.types import Batch, ComparingHead, ImageOutput
from ironclip.defenses import build, options
from ironclip.defenses.apt import APT
from ironclip.defenses.defeat import DEFEAT
from ironclip.loops.training import Schedule, fit

SMALL = {"length": 4, "codes": 24, "latent_width": 8}
OFFICIAL = {"pre_norm": "none", "decay": 0.0, "start": "uniform", "revive_below": 0.0, "commitment": 0.025, "decay_all": True}
HAND = "a photo of a {}."


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(backbone, classes, **given) -> DEFEAT:
    return DEFEAT(backbone, classes, generator=drawn(), **{**SMALL, **given})


def classifier(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


def clean(function, images, labels, **options):
    return images


def slopes(term, defense) -> dict[str, float]:
    found = torch.autograd.grad(term, list(defense.parameters()), allow_unused=True, retain_graph=True)
    return {
        name: 0.0 if slope is None else float(slope.abs().max())
        for (name, _), slope in zip(defense.named_parameters(), found, strict=True)
    }


# ---- what an attack moves


@pytest.mark.parametrize("level", ["grid", "class"])
def test_the_pooled_feature_and_the_codes_are_compared_before_and_after_an_attack(backbone, batch, level):
    made = classifier(make(backbone, batch.classes, reconstruct=level), backbone, batch.classes)
    head = made.head
    assert isinstance(head, ComparingHead)

    def output(images):
        trace = head.observer()
        return ImageOutput(made.encode_image(images, trace=trace), trace)

    with torch.no_grad():
        here, there = output(batch.images), output((batch.images + 0.1).clamp(0, 1))
        same, found = head.compared(here, here), head.compared(here, there)
        pools, codes = [], []
        for seen in (here, there):
            shielded = head.shield(head.grid(seen))
            pools.append(head.pool(shielded.rebuilt).double())
            codes.append((shielded.latent[:, :, None] - head.shield.quantiser.codebook).square().sum(-1).argmin(-1))
    assert_close(same["codes_kept"], torch.ones_like(same["codes_kept"]))
    assert float(same["shield_distortion"].max()) == 0
    assert_close(found["codes_kept"], (codes[0] == codes[1]).double().mean(1))
    assert_close(found["shield_distortion"], (pools[1] - pools[0]).norm(dim=1) / pools[0].norm(dim=1))
    assert (found["codes_kept"] < 1).any()


# ---- counts (section 2)


class Wide:
    """The sizes of a backbone, with the joint width and the grid of a published one."""

    def __init__(self, sizes, **spec) -> None:
        self.spec = replace(sizes.spec, **spec)
        self.device, self.dtype = sizes.device, sizes.dtype
        self.tokenize, self.embed_text = sizes.tokenize, sizes.embed_text
        self.image_weight, self.text_weight = sizes.image_weight, sizes.text_weight

    def encode_text(self, tokens, **options):
        return torch.ones(len(tokens.eot), self.spec.embed_dim)


def formula(D: int, d: int, K: int, N: int, words: int, text: int) -> int:
    c = lambda i, o, k: i * o * k**2 + o  # noqa: E731
    r = c(d, d, 3) + c(d, d, 1)
    return c(D, d, 3) + c(d, d, 3) + r + K * d + c(d, d, 3) + r + c(d, D, 3) + N + 1 + words * text


@pytest.mark.parametrize(("grid", "count"), [(7, 4_991_282), (14, 4_991_429)])
def test_count_on_vit_b(vit_b, grid, count):
    defense = DEFEAT(Wide(vit_b, embed_dim=512, grid=grid), ["a", "b"], **OFFICIAL)
    assert sum(p.numel() for p in defense.parameters()) == count == formula(512, 256, 512, grid**2, 16, 512)
    assert sum(p.numel() for p in defense.shield.parameters()) == 4_983_040
    stable = DEFEAT(Wide(vit_b, embed_dim=512, grid=grid), ["a", "b"])
    assert sum(p.numel() for p in stable.parameters()) == count + 512  # a moving count a code


def test_count_on_vit_l(vit_l):
    defense = DEFEAT(Wide(vit_l, embed_dim=768, grid=16), ["a", "b"], **OFFICIAL)
    assert sum(p.numel() for p in defense.parameters()) == formula(768, 256, 512, 256, 16, 768)


# ---- fusion


def test_a_weight_of_one_is_apt_bit_for_bit_and_of_zero_ignores_the_class_token(backbone, batch):
    apt = APT(backbone, batch.classes, length=4, generator=drawn())
    alone = make(backbone, batch.classes, fusion_weight=1)
    alone.context.data = apt.context.data.clone()
    with torch.no_grad():
        assert torch.equal(
            classifier(alone, backbone, batch.classes)(batch.images), classifier(apt, backbone, batch.classes)(batch.images)
        )
        shielded = make(backbone, batch.classes, fusion_weight=0)
        head, whole = shielded.branch, classifier(shielded, backbone, batch.classes)
        trace = head.observer()
        features = whole.encode_image(batch.images, trace=trace)
        seen = [head(ImageOutput(x, trace), whole.text_features) for x in (features, features * torch.nan)]
        assert torch.equal(*seen)
        assert torch.equal(seen[0], whole(batch.images))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_fusions_written_out(backbone, batch, weight):
    first, second = torch.randn(5, 4, generator=drawn()), torch.randn(5, 4, generator=drawn(1))
    of = {name: make(backbone, batch.classes, fusion=name, fusion_weight=weight).branch for name in ("logits", "probs")}
    assert_close(of["logits"].fuse(first, second, weight), weight * first + (1 - weight) * second)
    mixed = weight * first.softmax(1) + (1 - weight) * second.softmax(1)
    assert_close(of["probs"].fuse(first, second, weight).softmax(1), mixed)


def test_only_averaged_probabilities_let_a_sure_branch_win(backbone, batch):
    sure, many = torch.tensor([[90.0, 0.0, 0.0]]), torch.tensor([[0.0, 100.0, 0.0]])
    of = {name: make(backbone, batch.classes, fusion=name).branch for name in ("logits", "probs")}
    assert of["logits"].fuse(sure, many, 0.5).softmax(1)[0, 0] < 0.01
    assert of["probs"].fuse(sure, many, 0.5).softmax(1)[0, 0] == pytest.approx(0.5)


# ---- the objective


@pytest.mark.parametrize("preset", [OFFICIAL, {}], ids=["official", "stable"])
def test_which_term_reaches_which_tensor(backbone, batch, preset):
    defense = make(backbone, batch.classes, **preset)
    terms = defense.loss(backbone, batch, clean)
    reach = {name: slopes(term, defense) for name, term in terms.items()}
    touched = {name: {key for key, value in found.items() if value > 0} for name, found in reach.items()}
    codebook = "branch.shield.quantiser.codebook"
    parts = lambda *names: {key for key in slopes(sum(terms.values()), defense) if any(n in key for n in names)}  # noqa: E731
    assert touched["commitment"] == parts("encoder")
    assert touched["reconstruction"] == parts("encoder", "decoder")
    assert touched["image_alignment"] == parts("encoder", "decoder", "pool")
    assert touched["text_alignment"] == {"context"}
    assert touched["adv_ce"] == parts("encoder", "decoder", "pool", "context")
    if preset:
        assert touched["codebook"] == {codebook}
    else:
        assert "codebook" not in terms
        assert not any(codebook in found for found in touched.values())


def test_alignments_are_zero_where_features_agree(backbone, batch):
    words = backbone.embed_text(["a photo of a"])
    defense = make(backbone, batch.classes)
    defense.context.data = words.embeddings[0, 1 : int(words.eot[0])].clone()
    assert float(defense.loss(backbone, batch, clean)["text_alignment"].detach()) < 1e-5
    whole = make(backbone, batch.classes, reconstruct="class")
    whole.shield.forward = lambda grid, assign=None: type("R", (), {"grid": grid, "latent": grid[..., :8], "rebuilt": 3 * grid})()
    whole.branch.pool.weight.data.fill_(1.0)
    whole.branch.pool.bias.data.zero_()
    assert float(whole.loss(backbone, batch, clean)["image_alignment"].detach()) < 1e-5


def test_code_losses_are_means_or_sums_over_the_channels(backbone, batch):
    pair = [make(backbone, batch.classes, **OFFICIAL, code_losses=how).loss(backbone, batch, clean) for how in ("mean", "sum")]
    for name in ("commitment", "codebook"):
        assert_close(pair[1][name], SMALL["latent_width"] * pair[0][name])
    assert_close(pair[0]["reconstruction"], pair[1]["reconstruction"])


def test_codes_move_in_training_alone(backbone, batch):
    defense = make(backbone, batch.classes)
    before = defense.shield.quantiser.codebook.detach().clone()
    defense.eval().loss(backbone, batch, clean)
    assert torch.equal(defense.shield.quantiser.codebook, before)
    defense.train().loss(backbone, batch, clean)
    assert not torch.equal(defense.shield.quantiser.codebook, before)


def test_prepared_codes_are_latents_of_the_shots(backbone, batch):
    defense = make(backbone, batch.classes)
    defense.prepare(backbone, iter([batch]))
    z = defense.shield.encode(defense._grid(backbone, batch.images)).detach().flatten(0, 1)
    rows = {tuple(row) for row in z.tolist()}
    assert all(tuple(row) in rows for row in defense.shield.quantiser.codebook.tolist())
    uniform = make(backbone, batch.classes, start="uniform")
    before = uniform.shield.quantiser.codebook.detach().clone()
    uniform.prepare(backbone, iter([batch]))
    assert torch.equal(uniform.shield.quantiser.codebook, before)


def test_the_stable_codebook_stays_in_use_where_the_released_one_does_not(backbone, batch):
    """The measure of section 9: the error of the codes relative to what they stand for, and how many are in use."""
    found = {}
    for name, given in (("official", OFFICIAL), ("stable", {})):
        defense = make(backbone, batch.classes, **given)
        defense.prepare(backbone, [batch])
        schedule = Schedule(epochs=20, batch_size=8, lr=0.01, warmup_epochs=0, clip_norm=1.0)
        fit(defense, backbone, lambda epoch: [batch], PGD(eps=4 / 255, steps=1, keep="last"), schedule=schedule)
        found[name] = defense.diagnostics()
    assert found["stable"]["quantisation_error"] < 0.5 < found["official"]["quantisation_error"]
    assert found["stable"]["code_perplexity"] > found["official"]["code_perplexity"]
    assert (found["stable"]["code_alarm"], found["official"]["code_alarm"]) == (0.0, 1.0)
    assert found["stable"]["shield_spread"] > 0


# ---- levels, gate, precision


@pytest.mark.parametrize("given", [{"reconstruct": "class"}, {"reconstruct": "pixels", "fusion_weight": 0}])
def test_other_levels_train_and_classify(backbone, batch, attack, given):
    defense = make(backbone, batch.classes, **given)
    defense.prepare(backbone, [batch])
    terms = defense.loss(backbone, batch, attack)
    assert all(bool(term.isfinite()) for term in terms.values())
    reach = slopes(sum(terms.values()), defense)
    idle = {"branch.pool.weight", "branch.pool.bias"} if "pixels" in given.values() else set()
    assert {name for name, slope in reach.items() if not slope} == {
        "branch.shield.quantiser.codebook", "branch.shield.quantiser.usage"
    } - idle  # fmt: skip
    for surrogate in defense.surrogates(classifier(defense, backbone, batch.classes)):
        assert surrogate(batch.images).shape == (8, 4)


def test_pixels_are_rebuilt_in_front_of_the_tower(backbone, batch):
    defense = make(backbone, batch.classes, reconstruct="pixels", fusion_weight=0)
    plain = assemble(backbone, batch.classes, replace(defense.adaptation(backbone, batch.classes), pixels=()))
    with torch.no_grad():
        assert torch.equal(classifier(defense, backbone, batch.classes)(batch.images), plain(defense.branch(batch.images)))


def test_the_gate_starts_even_learns_and_weighs_each_image(backbone, batch, attack):
    gated, even = make(backbone, batch.classes, fusion_weight="adaptive"), make(backbone, batch.classes)
    even.load_state_dict({name: value for name, value in gated.state_dict().items() if ".gate." not in name})
    with torch.no_grad():
        assert_close(
            classifier(gated, backbone, batch.classes)(batch.images), classifier(even, backbone, batch.classes)(batch.images),
            atol=1e-5, rtol=0,
        )  # fmt: skip
    terms = gated.loss(backbone, batch, attack)
    assert gated.diagnostics()["fusion_weight"] == pytest.approx(0.5)
    assert slopes(terms["adv_ce"], gated)["branch.gate.last.weight"] > 0
    gated.branch.gate.last.weight.data = torch.randn(1, 16, generator=drawn())
    whole = classifier(gated, backbone, batch.classes)
    trace = gated.branch.observer()
    features = whole.encode_image(batch.images, trace=trace)
    found = gated.branch.branches(ImageOutput(features, trace), whole.text_features)
    assert found.weight.shape == (8, 1)
    assert found.weight.min() < found.weight.max()
    assert_close(whole(batch.images), found.weight * found.of_class + (1 - found.weight) * found.of_shield)


def test_float64_runs_through(batch):
    double = tiny_backbone().double()
    defense = make(double, batch.classes)
    assert {p.dtype for p in defense.parameters()} == {torch.float64}
    wide = Batch(batch.images.double(), batch.labels, batch.indices, batch.classes)
    assert all(term.dtype == torch.float64 for term in defense.loss(double, wide, clean).values())


def test_one_step_leaves_no_gradient_on_the_towers_and_the_inner_attack_none_on_the_shield(backbone, batch):
    defense, seen = make(backbone, batch.classes), []

    def watch(function, images, labels, **given):
        adv = PGD(eps=4 / 255, steps=2, keep="last")(function, images, labels, **given)
        seen.append([parameter.grad for parameter in defense.parameters()])
        return adv

    torch.stack(list(defense.loss(backbone, batch, watch).values())).sum().backward()
    assert seen == [[None] * len(list(defense.parameters()))]
    assert all(parameter.grad is None for parameter in backbone.parameters())


# ---- stacks and parameter groups


def test_apt_and_defeat_make_one_classifier_and_both_learn(backbone, batch, attack):
    given = {"apt.length": 4, "defeat.length": 0, "defeat.codes": 24, "defeat.latent_width": 8}
    stack = build("apt+defeat", backbone, batch.classes, generator=drawn(), given=given)
    alone = make(backbone, batch.classes)
    names = {name: f"parts.{'apt' if name == 'context' else 'defeat'}.{name}" for name in alone.state_dict()}
    assert set(stack.state_dict()) == set(names.values())
    terms = stack.loss(backbone, batch, attack)
    assert {"apt.adv_ce", "defeat.adv_ce", "defeat.text_alignment"} <= terms.keys()
    reach = slopes(terms["defeat.text_alignment"], stack)
    assert reach["parts.apt.context"] > 0
    alone.load_state_dict({name: stack.state_dict()[theirs] for name, theirs in names.items()})
    with torch.no_grad():
        pair = [classifier(d, backbone, batch.classes)(batch.images) for d in (stack, alone)]
    assert torch.equal(*pair)
    assert len(stack.surrogates(classifier(stack, backbone, batch.classes))) > 5


def test_two_contexts_clash(backbone, batch):
    with pytest.raises(AdaptationClash, match="a learned text context"):
        build("apt+defeat", backbone, batch.classes)


def test_weight_decay_spares_codes_context_and_biases(backbone, batch):
    groups = make(backbone, batch.classes, fusion_weight="adaptive").parameter_groups(1.0)
    assert "weight_decay" not in groups[0]
    assert groups[1]["weight_decay"] == 0.0
    defense = make(backbone, batch.classes)
    spared = {id(p) for p in defense.parameter_groups(1.0)[1]["params"]}
    names = {name for name, p in defense.named_parameters() if id(p) in spared}
    biases = {name for name in names if name.endswith(".bias")}
    pooling, codes = {"branch.pool.weight"}, {f"branch.shield.quantiser.{n}" for n in ("codebook", "usage")}
    assert names == biases | pooling | codes | {"context"}
    assert len(make(backbone, batch.classes, decay_all=True).parameter_groups(1.0)) == 1


def test_default_preset_and_default_options_are_the_stable_ones():
    default, stable, official = (presets.preset(f"defeat/{name}") for name in ("default", "stable", "official"))
    drop = {"preset", "source"}
    assert {k: v for k, v in default.items() if k not in drop} == {k: v for k, v in stable.items() if k not in drop}
    defaults = options("defeat")
    assert all(defaults[key] == value for key, value in stable["options"].items())
    assert {key: official["options"][key] for key in OFFICIAL} == OFFICIAL


# ---- refusals

REFUSED = [
    ({"length": -1}, "length must be a whole number of at least 0"),
    ({"codes": 1}, "codes must be a whole number of at least 2"),
    ({"latent_width": 0}, "latent_width"),
    ({"reconstruct": "tokens"}, "reconstruct must be one of grid, class, pixels; got 'tokens'"),
    ({"fusion": "mean"}, "fusion must be one of logits, probs"),
    ({"fusion_weight": 1.5}, "fusion_weight must be a number of at least 0 and at most 1"),
    ({"fusion_weight": "learned"}, "fusion_weight must be one of adaptive; got 'learned'"),
    ({"fusion_weight": True}, "fusion_weight"),
    ({"reconstruct": "pixels"}, "it needs fusion_weight=0; got 0.5"),
    ({"pre_norm": "batch"}, "pre_norm must be one of none, layernorm, l2"),
    ({"decay": 1}, "decay=1 would never move a code"),
    ({"decay": -0.1}, "decay must be a number"),
    ({"start": "kmeans"}, "start must be one of data, uniform"),
    ({"revive_below": -1}, "revive_below"),
    ({"code_losses": "max"}, "code_losses must be one of mean, sum"),
    ({"commitment": -1}, "commitment must be a number of at least 0"),
    ({"decay_all": 1}, "decay_all must be true or false"),
    ({"templates": ["no place"]}, "a template needs {}"),
    ({"length": 90}, "holds at most 75"),
    ({"code": 2}, "did you mean 'codes'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_options_that_cannot_be_fail_at_construction(backbone, batch, given, message):
    with pytest.raises(UsageError, match=message) as caught:
        build("defeat", backbone, batch.classes, given={"latent_width": 8, **given})
    assert "\n" not in str(caught.value)


def test_a_tower_without_a_grid_is_refused(rn50):
    convolutional = copy(rn50)
    convolutional.spec = replace(rn50.spec, kind="timm", grid=0)
    with pytest.raises(UnsupportedEdit, match="no grid of tokens"):
        DEFEAT(convolutional, ["a", "b"])


def test_a_foreign_classifier_has_no_surrogates_here(backbone, batch):
    with pytest.raises(UsageError, match="classifier that `assemble` makes"):
        make(backbone, batch.classes).surrogates(lambda images: images)


def test_the_text_alignment_uses_the_prompts_that_are_handed_in(backbone, batch):
    defense = make(backbone, batch.classes, templates=("a blurred image of {}",))
    expected = assemble(backbone, batch.classes, replace(defense.adaptation(backbone, batch.classes), context=None,
                                                         templates=("a blurred image of {}",), head=None))  # fmt: skip
    found = classifier(defense, backbone, batch.classes).text_features
    term = defense.loss(backbone, batch, clean)["text_alignment"]
    assert_close(term, 20 * F.l1_loss(found, expected.text_features))
