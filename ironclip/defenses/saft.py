"""SAFT: TGA-ZSR on several descriptions per class, those with the highest cosine to the class name.

Source: arXiv 2602.12461; official code tmlr-group/SAFT (helper.py, attacks/pgd_attack.py, training.py). Of a pool of descriptions
per class the n with the highest cosine to the feature of the bare class name are kept, best first: T [n, K, E]. The cross-entropy
is the mean over descriptions j of CE(s f^(x') T_j, y), in the inner attack and in the outer loss [code]; the map of an image is
that of TGA-ZSR with the mean of the n features of its class as its text, because the products are averaged before they are scaled
[code]. Loss terms and other deviations are those of `tga_zsr`. Ours: a class with too few descriptions is filled up with its
template, and without a file every class has its template alone, which is TGA-ZSR. Classification uses the templates [code].

Equations, A(x) the map of `tga_zsr` and T_j the j-th kept description of every class:

    L = 1/n sum_j CE(s f(x') T_j, y) + alpha ||A(x') - A_ori(x)|| + beta ||A(x) - A_ori(x)||
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ironclip.backbones import AdaptedClassifier
from ironclip.backbones.prompts import fill
from ironclip.core.errors import UsageError
from ironclip.core.options import check_whole
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, ImageOutput
from ironclip.defenses.tga_zsr import TGA, logits_and_maps, map_distance


class SAFT(TGA):
    """Semantic-aware adversarial fine-tuning.

    Args:
        descriptions: file {"class": ["a sentence", ...]} in JSON, or that mapping; None: the templates alone.
        kept: n, descriptions per class.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        descriptions: str | Mapping[str, Sequence[str]] | None = None,
        kept: int = 5,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, **shared)
        check_whole("kept", kept, 1)
        self.pool, self.kept = read_descriptions(descriptions), kept
        self._made: tuple[Backbone, tuple[str, ...], Tensor] | None = None
        if not self.pool:
            self.notes = ("saft without descriptions: every class has its template alone, which is TGA-ZSR",)
        else:
            missing = [name for name in classes if _plain(name) not in self.pool]
            if len(missing) == len(classes):
                raise UsageError(f"descriptions name none of these classes; missing: {', '.join(missing[:5])}")
            self.notes = (f"saft: {len(classes) - len(missing)} of {len(classes)} classes have descriptions",)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, labels = self.classifier(backbone, batch.classes, adaptation), batch.labels
        texts, constant = self.texts(backbone, batch.classes), tuned.detached()
        own = texts.mean(0)[labels][:, None]

        def answers(images: Tensor) -> Tensor:
            return ensemble(constant, images, texts)

        adv = attack(answers, batch.images, labels, indices=batch.indices, loss=mean_entropy)
        with torch.no_grad():
            target = logits_and_maps(self.original(backbone, batch.classes), batch.images, own, self.tga_norm)[1][:, 0]
        moved = logits_and_maps(tuned, adv, own, self.tga_norm)[1][:, 0]
        kept = logits_and_maps(tuned, batch.images, own, self.tga_norm)[1][:, 0]
        return {
            "adv_ce": mean_entropy(ensemble(tuned, adv, texts), labels).mean(),
            "adv_map": self.alpha * map_distance(moved, target, self.distance),
            "clean_map": self.beta * map_distance(kept, target, self.distance),
        }

    def texts(self, backbone: Backbone, classes: Sequence[str]) -> Tensor:
        """[n, K, E] unit features of the kept descriptions, best first; n is 1 without a file."""
        names, made = tuple(classes), self._made
        if made is None or made[0] is not backbone or made[1] != names or made[2].device != backbone.device:
            with torch.no_grad():
                found = torch.stack([self._of_class(backbone, name) for name in names], dim=1)
            self._made = made = (backbone, names, found)
        return made[2]

    def _of_class(self, backbone: Backbone, name: str) -> Tensor:
        template = fill(self.templates[0], (name,))[0]
        pool = list(self.pool.get(_plain(name), ()))
        if not self.pool:
            return encoded(backbone, [template])
        features = encoded(backbone, [*pool, template])
        best = nearest(features[:-1], encoded(backbone, [_plain(name)])[0], self.kept) if pool else []
        return features[best + [len(pool)] * (self.kept - len(best))]


def nearest(features: Tensor, name: Tensor, count: int) -> list[int]:
    """Rows of unit features [P, E] by falling cosine with the unit feature of a name [E], at most `count`."""
    return (features @ name).argsort(descending=True, stable=True)[:count].tolist()


def encoded(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """[n, E] unit features."""
    return normalize(backbone.encode_text(backbone.embed_text(list(texts))), dim=-1)


def ensemble(classifier: AdaptedClassifier, images: Tensor, texts: Tensor) -> Tensor:
    """[B, n, K] logits of images against each set of texts [n, K, E], from one pass."""
    trace = classifier.head.trace()
    output = ImageOutput(classifier.encode_image(images, trace=trace), trace)
    return torch.stack([classifier.head(output, each) for each in texts], dim=1)


def mean_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] cross-entropy of logits [B, n, K], mean over n."""
    return cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]), reduction="none").unflatten(
        0, logits.shape[:2]
    ).mean(1)  # fmt: skip


def _plain(name: str) -> str:
    """A class name as a key of the descriptions: lower case, with spaces."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").replace("/", " ").split())


def _sentences(name: object, texts: object) -> bool:
    """Whether this is a class with at least one sentence."""
    some = isinstance(texts, list | tuple) and bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)
    return isinstance(name, str) and some


def read_descriptions(given: str | Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Class name -> its descriptions; UsageError where a file or a mapping holds anything else."""
    if given is None:
        return {}
    if isinstance(given, str):
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(f'descriptions names a JSON file {{"class": ["sentence", ...]}}; cannot read it: {error}') from None
    good = isinstance(given, Mapping) and given and all(map(_sentences, given, given.values()))
    if not good:
        raise UsageError('descriptions are a mapping {"class": ["sentence", ...]} with at least one sentence for each class')
    assert isinstance(given, Mapping)
    return {_plain(name): tuple(texts) for name, texts in given.items()}


METHOD = SAFT
