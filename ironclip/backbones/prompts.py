"""Class prompts: from names and templates, or with a learned context spliced in."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones.text import shared_columns
from ironclip.errors import UsageError
from ironclip.types import Adaptation, Backbone, Context, PromptTokens

DEFAULT_TEMPLATE = "a photo of a {}."
PLACEHOLDER = "X"


def prompt_name(name: str) -> str:
    """The class name as it is put into a prompt: underscores become spaces."""
    return name.replace("_", " ").strip()


def fill(template: str, classes: Sequence[str]) -> list[str]:
    """One prompt a class.

    Raises:
        UsageError: the template has no `{}`.
    """
    if "{}" not in template:
        raise UsageError(f"a template needs {{}} where the class name goes; got {template!r}")
    return [template.replace("{}", prompt_name(name)) for name in classes]


def splice(backbone: Backbone, classes: Sequence[str], context: Context) -> PromptTokens:
    """The class prompts with the learned vectors in place of `{ctx}`.

    Source: CoOp's PromptLearner as used by APT (TreeLLi/APT, apt/trainers/apt.py): the prompt is tokenised with one
    placeholder word a vector, so its length and end-of-text position do not depend on where the vectors stand.

    Raises:
        UsageError: a class-specific context for another number of classes, or a template that does not fit the position.
    """
    vectors = context.vectors
    count = vectors.shape[-2]
    if vectors.ndim == 3 and len(vectors) != len(classes):
        raise UsageError(f"this context holds words for {len(vectors)} classes, one set each; got {len(classes)} classes")
    if context.template.count("{ctx}") != 1:
        raise UsageError(f"a context template needs {{ctx}} exactly once; got {context.template!r}")
    before, after = context.template.split("{ctx}")
    template = before + " ".join([PLACEHOLDER] * count) + after
    tokens = backbone.embed_text(fill(template, classes))
    start = 1 + (_length(backbone, before.strip()) if before.strip() else 0)
    words = vectors.to(tokens.embeddings.dtype).expand(len(classes), -1, -1)
    embeddings = torch.cat([tokens.embeddings[:, :start], words, tokens.embeddings[:, start + count :]], dim=1)
    ids = tokens.ids
    if context.position != "end":
        if before or not after.startswith(" {}"):
            raise UsageError(f"position {context.position!r} needs a template '{{ctx}} {{}}...'; got {context.template!r}")
        order = _reorder(backbone, classes, count, context.position, ids.shape[1]).to(ids.device)
        embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
        ids = ids.gather(1, order)
    shared = shared_columns(ids)
    return replace(tokens, embeddings=embeddings, ids=ids, shared=min(shared, start) if vectors.ndim == 3 else shared)


def _length(backbone: Backbone, text: str) -> int:
    """Number of tokens of a text between start and end."""
    return int(backbone.embed_text([text]).eot[0]) - 1


def _reorder(backbone: Backbone, classes: Sequence[str], count: int, position: str, length: int) -> Tensor:
    """[K, T] source position of every token when the context moves behind (part of) the class name."""
    rows = []
    for name in classes:
        name_length = _length(backbone, prompt_name(name))
        head = count // 2 if position == "middle" else 0
        context = list(range(1, 1 + count))
        words = list(range(1 + count, 1 + count + name_length))
        moved = [0, *context[:head], *words, *context[head:]]
        rows.append([*moved, *range(len(moved), length)])
    return torch.tensor(rows)


def class_prompts(backbone: Backbone, classes: Sequence[str], adaptation: Adaptation) -> list[PromptTokens]:
    """What to encode for these classes: one batch with the learned context, or one a template."""
    if adaptation.context is not None:
        return [splice(backbone, classes, adaptation.context)]
    return [backbone.embed_text(fill(template, classes)) for template in adaptation.templates or (DEFAULT_TEMPLATE,)]


def average(features: Sequence[Tensor]) -> Tensor:
    """[K, E] unit features: the direction of the mean of the unit features of every template (CLIP's ensemble)."""
    if len(features) == 1:
        return F.normalize(features[0], dim=-1)
    return F.normalize(torch.stack([F.normalize(f, dim=-1) for f in features]).mean(0), dim=-1)
