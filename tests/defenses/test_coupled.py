"""Coupled prompts: counts, direction, folding, the start, gradients from both towers, the words of the context."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.backbones import assemble, splice
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Context
from ironclip.defenses._coupled import DIRECTIONS, CoupledPrompts
from ironclip.defenses._prompts import IndependentPrompts


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("direction", "total"), [("text2vision", 3_555_072), ("fap_code", 3_557_120), ("vision2text", 13_824 + 9 * 393_728)]
)
def test_counts_on_vit_b(vit_b, direction, total):
    assert count(CoupledPrompts(vit_b, direction=direction)) == total


def test_count_on_vit_l(vit_l):
    assert count(CoupledPrompts(vit_l, direction="fap_code")) == 7_102_976


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("depth", [1, 2])
def test_folded_prompts_give_the_same_logits(backbone, batch, direction, depth):
    coupled = CoupledPrompts(backbone, depth=depth, direction=direction, generator=drawn())
    folded = IndependentPrompts(backbone, depth=depth)
    folded.load_state_dict(coupled.folded())
    assert count(folded) == 2 * depth * (32 + 32)
    logits = [assemble(backbone, batch.classes, part.adaptation())(batch.images) for part in (coupled, folded)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_layer_is_learned_in_one_tower_and_mapped_to_the_other(backbone, direction):
    prompts = CoupledPrompts(backbone, direction=direction, generator=drawn())
    text, image = prompts()
    for layer, (learned, mapping) in enumerate(zip(prompts.learned, prompts.maps, strict=True)):
        source, other = (text, image) if DIRECTIONS[direction](layer) else (image, text)
        assert torch.equal(source[layer], learned)
        assert_close(other[layer], learned @ mapping.weight.T + mapping.bias)


def test_maps_behind_the_first_layer_start_as_copies_and_are_learned_apart(vit_b):
    maps = CoupledPrompts(vit_b, depth=4, direction="fap_code", generator=drawn()).maps
    assert all(torch.equal(m.weight, maps[1].weight) and m.weight is not maps[1].weight for m in maps[2:])
    assert maps[0].weight.shape == (768, 512)
    assert maps[1].weight.shape == (512, 768)
    assert maps[1].weight.abs().max() <= 768**-0.5
    assert_close(maps[1].weight.std(), torch.tensor(768**-0.5 / 3**0.5), atol=0, rtol=0.01)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_reach_what_is_learned_from_both_towers(backbone, batch, direction):
    """Cutting either tower off changes the gradient of every learned prompt."""
    prompts = CoupledPrompts(backbone, direction=direction, generator=drawn())
    found = {}
    for cut in ("", "text", "image"):
        adaptation = prompts.adaptation()
        classifier = assemble(backbone, batch.classes, adaptation)
        if cut == "text":
            classifier.text_features = classifier.text_features.detach()
        elif cut == "image":
            features = classifier.text_features
            classifier = classifier.detached()
            classifier.text_features = features
        found[cut] = torch.autograd.grad(classifier(batch.images).square().sum(), list(prompts.learned))
    for whole, without_text, without_image in zip(found[""], found["text"], found["image"], strict=True):
        assert_close(without_text + without_image, whole, atol=1e-3 * float(whole.abs().max()), rtol=1e-3)
        assert without_text.abs().max() > 0
        assert without_image.abs().max() > 0


def test_a_detached_classifier_has_constant_prompts(backbone, batch):
    classifier = assemble(backbone, batch.classes, CoupledPrompts(backbone).adaptation())
    assert classifier(batch.images).requires_grad
    assert not classifier.detached()(batch.images).requires_grad
    assert torch.equal(classifier.detached()(batch.images), classifier(batch.images))


# ---- the words of the context


def ids(backbone, context: torch.Tensor, template: str) -> list[int]:
    tokens = splice(backbone, ["tabby cat", "dog"], Context(context, template))
    return tokens.ids[0, : int(tokens.eot[0]) + 1].tolist()


@pytest.mark.parametrize(
    ("init", "options", "text"),
    [
        ("a photo of a", {}, "X X of a tabby cat."),
        ("a photo of a {}, a type of pet.", {}, "X X of a tabby cat, a type of pet."),
        ("a photo of a", {"length": 4}, "X X X X tabby cat."),
        ("a photo of a", {"length": 5}, "X X X X X tabby cat."),
    ],
)
def test_the_first_words_are_learned_and_the_rest_stays(backbone, init, options, text):
    prompts = CoupledPrompts(backbone, init=init, **options)
    expected = backbone.embed_text([text])
    assert ids(backbone, prompts.learned[0], prompts.template) == expected.ids[0].tolist()
    length = options.get("length", 2)
    if length <= 4:
        words = backbone.embed_text([init]).embeddings[0, 1 : 1 + length]
        assert torch.equal(prompts.learned[0], words)
    else:
        assert prompts.learned[0].std() < 0.05


@pytest.mark.parametrize(
    ("init", "length"),
    [
        ("a photo of a {}, a type of pet.", 2),
        ("{} texture.", 2),
        ("{} texture.", 4),  # DTD: the fourth token is the end of `init`, and takes the place of the first of the class name
        ("a photo of {}, a type of food.", 4),  # Food-101: the fourth token is one of the two braces
        ("a photo of a {}.", 3),
    ],
)
def test_a_literal_template_is_overwritten_token_by_token(backbone, init, length):
    """MaPLe's and FAP's released code: embedding[0, 1:1+P] of `init` is learned, and the suffix is embedding[:, 1+P:]."""
    prompts = CoupledPrompts(backbone, init=init, length=length, literal_template=True)
    alone = backbone.embed_text([init, init + " a b c d e"]).embeddings[0]
    whole = backbone.embed_text([f"{init} tabby cat."])
    assert torch.equal(prompts.learned[0], alone[1 : 1 + length])
    learned = torch.randn(length, alone.shape[1])
    made = splice(backbone, ["tabby cat"], Context(learned, prompts.template, prompts.position))
    expected = torch.cat([whole.embeddings[:, :1], learned[None], whole.embeddings[:, 1 + length :]], dim=1)
    assert torch.equal(made.embeddings, expected)
    assert torch.equal(made.eot, whole.eot)


# ---- bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be a whole number of at least 1"),
        ({"depth": 3}, "prompt depth must be 1 to 2"),
        ({"depth": 0}, "prompt depth must be 1 to 2"),
        ({"direction": "sideways"}, "direction must be one of text2vision"),
        ({"init": " "}, "init must hold at least one word"),
        ({"init": "{} texture."}, "among its first 2 words"),
        ({"literal_template": 1}, "literal_template must be true or false"),
    ],
)
def test_options_that_cannot_be_right_are_refused(backbone, options, message):
    with pytest.raises(UsageError, match=message):
        CoupledPrompts(backbone, **options)


def test_a_tower_without_tokens_is_refused(rn50):
    with pytest.raises(UnsupportedEdit, match="no token sequence"):
        CoupledPrompts(rn50)
