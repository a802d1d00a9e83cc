"""Class prompts: from names and templates, or with a learned context spliced in."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones.text import shared_columns
from ironclip.backbones.words import PLACEHOLDERS, first_word
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Backbone, Context, PromptTokens

DEFAULT_TEMPLATE = "a photo of a {}."


def prompt_name(name: str) -> str:
    """The class name as it is put into a prompt: underscores become spaces."""
    return name.replace("_", " ").strip()


def fill(template: str, classes: Sequence[str]) -> list[str]:
    """One prompt per class; `{{}}` in the template stands for literal braces.

    Raises:
        UsageError: the template has no `{}`.
    """
    pieces = [piece.split("{}") for piece in template.split("{{}}")]
    if all(len(piece) == 1 for piece in pieces):
        raise UsageError(f"a template needs {{}} where the class name goes; got {template!r}")
    return ["{}".join(prompt_name(name).join(piece) for piece in pieces) for name in classes]


def splice(backbone: Backbone, classes: Sequence[str], context: Context) -> PromptTokens:
    """The class prompts with the learned vectors in place of `{ctx}`.

    Source: CoOp's PromptLearner as used by APT (TreeLLi/APT, apt/trainers/apt.py): the prompt is tokenised with one placeholder
    word per vector, so its length and end-of-text position do not depend on the place of the vectors. Two sets of placeholders
    tell that place: the tokens in which they differ, with any tokenizer.

    Raises:
        UsageError: a class-specific context for another number of classes, or a template that does not fit the position.
    """
    vectors = context.vectors
    if vectors.ndim == 3 and len(vectors) != len(classes):
        raise UsageError(f"this context holds words for {len(vectors)} classes, one set each; got {len(classes)} classes")
    count, width = vectors.shape[-2:]
    first, second = (fill(_with_words(context, count, word), classes) for word in PLACEHOLDERS[:2])
    tokens = backbone.embed_text(first)
    if width != tokens.embeddings.shape[2]:
        raise UsageError(f"this context has words of width {width}; {backbone.spec.name} needs {tokens.embeddings.shape[2]}")
    if context.position == "over":
        start = first_word(backbone)
        columns = torch.arange(start, start + count, device=tokens.ids.device).expand(len(classes), -1)
    else:
        columns = _marked(backbone, tokens.ids, backbone.tokenize(second), count)
    words = vectors.to(tokens.embeddings).expand(len(classes), -1, -1)
    embeddings = tokens.embeddings.scatter(1, columns[..., None].expand_as(words), words)
    # Vectors are told from words, and one from another: equal placeholder words must not make a column look shared.
    numbers = -1 - torch.arange(count, device=columns.device).expand_as(columns)
    shared = shared_columns(tokens.ids.scatter(1, columns, numbers))
    return replace(tokens, embeddings=embeddings, shared=min(shared, int(columns.min())) if vectors.ndim == 3 else shared)


def _marked(backbone: Backbone, ids: Tensor, others: Tensor, count: int) -> Tensor:
    """[K, count]: the columns in which two sets of placeholder words differ."""
    marked = ids != others[:, : ids.shape[1]]
    if not (marked.sum(1) == count).all():
        raise UsageError(f"the tokenizer of {backbone.spec.name} does not keep placeholder words apart; no context fits in")
    return marked.nonzero()[:, 1].view(len(ids), count)


def _with_words(context: Context, count: int, word: str) -> str:
    """The context's template with placeholder words for the vectors, moved behind the class name as the position asks."""
    template = context.template
    if context.position == "over":
        return template
    if template.count("{ctx}") != 1:
        raise UsageError(f"a context template needs {{ctx}} exactly once; got {template!r}")
    if re.search(r"[\w}]\{ctx\}|\{ctx\}[\w{]", template):
        raise UsageError(f"{{ctx}} must stand as words of its own, with spaces around it; got {template!r}")
    words = [word] * count
    if context.position == "end":
        return template.replace("{ctx}", " ".join(words))
    if not template.startswith("{ctx} {}"):
        raise UsageError(f"position {context.position!r} needs a template '{{ctx}} {{}}...'; got {template!r}")
    head = count // 2 if context.position == "middle" else 0
    return " ".join([*words[:head], "{}", *words[head:]]) + template.removeprefix("{ctx} {}")


def class_prompts(backbone: Backbone, classes: Sequence[str], adaptation: Adaptation) -> list[PromptTokens]:
    """The prompts of these classes: one batch with the learned context, or one batch per template."""
    if adaptation.context is not None:
        return [splice(backbone, classes, adaptation.context)]
    return [backbone.embed_text(fill(template, classes)) for template in adaptation.templates or (DEFAULT_TEMPLATE,)]


def average(features: Sequence[Tensor]) -> Tensor:
    """[K, E] unit features: the direction of the mean of the unit features of every template (CLIP's ensemble)."""
    if len(features) == 1:
        return F.normalize(features[0], dim=-1)
    return F.normalize(torch.stack([F.normalize(f, dim=-1) for f in features]).mean(0), dim=-1)
