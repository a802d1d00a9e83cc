"""What a method must keep on a tower: sequences of the right length in every layer, and learned tensors that all matter."""

from collections.abc import Callable

import torch
from torch import Tensor

from ironclip import defenses, testtime
from ironclip.attacks.pgd import PGD
from ironclip.backbones import AdaptedClassifier, ClipBackbone, assemble
from ironclip.core.types import Batch, Trace

CLASSES = ("cat", "golden_retriever", "tram")
METHODS = (*defenses.NAMES, *testtime.NAMES)
SMALL = {"views": 4, "copies": 2, "steps": 1, "draws": 2, "codes": 8, "latent_width": 8}
"""Options that keep a method small, where it has them; everything else is its default."""
AVERAGED = ("codebook", "usage")
"""Ends of the names of tensors that are learned as moving averages, without a gradient."""
UNASKED = ("usage", "tau")
"""Ends of the names of what training alone reads: how often each code was met, and the temperature of a loss."""
ATTACK = PGD(eps=8 / 255, step_size=4 / 255, steps=2, keep="last", seed=3)


def given(name: str) -> dict[str, int]:
    known = (defenses if name in defenses.NAMES else testtime).options(name)
    return {key: value for key, value in SMALL.items() if key in known}


def pictures(backbone: ClipBackbone) -> Batch:
    """Three images of coarse random patterns."""
    side, draw = backbone.spec.resolution, torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, 8, 8, generator=draw)
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="nearest")
    return Batch(images, torch.arange(3), torch.arange(3), CLASSES)


def check(name: str, backbone: ClipBackbone) -> None:
    """Nothing where the method keeps the contract on this tower.

    Raises:
        IronclipError: the method says that it cannot stand on it.
        AssertionError: a sequence of another length, a learned tensor without effect or gradient, logits that are no numbers.
    """
    if name in defenses.NAMES:
        check_trained(name, backbone)
    else:
        check_test_time(name, backbone)


def check_trained(name: str, backbone: ClipBackbone) -> None:
    defense = defenses.build(name, backbone, CLASSES, generator=torch.Generator().manual_seed(0), given=given(name))
    batch = pictures(backbone)
    defense.prepare(backbone, [batch])
    learned = dict(defense.named_parameters())
    _move(learned)  # what starts at zero holds others back
    terms = defense.loss(backbone, batch, ATTACK)
    if learned:
        total = torch.stack([term for term in terms.values() if term.requires_grad]).sum()
        slopes = torch.autograd.grad(total, list(learned.values()), allow_unused=True)
        for (key, tensor), slope in zip(learned.items(), slopes, strict=True):
            if key.endswith(AVERAGED):
                continue
            if not _has_rows(key, tensor):
                assert slope is not None, f"{key} gets no gradient"
                assert slope.abs().max() > 0, f"{key} gets a zero gradient"
                continue
            assert slope is not None, f"{key} gets no gradient"
            dead = [depth for depth, row in enumerate(slope) if not row.abs().max() > 0]
            assert not dead, f"{key}: no gradient at depths {dead}"
    check_sequences(assembled(defense, backbone), batch.images)
    before = _logits(defense, backbone, batch)
    for key, tensor in learned.items():
        if key.endswith(UNASKED):
            continue
        assert _matters(tensor, lambda: _logits(defense, backbone, batch), before), f"the logits do not depend on {key}"


def check_test_time(name: str, backbone: ClipBackbone) -> None:
    with torch.no_grad():
        base = assemble(backbone, CLASSES)
    batch, method = pictures(backbone), testtime.build(name, given(name))
    method.prepare(base, iter([batch]))
    classifier = method(base)
    stands_on = getattr(classifier, "base", None)
    if isinstance(stands_on, AdaptedClassifier):
        check_sequences(stands_on, batch.images)
    for attacked in (classifier, *method.surrogates(classifier)):  # all that an attacker differentiates
        called = getattr(attacked, "name", name)
        images = batch.images.clone().requires_grad_()
        logits = attacked(images)
        assert logits.shape == (3, 3), called
        assert logits.isfinite().all(), called
        (slope,) = torch.autograd.grad(logits.square().sum(), images)
        assert slope.isfinite().all(), called
        assert slope.abs().max() > 0, f"{called}: the logits do not depend on the images"


def check_sequences(classifier: AdaptedClassifier, images: Tensor) -> None:
    """The image's own tokens enter every layer, and its output; appended ones stand behind them, in all but the output."""
    spec = classifier.backbone.spec
    appended = [edit for edit in classifier.adaptation.image_edits if getattr(edit, "appends", False)]
    extra = sum((getattr(edit, "prompts", None) if hasattr(edit, "prompts") else edit.tokens).shape[-2] for edit in appended)
    if not spec.image_tokens:
        assert not extra
        return
    trace = Trace()
    with torch.no_grad():
        classifier.encode_image(images, trace=trace)
    found = [trace.inputs[layer].shape[1] for layer in range(spec.image_layers + 1)]
    expected = [spec.image_tokens + extra] * spec.image_layers + [spec.image_tokens]
    assert found == expected, f"tokens of the layers are {found}, not {expected}"


def assembled(defense: defenses.Stack, backbone: ClipBackbone) -> AdaptedClassifier:
    with torch.no_grad():
        return assemble(backbone, CLASSES, defense.adaptation(backbone, CLASSES))


def _logits(defense: defenses.Stack, backbone: ClipBackbone, batch: Batch) -> Tensor:
    with torch.no_grad():
        return assembled(defense, backbone)(batch.images)


def _matters(tensor: Tensor, logits: Callable[[], Tensor], before: Tensor, draws: int = 4) -> bool:
    """Whether moving a tensor changes the logits, each time twice as far; the nearest code can hide a small move."""
    kept = tensor.detach().clone()
    for seed in range(1, draws + 1):
        _move({"": tensor}, seed=seed, far=2.0**seed)
        change = (logits() - before).abs().max()
        tensor.data.copy_(kept)
        if change > 1e-6:
            return True
    return False


def _has_rows(key: str, tensor: Tensor) -> bool:
    """Whether the first axis of a learned tensor counts prompted layers."""
    return tensor.ndim == 3 and key.endswith("tokens")


def _move(learned: dict[str, Tensor], seed: int = 0, *, far: float = 0.1) -> None:
    """Random steps of the tensors in place; with `far` of 2 more than rounding can hide."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in learned.values():
            size = 0.05 + tensor.abs().mean() * far
            tensor += size * torch.randn(tensor.shape, generator=draw)
