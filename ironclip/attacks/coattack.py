"""Co-Attack on image-text retrieval: one word of the caption first, then the image away from itself and from that caption.

Source: Zhang et al. 2022 (arXiv 2206.09391); constants [code: adversarial-for-goodness/Co-Attack, attack/multimodalAttack.py].
The released text attack asks BERT's masked language model for candidates; here they come from a function that the caller gives,
so that no language model is needed, and words are left out where the released code masks them [inferred: CLIP has no mask
token]. The norm of the text embedding is taken in the second term only, as released.

An attack on pairs, not on a classifier: it is not in the catalogue. With fixed class prompts there is no text to attack.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import scores
from ironclip.attacks.pgd import PGD
from ironclip.core.errors import DataError
from ironclip.core.losses import kl_each
from ironclip.core.options import check_number, check_whole
from ironclip.core.types import Backbone

Candidates = Callable[[Sequence[str], int], Sequence[str]]
"""(words of a caption, place) -> words to try there, best first; the word itself and stop words are skipped."""

STOP = frozenset("a an the of in on at to and or with is are was be by for from it its this that there some".split())  # noqa: SIM905


def coattack(
    backbone: Backbone,
    images: Tensor,
    captions: Sequence[str],
    *,
    candidates: Candidates,
    eps: float = 2 / 255,
    steps: int = 10,
    alpha: float = 3.0,
    words: int = 10,
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """(images [B, 3, H, W] in the ball and in [0, 1], captions with at most one word changed each).

    Args:
        backbone: both towers, frozen.
        images: [B, 3, H, W] in [0, 1].
        captions: B texts, one per image.
        candidates: proposes words; `neighbours(captions)` needs nothing else, a masked language model is stronger.
        steps: of length 1.25 eps / steps, from eps * U(0, 1); the last iterate.
        alpha: weight of the distance from the changed caption.
        words: candidates tried for each caption.
        seed: with the index, the key of each image's start.

    Raises:
        DataError: not one caption per image, or invalid images.
        UsageError, NonFinite: as `PGD`.
    """
    check_whole("steps", steps, 1)
    check_number("alpha", alpha, 0)
    images, positions = inputs.check_images(images), inputs.check_indices(indices, images)
    if len(captions) != len(images):
        raise DataError(f"expected one caption for each image; got {len(captions)} captions for {len(images)} images")
    if not len(images):
        return images, ()
    changed = attack_text(backbone, captions, candidates, words=words)
    with inputs.borrowed(backbone, True):
        clean = scores(backbone.encode_image, images)
        texts = F.normalize(_texts(backbone, changed), dim=1)

        def away(features: Tensor, rows: Tensor) -> Tensor:
            return kl_each(features, clean[rows]) + alpha * kl_each(F.normalize(features, dim=1), texts[rows])

        rows = torch.arange(len(images), device=images.device)
        climb = PGD(eps, 1.25 * eps / steps, steps=steps, start="one_sided", keep="last", loss=away, seed=seed)
        adv = climb(backbone.encode_image, images, rows, indices=positions)
    return adv, changed


def attack_text(backbone: Backbone, captions: Sequence[str], candidates: Candidates, *, words: int = 10) -> tuple[str, ...]:
    """Captions with at most one word changed: the most important one, to the candidate that moves the embedding furthest.

    Distances are KL of the softmaxes over the embedding. A caption without a proposal stays as it is.
    """
    check_whole("words", words, 1)
    return tuple(_attack_caption(backbone, caption, candidates, words) for caption in captions)


def _attack_caption(backbone: Backbone, caption: str, candidates: Candidates, count: int) -> str:
    words = caption.split()
    places = [place for place, word in enumerate(words) if word.lower().strip(".,!?") not in STOP] if len(words) > 1 else []
    if not places:
        return caption
    without = [" ".join(words[:place] + words[place + 1 :]) for place in places]
    for place in _order(backbone, caption, without, places):
        proposed = [word for word in candidates(words, place) if word.lower() not in STOP | {words[place].lower()}][:count]
        tried = [" ".join([*words[:place], word, *words[place + 1 :]]) for word in proposed]
        if tried:
            return tried[int(_shift(backbone, caption, tried).argmax())]
    return caption


def _order(backbone: Backbone, caption: str, without: Sequence[str], places: Sequence[int]) -> list[int]:
    """Places by falling importance: how far the embedding moves when the word is left out."""
    return [places[at] for at in _shift(backbone, caption, without).argsort(descending=True).tolist()]


def _shift(backbone: Backbone, caption: str, others: Sequence[str]) -> Tensor:
    """[n] KL(softmax(caption) || softmax(other)) over the embedding."""
    features = _texts(backbone, [caption, *others])
    return kl_each(features[1:], features[:1].expand(len(others), -1))


def _texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    with torch.no_grad():
        return backbone.encode_text(backbone.embed_text(texts)).float()


def neighbours(captions: Sequence[str]) -> Candidates:
    """Candidates from the captions themselves: the words that most often follow the same word there.

    A simple replacement for a masked language model; it is weaker, because it uses one neighbouring word only.
    """
    after: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for caption in captions:
        read = ["", *caption.lower().rstrip(".!? ").split()]
        for before, word in pairwise(read):
            after[before][word] += 1

    def propose(words: Sequence[str], place: int) -> list[str]:
        before = words[place - 1].lower() if place else ""
        return [word for word, _ in sorted(after[before].items(), key=lambda found: (-found[1], found[0]))]

    return propose
