"""A tiny backbone, a batch, a few attacks, and a backbone that has sizes alone."""

from types import SimpleNamespace

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from ironclip.attacks.pgd import PGD
from ironclip.backbones.text import shared_columns
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.types import BackboneSpec, Batch, PromptTokens

CLASSES = ("cat", "golden_retriever", "school bus", "tram")


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="session")
def batch():
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.rand(8, 3, 32, 32, generator=draw), torch.arange(8) % 4, torch.arange(8), CLASSES)


@pytest.fixture(scope="session")
def attack():
    return PGD(eps=4 / 255, step_size=2 / 255, steps=2, keep="last")


class Sizes:
    """A backbone of given widths that computes nothing: parameter counts depend on sizes alone."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, image: tuple[int, int], text: tuple[int, int], *, image_tokens: int = 197) -> None:
        self.spec = BackboneSpec(
            name="sizes", kind="vit" if image_tokens else "resnet", image_layers=image[0], image_width=image[1],
            text_layers=text[0], text_width=text[1], embed_dim=8, grid=14, image_tokens=image_tokens, resolution=224,
            context_length=77, logit_scale=100.0, activation="quick_gelu", mean=(0.0,) * 3, std=(1.0,) * 3,
        )  # fmt: skip
        self._tokenizer = SimpleTokenizer()

    def tokenize(self, texts):
        return self._tokenizer(list(texts))

    def embed_text(self, texts):
        ids = self.tokenize(texts)
        return PromptTokens(torch.zeros(*ids.shape, self.spec.text_width), ids.argmax(1), shared_columns(ids), ids)

    def encode_text(self, tokens, **options):
        return torch.ones(len(tokens.eot), 8)

    def image_weight(self, name):
        raise NotImplementedError

    text_weight = image_weight


@pytest.fixture(scope="session")
def vit_b():
    """ViT-B/16 and ViT-B/32."""
    return Sizes((12, 768), (12, 512))


@pytest.fixture(scope="session")
def vit_l():
    return Sizes((24, 1024), (12, 768), image_tokens=257)


@pytest.fixture(scope="session")
def rn50():
    return Sizes((16, 2048), (12, 512), image_tokens=0)


@pytest.fixture
def spy():
    """An attack that hands images back and writes down what it was given."""
    calls = []

    def attack(function, images, labels, **options):
        calls.append(SimpleNamespace(function=function, images=images, labels=labels, **options))
        return images

    attack.calls = calls
    return attack
