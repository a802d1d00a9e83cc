"""Class prompts: where learned words stand, what the classes still share, and templates."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.backbones import splice
from ironclip.backbones.prompts import average, class_prompts, fill, prompt_name
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Context

CLASSES = ("cat", "golden_retriever", "hummingbird")
WIDTH = 32


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def words(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(0))


def ids_of(backbone, text: str) -> list[int]:
    row = backbone.tokenize([text])[0]
    return row[1 : int(row.argmax())].tolist()


@pytest.mark.parametrize("specific", [False, True], ids=["unified", "class-specific"])
@pytest.mark.parametrize(("position", "head"), [("end", 5), ("middle", 2), ("front", 0)])
def test_every_token_stands_where_the_position_says(backbone, position, head, specific):
    vectors = words(3, 5) if specific else words(5)
    tokens = splice(backbone, CLASSES, Context(vectors, position=position))
    table = backbone.text.net.token_embedding.weight
    for row, name in enumerate(CLASSES):
        own = vectors[row] if specific else vectors
        inside = table[ids_of(backbone, prompt_name(name))]
        expected = torch.cat([table[[49406]], own[:head], inside, own[head:], table[[*ids_of(backbone, "."), 49407]]])
        assert int(tokens.eot[row]) == len(expected) - 1
        assert_close(tokens.embeddings[row, : len(expected)], expected, atol=0, rtol=0)


def test_positions_hold_the_same_tokens_and_ends(backbone):
    made = [splice(backbone, CLASSES, Context(words(4), position=place)) for place in ("end", "middle", "front")]
    for tokens in made[1:]:
        assert torch.equal(tokens.eot, made[0].eot)
        assert torch.equal(tokens.ids.sort(1).values, made[0].ids.sort(1).values)


def test_words_of_a_template_stay_around_the_context(backbone):
    tokens = splice(backbone, CLASSES, Context(words(2), template="a photo, {ctx} of a {}!"))
    plain = backbone.embed_text([f"a photo, X X of a {prompt_name(name)}!" for name in CLASSES])
    assert torch.equal(tokens.ids, plain.ids)
    assert_close(tokens.embeddings[:, 4:6], words(2).expand(3, -1, -1))
    assert_close(tokens.embeddings[:, 6:], plain.embeddings[:, 6:])
    assert tokens.shared == 8


def test_a_context_behind_the_class_name_in_the_template(backbone):
    behind = splice(backbone, CLASSES, Context(words(2), template="{} {ctx}."))
    front = splice(backbone, CLASSES, Context(words(2), position="front"))
    assert_close(behind.embeddings, front.embeddings, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("context", "expected"),
    [(Context(words(4)), 5), (Context(words(4), position="middle"), 3), (Context(words(4), position="front"), 1),
     (Context(words(3, 4)), 1), (Context(words(3, 4), template="a {ctx} {}."), 2)],
)  # fmt: skip
def test_classes_share_what_is_equal_in_all_of_them(backbone, context, expected):
    tokens = splice(backbone, CLASSES, context)
    assert tokens.shared == expected
    assert_close(tokens.embeddings[:, : tokens.shared], tokens.embeddings[:1, : tokens.shared].expand(3, -1, -1), atol=0, rtol=0)


def test_a_class_called_like_a_placeholder_shares_no_column_by_mistake(backbone):
    for position in ("end", "middle", "front"):
        tokens = splice(backbone, ("x", "x x", "z"), Context(words(4), position=position))
        shared = tokens.embeddings[:, : tokens.shared]
        assert_close(shared, shared[:1].expand(3, -1, -1), atol=0, rtol=0)
        assert tokens.shared < int(tokens.eot.min())


def test_gradients_reach_the_vectors_of_every_class(backbone):
    vectors = words(3, 4).requires_grad_()
    features = backbone.encode_text(splice(backbone, CLASSES, Context(vectors, position="middle")))
    (slope,) = torch.autograd.grad(features[1].sum(), vectors)
    assert slope[1].abs().min() > 0
    assert not slope[[0, 2]].any()


REFUSED = [
    (Context(words(2, 4)), r"words for 2 classes, one set each; got 3 classes"),
    (Context(words(4), template="{}."), r"needs \{ctx\} exactly once"),
    (Context(words(4), template="{ctx} {ctx} {}."), r"needs \{ctx\} exactly once"),
    (Context(words(4), template="{ctx} thing."), r"needs \{\} where the class name goes"),
    (Context(words(4), template="a{ctx} {}."), "spaces around it"),
    (Context(words(4), template="{ctx}{}."), "spaces around it"),
    (Context(words(4), template="a {ctx} {}.", position="front"), "needs a template"),
    (Context(words(4)[:, :7]), "words of width 7; tiny needs 32"),
    (Context(words(80)), "tokens; tiny holds at most 75"),
]


@pytest.mark.parametrize(("context", "message"), REFUSED)
def test_contexts_that_cannot_be_placed_are_refused_in_one_line(backbone, context, message):
    with pytest.raises(UsageError, match=message) as caught:
        splice(backbone, CLASSES, context)
    assert "\n" not in str(caught.value)


def test_the_longest_context_that_fits_is_taken(backbone):
    assert int(splice(backbone, CLASSES, Context(words(72))).eot.max()) == 76
    with pytest.raises(UsageError, match="76 tokens"):
        splice(backbone, CLASSES, Context(words(73)))


def test_names_lose_underscores_and_templates_take_them():
    assert prompt_name(" golden_retriever ") == "golden retriever"
    assert fill("a {} or a {}", ["big_cat"]) == ["a big cat or a big cat"]
    with pytest.raises(UsageError, match="where the class name goes"):
        fill("a photo", ["cat"])


def test_an_ensemble_is_the_direction_of_the_mean_of_unit_features(backbone):
    templates = ("a photo of a {}.", "a bad {}", "{}, drawn by a child")
    made = class_prompts(backbone, CLASSES, Adaptation(templates=templates))
    features = [backbone.encode_text(tokens) for tokens in made]
    for row in range(3):
        total = sum(f[row] / f[row].norm() for f in features) / 3
        assert_close(average(features)[row], total / total.norm())
    assert_close(average(features[:1]), F.normalize(features[0], dim=-1))


def test_a_context_overrides_templates_and_the_default_stands_in_for_none(backbone):
    (only,) = class_prompts(backbone, CLASSES, Adaptation(context=Context(words(2)), templates=("a {}", "the {}")))
    assert_close(only.embeddings, splice(backbone, CLASSES, Context(words(2))).embeddings)
    (default,) = class_prompts(backbone, CLASSES, Adaptation())
    assert torch.equal(default.ids, backbone.embed_text(fill("a photo of a {}.", CLASSES)).ids)
