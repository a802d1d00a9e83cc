"""Classifiers that replace a defended one in an adaptive attack: images -> logits computed in another way."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

View = Callable[[Tensor], Tensor]


class Surrogate(nn.Module):
    """images [B, 3, H, W] -> logits [B, K] in another way through the same classifier; `name` is its name in records."""

    def __init__(self, name: str, classifier: Any, view: View) -> None:
        super().__init__()
        self.name, self.classifier, self.view = name, classifier, view

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    def forward(self, images: Tensor) -> Tensor:
        return self.view(images)


class Features(Surrogate):
    """A surrogate with `encode_image` [B, F], which an attack on features pushes away from its clean value."""

    def __init__(self, name: str, classifier: Any, view: View, features: View) -> None:
        super().__init__(name, classifier, view)
        self.features = features

    def encode_image(self, images: Tensor) -> Tensor:
        return self.features(images).flatten(1)
