"""From an adaptation to a classifier: logits of plain open_clip, precision, detachment, heads and refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.backbones import ScaledCosine, assemble
from ironclip.backbones.tiny import tiny_backbone, tiny_clip
from ironclip.core.errors import NonFinite, UsageError
from ironclip.core.types import Adaptation, Context, Mask, Trace

CLASSES = ("cat", "golden_retriever", "tram")
PROMPTS = ["a photo of a cat.", "a photo of a golden retriever.", "a photo of a tram."]
WEIGHT = "transformer.resblocks.0.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_logits_and_pixel_gradients_equal_open_clips(backbone, images):
    model = tiny_clip()
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    found = assemble(backbone, CLASSES)(ours)
    seen = model.encode_image((theirs - backbone.mean) / backbone.std, normalize=True)
    expected = model.logit_scale.exp() * seen @ model.encode_text(backbone.tokenize(PROMPTS), normalize=True).T
    assert_close(found, expected, atol=5e-5, rtol=0)
    labels = torch.tensor([0, 1, 2, 0])
    slopes = [torch.autograd.grad(F.cross_entropy(out, labels), leaf)[0] for out, leaf in ((found, ours), (expected, theirs))]
    assert_close(*slopes, atol=1e-5, rtol=1e-4)


def test_a_prediction_does_not_depend_on_the_batch(backbone, images):
    classifier = assemble(backbone, CLASSES)
    assert_close(classifier(images)[1:2], classifier(images[1:2]), atol=1e-5, rtol=0)


def test_templates_are_averaged_as_unit_features(backbone, images):
    templates = ("a photo of a {}.", "the {}")
    ensemble = assemble(backbone, CLASSES, Adaptation(templates=templates))
    single = [assemble(backbone, CLASSES, Adaptation(templates=(t,))).text_features for t in templates]
    assert_close(ensemble.text_features, F.normalize(single[0] + single[1], dim=-1))
    assert_close(ensemble.text_features.norm(dim=-1), torch.ones(3))


def test_bfloat16_inside_float32_outside(backbone, images):
    exact, rough = assemble(backbone, CLASSES), assemble(backbone, CLASSES, precision="bfloat16")
    logits = rough(images)
    assert logits.dtype == rough.text_features.dtype == rough.encode_image(images).dtype == torch.float32
    difference = (logits - exact(images)).abs().max()
    assert 0 < difference < 0.5
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(rough(leaf).square().sum(), leaf)
    (expected,) = torch.autograd.grad(exact(leaf).square().sum(), leaf)
    assert slope.dtype == torch.float32
    assert F.cosine_similarity(slope.flatten(), expected.flatten(), dim=0) > 0.98
    assert next(backbone.parameters()).dtype == torch.float32


class GridHead:
    """Logits from the mean patch."""

    def __init__(self) -> None:
        self.seen: list[Trace] = []

    def trace(self) -> Trace:
        return Trace(layers=(0,), attention=True, grid=True)

    def __call__(self, output, text_features):
        self.seen.append(output.trace)
        return F.normalize(output.trace.projected.mean(1), dim=-1) @ text_features.T


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_head_gets_the_trace_it_asked_for_in_float32(backbone, images, precision):
    head = GridHead()
    classifier = assemble(backbone, CLASSES, Adaptation(head=head), precision=precision)
    assert classifier(images).shape == (4, 3)
    classifier(images)
    first, second = head.seen
    assert first is not second
    for tensor in (first.projected, first.inputs[0], first.weights[0]):
        assert tensor.dtype == torch.float32


def test_pixels_change_before_normalisation_in_order(backbone, images):
    adaptation = Adaptation(pixels=(lambda x: x + 0.1, lambda x: x * 0.5))
    changed = assemble(backbone, CLASSES, adaptation)
    assert_close(changed(images), assemble(backbone, CLASSES)((images + 0.1) * 0.5))
    assert_close(changed.encode_image(images), backbone.encode_image((images + 0.1) * 0.5))


def test_masks_reach_both_towers_with_gradients(backbone, images):
    masks = {
        side: torch.full_like(getattr(backbone, f"{side}_weight")(WEIGHT), 0.5).requires_grad_() for side in ("image", "text")
    }
    adaptation = Adaptation(image_weights={WEIGHT: Mask(masks["image"])}, text_weights={WEIGHT: Mask(masks["text"])})
    classifier = assemble(backbone, CLASSES, adaptation)
    logits = classifier(images)
    halves = {side: getattr(backbone, f"{side}_weight")(WEIGHT) * 0.5 for side in masks}
    whole = assemble(
        backbone, CLASSES, Adaptation(image_weights={WEIGHT: halves["image"]}, text_weights={WEIGHT: halves["text"]})
    )
    assert_close(logits, whole(images))
    slopes = torch.autograd.grad(logits.square().sum(), list(masks.values()))
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_the_detached_twin_gives_the_same_logits_and_no_graph_but_the_pixels(backbone, images):
    context = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.full_like(backbone.image_weight(WEIGHT), 0.9).requires_grad_()
    adaptation = Adaptation(context=Context(context), image_weights={WEIGHT: Mask(mask)})
    classifier = assemble(backbone, CLASSES, adaptation)
    twin = classifier.detached()
    assert torch.equal(twin(images), classifier(images))
    assert not twin(images).requires_grad
    assert classifier(images).requires_grad
    assert classifier.text_features.requires_grad
    assert twin.backbone is backbone
    assert twin(images.clone().requires_grad_()).requires_grad
    slopes = torch.autograd.grad(classifier(images).square().sum(), [context, mask])
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_sigmoid_models_add_their_bias(backbone, images):
    plain, biased = ScaledCosine(20.0), ScaledCosine(20.0, -7.0)
    classifier = assemble(backbone, CLASSES)
    for head, shift in ((plain, 0.0), (biased, -7.0)):
        logits = assemble(backbone, CLASSES, Adaptation(head=head))(images)
        assert_close(logits, classifier(images) * 20.0 / backbone.spec.logit_scale + shift)


def test_float64_goes_through_to_the_logits(images):
    backbone = tiny_backbone().double()
    logits = assemble(backbone, CLASSES)(images)
    assert logits.dtype == torch.float64
    assert_close(logits.float(), assemble(tiny_backbone(), CLASSES)(images), atol=5e-5, rtol=0)


def test_what_cannot_be_assembled_is_refused_in_one_line(backbone):
    with pytest.raises(UsageError, match="at least two classes"):
        assemble(backbone, ["cat"])
    with pytest.raises(UsageError, match="precision must be float32 or bfloat16; got 'fp16'"):
        assemble(backbone, CLASSES, precision="fp16")
    with pytest.raises(NonFinite, match="text features of tiny are not finite"):
        assemble(backbone, CLASSES, Adaptation(context=Context(torch.full((2, 32), torch.nan))))


def test_a_classifier_remembers_and_borrows_what_it_was_made_of(backbone, images):
    adaptation = Adaptation(templates=("the {}",))
    classifier = assemble(backbone, list(CLASSES), adaptation)
    assert classifier.classes == CLASSES
    assert classifier.adaptation is adaptation
    assert classifier.backbone is backbone
