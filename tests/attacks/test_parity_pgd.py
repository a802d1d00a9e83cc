"""PGD, the margin attack and the boxes of APT's inner attack on a plain open_clip model, against the released codes."""

import pytest
import torch
from parity import PlainClassifier, assert_matches, load_case, notes_of, parity_clip
from toys import pgd

from ironclip.core.losses import cross_entropy_each

DTYPES = {"float64": torch.float64, "float32": torch.float32}
ATTACKS = sorted(name for name, sizes in notes_of("tecoa")["constants"].items() if isinstance(sizes, dict) and "steps" in sizes)

BOXED = [name for name in ("train_onfly", "train_constant") if f"{name}.adversarial_images" in notes_of("apt")["tensors"]]


def constants(sizes):
    return {name: sizes[name] for name in ("eps", "step_size", "steps")}


@pytest.mark.parametrize("name", ATTACKS)
def test_pgd_and_cw_equal_tecoa(name):
    case, model = load_case("tecoa"), parity_clip()
    inputs, notes = case
    function = PlainClassifier(model, model.encode_text(inputs["tokens"]))
    assert_matches(case, "logits", function(inputs["images"]))
    found = pgd(
        function, inputs["images"], inputs["labels"], keep="last", loss="margin" if name.startswith("cw") else "ce",
        noise=inputs["noise"], **constants(notes["constants"][name]),
    )  # fmt: skip
    assert_matches(case, f"{name}.delta", found - inputs["images"])
    assert_matches(case, f"{name}.logits", function(found))
    assert_matches(case, f"{name}.loss", cross_entropy_each(function(found), inputs["labels"]).mean())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOXED)
def test_the_inner_attack_of_apt_keeps_the_box_outside_the_iterate(name, dtype):
    model, case = parity_clip(DTYPES[dtype]), load_case("apt", DTYPES[dtype])
    inputs, sizes = case[0], case[1]["constants"]
    if name == "train_onfly":
        tokens = inputs["tokens"]
        embedded = model.token_embedding(tokens).clone()
        embedded[:, 1 : 1 + sizes["context_tokens"]] = inputs["ctx_unified"]
        hidden = model.ln_final(model.transformer(embedded + model.positional_embedding, attn_mask=model.attn_mask))
        text = hidden[torch.arange(len(tokens)), tokens.argmax(1)] @ model.text_projection
    else:
        text = model.encode_text(inputs["tokens_constant"])
    found = pgd(
        PlainClassifier(model, text), inputs["images"], inputs["labels"], keep="last", box="forward",
        noise=inputs["noise"], **constants(sizes),
    )  # fmt: skip
    assert_matches(case, f"{name}.adversarial_images", found)
