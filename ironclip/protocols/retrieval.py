"""Retrieval with the towers of a defence: recall at 1, 5 and 10 both ways, clean, under PGD and under Co-Attack.

What a defence changes in the towers takes part: pixels, edits and weights of the image tower, edits and weights of the text
tower. Class prompts and heads do not: a caption is no class prompt. Equal captions are one text, which is right for every
image with it. Under an attack all images of the gallery are attacked, Co-Attack changes all captions, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.attacks.coattack import attack_text, coattack, neighbours
from ironclip.attacks.pgd import PGD
from ironclip.backbones.assembly import AdaptedClassifier
from ironclip.core.errors import DataError, UsageError
from ironclip.core.memory import over
from ironclip.core.merging import resolve_weights
from ironclip.core.types import BackboneSpec, Batch, PromptTokens
from ironclip.data import EvalSet
from ironclip.data.captions import Captioned, captioned_folder, captions_of
from ironclip.protocols.resolve import open_target
from ironclip.records.folder import is_run
from ironclip.records.record import Proportion

TOP = (1, 5, 10)
SHARED = ("pixels", "image_edits", "image_weights", "text_edits", "text_weights")


class DefendedTowers:
    """The two towers of a classifier with what its defence changes in them, as Co-Attack and a search see them.

    Raises:
        UsageError: the defence changes class prompts or the head alone.
    """

    def __init__(self, classifier: AdaptedClassifier, method: str = "") -> None:
        self.classifier, self.backbone = classifier, classifier.backbone
        adaptation = classifier.adaptation
        if method not in ("", "zero_shot") and not any(getattr(adaptation, name) for name in SHARED):
            raise UsageError(
                f"{method} changes class prompts or the head alone, so a retrieval would be that of the backbone; measure a "
                "defence that changes a tower, such as nap, advmask or tecoa"
            )
        self._text_weights = resolve_weights(adaptation.text_weights, self.backbone.text_weight)

    @property
    def spec(self) -> BackboneSpec:
        return self.backbone.spec

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def encode_image(self, images: Tensor) -> Tensor:
        """[B, E] features of the defended image tower."""
        return self.classifier.encode_image(images)

    def embed_text(self, texts: Sequence[str]) -> PromptTokens:
        return self.backbone.embed_text(texts)

    def encode_text(self, tokens: PromptTokens) -> Tensor:
        """[n, E] features of the defended text tower."""
        return self.backbone.encode_text(tokens, edits=self.classifier.adaptation.text_edits, weights=self._text_weights)


@dataclass(frozen=True)
class Retrieved:
    """Recall under one attack: "image to text at 5" -> share of the queries with a right answer among the first five."""

    attack: str
    recall: dict[str, Proportion]


def retrieval(
    towers: DefendedTowers,
    captioned: Captioned,
    *,
    split: str = "test",
    eps: float = 2 / 255,
    steps: int = 10,
    limit: int | None = None,
    batch_size: int = 50,
    seed: int = 0,
) -> list[Retrieved]:
    """Recall without an attack, under PGD on the images, and under Co-Attack on images and captions.

    PGD raises the cross-entropy of an image's own captions among all of them, at the scale of the backbone.

    Raises:
        DataError: fewer than two different captions.
    """
    pictures = EvalSet(captioned.dataset, split, resolution=towers.spec.resolution, limit=limit)
    own = [captioned.texts[index] for index in pictures.indices.tolist()]
    texts = list(dict.fromkeys(text for some in own for text in some))
    if len(texts) < 2:
        raise DataError(f"retrieval needs at least two different captions; {captioned.dataset.name} has {len(texts)}")
    place = {text: number for number, text in enumerate(texts)}
    relevant = torch.zeros(len(own), len(texts), dtype=torch.bool, device=towers.device)
    for row, some in enumerate(own):
        relevant[row, [place[text] for text in some]] = True
    backbone: Any = towers
    propose = neighbours(texts)
    changed = attack_text(backbone, texts, propose)
    clean_texts, moved_texts = _texts(towers, texts), _texts(towers, changed)
    scale = towers.spec.logit_scale
    places = {index: number for number, index in enumerate(pictures.indices.tolist())}

    def away(features: Tensor, rows: Tensor) -> Tensor:
        return _own_entropy(scale * F.normalize(features, dim=1) @ clean_texts.T, relevant[rows])

    pgd = PGD(eps, eps / 4, steps=steps, loss=away, seed=seed)

    def searched(batch: Batch) -> list[Tensor]:
        """Unit features of these images: as they are, under PGD, and under Co-Attack."""
        images, indices = batch.images.to(towers.device), batch.indices
        rows = torch.tensor([places[index] for index in indices.tolist()], device=towers.device)
        first = [captioned.texts[index][0] for index in indices.tolist()]
        both = coattack(backbone, images, first, candidates=propose, eps=eps, steps=steps, seed=seed, indices=indices)[0]
        attacked = pgd(towers.encode_image, images, rows, indices=indices)
        with torch.no_grad():
            return [F.normalize(towers.encode_image(shown), dim=1) for shown in (images, attacked, both)]

    features = map(torch.cat, zip(*over(pictures.batches(batch_size), searched, towers.device), strict=True))
    compared = {"clean": clean_texts, "pgd on images": clean_texts, "coattack on both": moved_texts}
    pairs = zip(compared.items(), features, strict=True)
    return [Retrieved(name, recalls(images @ texts.T, relevant)) for (name, texts), images in pairs]


def recalls(similarity: Tensor, relevant: Tensor) -> dict[str, Proportion]:
    """Share of queries with a relevant answer among the first 1, 5 and 10, both ways.

    Args:
        similarity: [N, M] of images and texts. relevant: [N, M] which texts are right for which image.
    """
    found: dict[str, Proportion] = {}
    for way, scores, right in (("image to text", similarity, relevant), ("text to image", similarity.T, relevant.T)):
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        ahead = ((scores >= best) & ~right).sum(1)  # a wrong answer that ties stands before the right one
        found |= {f"{way} at {top}": Proportion.measured(int((ahead < top).sum()), len(ahead)) for top in TOP}
    return found


def _own_entropy(logits: Tensor, own: Tensor) -> Tensor:
    """[B] cross-entropy of the image's own texts together."""
    return logits.logsumexp(1) - logits.masked_fill(~own, -torch.inf).logsumexp(1)


def _texts(towers: DefendedTowers, texts: Sequence[str], batch: int = 100) -> Tensor:
    """[M, E] unit features."""
    with torch.no_grad():
        parts = [towers.encode_text(towers.embed_text(texts[at : at + batch])) for at in range(0, len(texts), batch)]
    return F.normalize(torch.cat(parts).float(), dim=1)


def opened(target: str, data: str | None, split: str, *, device: str = "cpu") -> tuple[Any, Captioned]:
    """The experiment of a run, or of a backbone (zero-shot), and the captioned images that it is measured on.

    Args:
        data: a data set with captions, or a folder of images and captions; None: the data of the run.

    Raises:
        DataError: images without captions.
        UsageError: neither a run nor a backbone.
    """
    folder = captioned_folder(data) if data is not None else None
    run = Path(target).exists() and is_run(Path(target))
    other = None if folder is not None and run else "shapes" if folder is not None else data
    experiment = open_target(target, other, device=device)[1]
    return experiment, folder or captions_of(experiment.dataset, split)


def towers_of(experiment: Any) -> DefendedTowers:
    """The towers of a run's defence.

    Raises:
        UsageError: it changes no tower, or a test-time method stands on it.
    """
    if experiment.test_time is not None:
        raise UsageError("a test-time method adapts to class prompts, which retrieval does not have; measure the run below it")
    with torch.no_grad():
        return DefendedTowers(experiment.base, experiment.config.method)
