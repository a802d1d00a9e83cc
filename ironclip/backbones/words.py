"""The positions of a text's words among its tokens, for any tokenizer, and their embeddings.

CLIP's tokenizer puts a start token first and the read-out behind the words. SigLIP's has no start token, and SigLIP and CLIPA are
read out at the padded end. So the words are neither "from position 1" nor "up to `eot`". They are found by comparing two texts
that differ in one word.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.core.errors import UsageError
from ironclip.core.types import Backbone

PLACEHOLDERS = ("X", "Z")
"""Words of one token each, in every tokenizer."""
ENDS = 2  # tokens that are kept free of words: start and end, or end and padding


def first_word(backbone: Backbone) -> int:
    """The position of a text's first word: 1 after a start token, 0 where the tokenizer has none."""
    return _differ(backbone, [""])[0]


def word_counts(backbone: Backbone, texts: Sequence[str]) -> list[int]:
    """Number of tokens of the words of each text; 0 for an empty one.

    Raises:
        UsageError: a text and one more word do not fit the context.
    """
    start = first_word(backbone)
    return [place - start for place in _differ(backbone, texts)]


@torch.no_grad()
def word_vectors(backbone: Backbone, text: str) -> Tensor:
    """[M, D] embeddings of the words of a text: no start, no end, no padding.

    Raises:
        UsageError: the text and one more word do not fit the context.
    """
    start, end = first_word(backbone), _differ(backbone, [text])[0]
    return backbone.embed_text([f"{text} {PLACEHOLDERS[0]}"]).embeddings[0, start:end].detach().clone()


def room_for_words(backbone: Backbone, classes: Sequence[str], template: str = "{}.") -> int:
    """The number of further words, of one token each, that fit into the context beside the longest of these class names in the
    template.

    Raises:
        UsageError: a class name leaves no room for one word.
    """
    taken = word_counts(backbone, [template.replace("{}", name.replace("_", " ").strip()) for name in classes])
    return backbone.spec.context_length - ENDS - max(taken)


def _differ(backbone: Backbone, texts: Sequence[str]) -> list[int]:
    """The first position after the words of each text: from there its tokens depend on the next word."""
    one, other = (backbone.tokenize([f"{text} {word}".strip() for text in texts]) for word in PLACEHOLDERS)
    apart = one != other
    if not apart.any(1).all():
        raise UsageError(
            f"the tokenizer of {backbone.spec.name} does not tell {' from '.join(PLACEHOLDERS)}; no words can be found"
        )
    return apart.int().argmax(1).tolist()
