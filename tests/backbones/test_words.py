"""Words among the tokens of every tokenizer: their number, their embeddings, the room beside class names."""

import pytest
import torch
from torch.testing import assert_close
from towers.small import CONFIGS, model, published

from ironclip.backbones import assemble
from ironclip.backbones.words import first_word, room_for_words, word_counts, word_vectors
from ironclip.backbones.wrapping import tokenizer_for, wrap
from ironclip.core.errors import UsageError
from ironclip.defenses import Stack, build
from ironclip.defenses._blocks import starting_words
from ironclip.testtime._prompts import Prompted

TEXT_TOWERS = {"ViT": 1, "PE-Core": 1, "CLIPA": 1, "worldwide": 0, "SigLIP": 0, "SigLIP2": 0}
"""Class -> position of the first word."""
START = "a photo of a"


@pytest.fixture(scope="module", params=TEXT_TOWERS)
def case(request):
    """(backbone, position of the first word)."""
    name = request.param
    with published():
        yield wrapped(name), TEXT_TOWERS[name]


def wrapped(name):
    return wrap(model(name), tokenizer_for(f"small-{name}", CONFIGS[name]), name=f"small-{name}", activation="gelu")


def expected(backbone, text):
    """The rows of the token table, by the tokenizer's own list of words."""
    tokenizer = backbone._tokenizer
    return backbone.text.net.token_embedding(torch.tensor(tokenizer.encode(text))).detach()


def test_words_are_found_where_they_stand(case):
    backbone, start = case
    assert first_word(backbone) == start
    assert word_counts(backbone, ["", "a", START, "a photo of a hummingbird."]) == [
        len(backbone._tokenizer.encode(text)) for text in ("", "a", START, "a photo of a hummingbird.")
    ]


def test_every_start_is_the_embedding_of_its_words(case):
    backbone, _ = case
    four = expected(backbone, START)
    assert_close(word_vectors(backbone, START), four, atol=0, rtol=0)
    length = min(len(four), 4)
    context, template = starting_words(backbone, START, length, None)
    assert template.startswith("{ctx}")
    assert_close(context.detach(), four[:length], atol=0, rtol=0)
    apt = build("apt", backbone, ["cat", "dog"], given={"init": START})
    assert_close(apt.context.detach(), four, atol=0, rtol=0)
    with torch.no_grad():
        tuned = Prompted(assemble(backbone, ["cat", "dog"]))
    assert_close(tuned.start, four, atol=0, rtol=0)


def test_a_context_of_the_own_words_answers_as_the_words_do(case):
    """The vectors are spliced in where the words stood."""
    backbone, _ = case
    with torch.no_grad():
        plain = assemble(backbone, ["cat", "dog"]).text_features
        assert_close(Prompted(assemble(backbone, ["cat", "dog"])).text_features, plain, atol=1e-5, rtol=0)


def test_a_default_length_is_clipped_with_a_note_and_one_that_was_asked_for_is_refused():
    with published():
        backbone = wrapped("PE-Core")
    classes = ["cat", "golden_retriever"]
    room = room_for_words(backbone, classes)
    assert room == 32 - 2 - 3  # "golden retriever."
    made = build("advpt", backbone, classes)
    assert len(made.context) == room
    assert made.notes == (f"{room} learned words instead of 32: small-PE-Core holds no more",)
    assert Stack({"advpt": made}).notes == (f"advpt: {made.notes[0]}",)
    assert build("apt", backbone, classes).notes == ()
    with pytest.raises(UsageError, match="holds at most 30"):
        build("advpt", backbone, classes, given={"length": 32})
    with pytest.raises(UsageError, match="31 tokens; small-PE-Core holds at most 30"):
        build("apt", backbone, ["cat", " ".join(["dog"] * 29)])
