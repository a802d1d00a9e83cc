"""Co-Attack: the objective written out, one word at most, and retrieval that falls."""

import pytest
import torch
import torch.nn.functional as F
from toys import pictures

from ironclip.attacks.coattack import attack_text, coattack, neighbours
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import DataError, UsageError
from ironclip.core.tensors import keyed_uniform

EPS = 2 / 255
CAPTIONS = ("a dog on a red sofa", "a cat under the old table", "two birds in a tree", "a dog in the snow")


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def images():
    return pictures(4).repeat(1, 1, 8, 8)


def features(backbone, texts):
    with torch.no_grad():
        return backbone.encode_text(backbone.embed_text(texts))


def test_candidates_follow_the_same_word_most_frequent_first():
    propose = neighbours(CAPTIONS)
    assert propose(["a", "horse"], 1) == ["dog", "cat", "red", "tree"]
    assert propose(["horse"], 0) == ["a", "two"]
    assert propose(["unseen", "word"], 1) == []


def test_one_word_is_changed_to_the_candidate_that_moves_the_embedding_furthest(backbone):
    caption = "a dog on a red sofa"
    (changed,) = attack_text(backbone, [caption], lambda words, place: ["the", words[place], "moon", "lamp", "fish"])
    before, after = caption.split(), changed.split()
    places = [place for place in range(6) if before[place] != after[place]]
    assert len(places) == 1
    assert before[places[0]] in ("dog", "red", "sofa")

    def kl(text):
        one, other = (features(backbone, [t])[0].softmax(0) for t in (caption, text))
        return float((one * (one / other).log()).sum())

    left_out = {at: kl(" ".join(before[:at] + before[at + 1 :])) for at in (1, 4, 5)}
    assert places[0] == max(left_out, key=left_out.__getitem__)
    tried = {word: kl(" ".join([*before[: places[0]], word, *before[places[0] + 1 :]])) for word in ("moon", "lamp", "fish")}
    assert after[places[0]] == max(tried, key=tried.__getitem__)


def test_a_caption_without_a_proposal_stays(backbone):
    assert attack_text(backbone, ["dog", "a the of"], lambda words, place: []) == ("dog", "a the of")
    assert attack_text(backbone, ["a dog"], lambda words, place: ["the", "dog"]) == ("a dog",)


def test_one_step_is_the_formula_written_out(backbone, images):
    adv, changed = coattack(backbone, images, CAPTIONS, candidates=neighbours(CAPTIONS), steps=1, seed=3)
    start = (images + EPS * (keyed_uniform((3, 32, 32), 3, range(4)) + 1) / 2).clamp(0, 1).requires_grad_()
    clean = backbone.encode_image(images).detach().softmax(1)
    moved, text = backbone.encode_image(start), F.normalize(features(backbone, changed), dim=1).softmax(1)
    first = (clean * (clean.log() - moved.log_softmax(1))).sum()
    second = (text * (text.log() - F.normalize(moved, dim=1).log_softmax(1))).sum()
    (slope,) = torch.autograd.grad(first + 3 * second, start)
    expected = (start + 1.25 * EPS * slope.sign()).detach()
    expected = torch.minimum(torch.maximum(expected, images - EPS), images + EPS).clamp(0, 1)
    assert float(((adv - expected).abs() > 1e-6).double().mean()) < 0.001


def test_pairs_move_apart_inside_the_ball(backbone, images):
    def cosine(pixels, texts):
        with torch.no_grad():
            return F.cosine_similarity(backbone.encode_image(pixels), features(backbone, texts)).mean()

    adv, changed = coattack(backbone, images, CAPTIONS, candidates=neighbours(CAPTIONS), eps=8 / 255)
    assert float((adv - images).abs().max()) <= 8 / 255 + 1e-6
    assert cosine(adv, CAPTIONS) < cosine(images, CAPTIONS)
    assert sum(a != b for a, b in zip(changed, CAPTIONS, strict=True)) >= 3
    again, _ = coattack(backbone, images[1:2], CAPTIONS[1:2], candidates=neighbours(CAPTIONS), eps=8 / 255, indices=[1])
    assert float(((again - adv[1:2]).abs() > 1e-6).double().mean()) < 0.02  # a sign may differ where the slope is nearly zero
    assert all(not parameter.requires_grad or parameter.grad is None for parameter in backbone.parameters())


def test_bad_input(backbone, images):
    with pytest.raises(DataError, match="one caption for each image"):
        coattack(backbone, images, CAPTIONS[:2], candidates=neighbours(CAPTIONS))
    with pytest.raises(UsageError, match="steps"):
        coattack(backbone, images, CAPTIONS, candidates=neighbours(CAPTIONS), steps=0)
    empty, texts = coattack(backbone, images[:0], [], candidates=neighbours(CAPTIONS))
    assert (len(empty), texts) == (0, ())
