"""The plain CLIP reference (openai/CLIP, random weights) through our adapter: tokens, attention, features, logits, gradient."""

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from parity import activation, assert_matches, load_case, notes_of, parity_clip, parity_state, template
from safetensors.torch import save_file

from ironclip.backbones import assemble, load
from ironclip.backbones.wrapping import OPENAI_MEAN, OPENAI_STD, wrap
from ironclip.core.types import Adaptation, Trace


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def setting(request):
    """(backbone, case) in one precision."""
    model = parity_clip(request.param)
    case = load_case("clip", request.param)
    sizes = case[1]["constants"]
    backbone = wrap(
        model, SimpleTokenizer(context_length=sizes["context_length"]), name="parity", activation=activation(),
        mean=sizes["pixel_mean"], std=sizes["pixel_std"],
    )  # fmt: skip
    return backbone, case


def prompted(case) -> Adaptation:
    """The template of the stored prompts."""
    tensors, notes = case
    return Adaptation(templates=(template(tensors["tokens"], notes["constants"]["classes"]),))


def test_tokens_of_the_prompts(setting):
    backbone, (tensors, notes) = setting
    assert torch.equal(backbone.tokenize(notes["constants"]["prompts"]), tensors["tokens"])
    assert backbone.spec.logit_scale == pytest.approx(notes["constants"]["logit_scale"], rel=1e-6)


def test_image_tokens_attention_and_features(setting):
    backbone, case = setting
    trace = Trace(attention=True)
    traced = backbone.encode_image(case[0]["images"], trace=trace)
    assert_matches(case, "tokens_after_ln_pre", trace.inputs[0])
    assert_matches(case, "image_tokens", torch.stack([trace.inputs[layer] for layer in range(1, 1 + backbone.spec.image_layers)]))
    assert_matches(case, "image_attention", torch.stack([trace.weights[layer] for layer in range(backbone.spec.image_layers)]))
    assert_matches(case, "image_features", traced)
    assert_matches(case, "image_features", backbone.encode_image(case[0]["images"]))


def test_text_tokens_and_features(setting):
    backbone, case = setting
    tensors, notes = case
    tokens, trace = backbone.embed_text(notes["constants"]["prompts"]), Trace()
    traced = backbone.encode_text(tokens, trace=trace)
    length = min(tensors["text_tokens"].shape[2], tokens.embeddings.shape[1])
    after = torch.stack([trace.inputs[layer][:, :length] for layer in range(1, 1 + backbone.spec.text_layers)])
    short = {**tensors, "text_tokens": tensors["text_tokens"][:, :, :length]}
    assert_matches((short, notes), "text_tokens", after)
    assert_matches(case, "text_features", traced)
    assert_matches(case, "text_features", backbone.encode_text(tokens))


def test_logits_loss_and_pixel_gradient(setting):
    backbone, case = setting
    tensors, notes = case
    classifier = assemble(backbone, notes["constants"]["classes"], prompted(case))
    images = tensors["images"].clone().requires_grad_()
    logits = classifier(images)
    loss = F.cross_entropy(logits, tensors["labels"])
    (gradient,) = torch.autograd.grad(loss, images)
    assert_matches(case, "logits", logits)
    assert_matches(case, "logits_per_text", logits.T)
    assert_matches(case, "cross_entropy", loss)
    assert_matches(case, "pixel_gradient", gradient)


def test_the_reference_weights_load_from_a_file_in_openais_format(tmp_path):
    sizes = notes_of("clip")["constants"]
    if any(sizes[f"{tower}_width"] != 64 * sizes[f"{tower}_heads"] for tower in ("vision", "text")):
        pytest.skip("the format has no number of heads: it stands for heads of width 64")
    if (activation(), sizes["pixel_mean"], sizes["pixel_std"]) != ("quick_gelu", list(OPENAI_MEAN), list(OPENAI_STD)):
        pytest.skip("the format has neither activation nor pixel statistics: it stands for OpenAI's")
    state = {name: tensor.nan_to_num(0.0).contiguous() for name, tensor in parity_state().items()}
    save_file({**state, "input_resolution": torch.tensor(sizes["image_size"])}, tmp_path / "reference.safetensors")
    backbone = load(str(tmp_path / "reference.safetensors"))
    assert backbone.spec.activation == "quick_gelu"
    case = load_case("clip", torch.float32)
    assert_matches(case, "logits", assemble(backbone, sizes["classes"], prompted(case))(case[0]["images"]))
