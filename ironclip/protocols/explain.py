"""Images with the attention of a classifier, and the views that a test-time method kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ironclip.core.types import Classifier
from ironclip.protocols.classify import Prediction
from ironclip.testtime import AdaptingClassifier, attention_map

KEPT = 8  # views of an image that are shown, those of largest weight


@dataclass(frozen=True)
class View:
    """A view [3, S, S] with its share of the answer (of the step, where the image alone answers)."""

    picture: Any
    weight: float
    tuned: bool


@dataclass(frozen=True)
class Explained:
    """A prediction with its image.

    Args:
        image: [3, S, S] as the model sees it, an array.
        attention: [G, G] in [0, 1], an array; None where the model has none.
        views: the kept views, the largest weight first.
        drawn: how many views there were; 0: the method has none.
    """

    prediction: Prediction
    picture: Any
    attention: Any | None
    views: tuple[View, ...] = ()
    drawn: int = 0


def explain(classifier: Classifier, predictions: Sequence[Prediction], images: Tensor) -> list[Explained]:
    """Attention and views for each of the images [B, 3, S, S]; the method adapts once more."""
    attention = attention_map(classifier, images)  # type: ignore[arg-type]
    looked = classifier.observed(images) if isinstance(classifier, AdaptingClassifier) else None
    found = []
    for row, prediction in enumerate(predictions):
        views: list[View] = []
        if looked is not None:
            weights, tuned = looked.weights[row], looked.tuned[row]
            for view in weights.argsort(descending=True, stable=True)[:KEPT].tolist():
                if weights[view] > 0:
                    picture = looked.views[row, view].clamp(0, 1).cpu().numpy()
                    views.append(View(picture, float(weights[view]), bool(tuned[view])))
        seen = None if attention is None else attention[row].cpu().numpy()
        drawn = 0 if looked is None else looked.weights.shape[1]
        found.append(Explained(prediction, images[row].cpu().numpy(), seen, tuple(views), drawn))
    return found
