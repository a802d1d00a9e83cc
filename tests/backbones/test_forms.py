"""Every form in which weights are named gives the source model's outputs, or one line that says what was found."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from weight_files import to_transformers

from ironclip.backbones.checkpoints import fill
from ironclip.backbones.names import check_tensors, named
from ironclip.backbones.wrapping import build
from ironclip.core.errors import CheckpointError

VIT = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 64, "heads": 1, "layers": 2},
}
RESNET = {**VIT, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
State = dict[str, Tensor]
PREFIXES = (
    "",
    "module.",
    "model.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.module.",
    "module.model.",
    "clip_model.",
    "model.clip_model.",
    "module.clip_model.",
    "clip.",
    "net.",
    "backbone.",
    "student.model.",
    "_forward_module.",
    "visual.",
)
JUNK = {"epoch": 3, "lr": 0.1, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}}
CONTAINERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state},
    "model": lambda state: {"model": state, **JUNK},
    "model_state_dict": lambda state: {"model_state_dict": state, **JUNK},
    "net": lambda state: {"net": state, "acc": 0.5},
    "module": lambda state: {"module": state, "ds_version": "0.14"},
    "partial_state_dict": lambda state: {"partial_state_dict": state},
    "lightning": lambda state: {
        "state_dict": state,
        "pytorch-lightning_version": "2",
        "callbacks": {"best": torch.zeros(1)},
        **JUNK,
    },
    "two deep": lambda state: {"model": {"state_dict": state, **JUNK}, "scheduler": {"last": 1}},
    "modules by name": lambda state: {"modules": {"clip": state}, "metadata": {"tag": "x"}},
    "beside an average": lambda state: {"model": state, "model_ema": {name: tensor * 2 for name, tensor in state.items()}},
    "towers apart": lambda state: towers_apart(state),
}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def inside(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


def towers_apart(state: State) -> dict[str, Any]:
    towers = {"visual": {n.removeprefix("visual."): t for n, t in state.items() if n.startswith("visual.")}}
    return {**towers, **{n: t for n, t in state.items() if not n.startswith("visual.")}}


def both(form: Callable[[State], State], container: str) -> Callable[[State], Any]:
    return lambda state: CONTAINERS[container](form(state))


WHOLE: dict[str, Callable[[State], Any]] = {f"prefix {prefix!r}": prefixed(prefix) for prefix in PREFIXES}
WHOLE |= {name: form for name, form in CONTAINERS.items() if name != "bare"}
WHOLE |= {
    f"{prefix!r} in {container}": both(prefixed(prefix), container)
    for prefix in ("module.", "model.", "_orig_mod.", "clip_model.")
    for container in ("state_dict", "model", "model_state_dict", "net", "lightning")
}
WHOLE |= {
    "compiled image tower": inside("visual.", "visual._orig_mod."),
    "parallel image tower": inside("visual.", "visual.module."),
    "checkpointed blocks": inside("mlp.", "_checkpoint_wrapped_module.mlp."),
    "sharded blocks": inside("attn.", "_fsdp_wrapped_module.attn."),
    "half precision": lambda state: {name: tensor.bfloat16() for name, tensor in state.items()},
    "constants repeated": lambda state: {
        **state,
        "attn_mask": torch.full((6, 6), -torch.inf),
        "text.attn_mask": torch.zeros(6, 6),
    },
    "text tower apart": lambda state: {
        (name if name.startswith(("visual.", "logit_scale")) else f"text.{name}"): tensor for name, tensor in state.items()
    },
}


WHOLE |= {
    "transformers": to_transformers,
    "transformers with positions": lambda state: {
        **to_transformers(state),
        "vision_model.embeddings.position_ids": torch.arange(5),
        "text_model.embeddings.position_ids": torch.arange(6),
    },
    "transformers wrapped": lambda state: to_transformers(state, "module.clip_model."),
    "transformers in lightning": lambda state: CONTAINERS["lightning"](to_transformers(state, "model.")),
}


def visual(state: State) -> State:
    return {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}


def below(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in visual(state).items()}


TOWERS: dict[str, Callable[[State], Any]] = {
    f"tower below {prefix!r}": below(prefix)
    for prefix in (
        "",
        "visual.",
        "model.",
        "module.visual.",
        "model.visual.",
        "encoder.",
        "clip_model.visual.",
        "image_encoder.module.",
    )
} | {
    "TeCoA": lambda state: {"state_dict": {}, "vision_encoder_state_dict": visual(state), "best_acc1": 0.3, **JUNK},
    "TeCoA with prompts": lambda state: {"state_dict": {"prompt": torch.zeros(3)}, "vision_encoder_state_dict": visual(state)},
    "AdvFLYP": lambda state: {"partial_state_dict": {f"visual.{n}": t for n, t in visual(state).items()}, "step": 7},
    "AGFT": lambda state: {"modules": {"clip.visual": visual(state)}},
    "transformers tower": lambda state: {n: t for n, t in to_transformers(state).items() if n.startswith("vis")},
}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made = {"vit": build(VIT, "gelu"), "resnet": build(RESNET, "gelu")}
    for model in made.values():
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return made


def outputs(model: nn.Module, whole: bool = True) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    side = model.visual.image_size if isinstance(model.visual.image_size, int) else model.visual.image_size[0]
    images = torch.rand(2, 3, side, side, generator=draw)
    with torch.no_grad():
        features = model.encode_image(images, normalize=True)
        words = model.encode_text(torch.randint(1, 19, (3, 6), generator=draw), normalize=True)
        return model.logit_scale.exp() * features @ words.T if whole else features


@pytest.mark.parametrize("form", WHOLE)
def test_a_whole_model_in_any_form_gives_the_source_models_logits(models, form):
    source, target = models["vit"], build(VIT, "gelu")
    state, layout, _, _ = named(form, WHOLE[form](dict(source.state_dict())))
    assert layout == "clip"
    check_tensors(form, state)
    fill(target, {name.removeprefix("text."): tensor for name, tensor in state.items()}, None, form)
    near = 0.5 if form == "half precision" else 1e-5
    assert_close(outputs(target), outputs(source), atol=near, rtol=0)


@pytest.mark.parametrize(
    ("kind", "form"), [(k, f) for k in ("vit", "resnet") for f in TOWERS if (k, f[:5]) != ("resnet", "trans")]
)
def test_an_image_tower_in_any_form_gives_the_source_models_features(models, kind, form):
    source, target = models[kind], build(VIT if kind == "vit" else RESNET, "gelu")
    state, layout, _, _ = named(form, TOWERS[form](dict(source.state_dict())))
    assert layout == "visual"
    fill(target.visual, state, None, form)
    assert_close(outputs(target, whole=False), outputs(source, whole=False), atol=1e-5, rtol=0)


def read(form: str, loaded: Any) -> None:
    state, _, _, _ = named(f"{form}.pt", loaded)
    check_tensors(f"{form}.pt", state)
    fill(build(VIT, "gelu"), state, None, "Tiny")


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "a list": (lambda state: [1], "holds a list; expected a state dict"),
    "one tensor": (lambda state: torch.zeros(1), "holds a Tensor; expected a state dict"),
    "nothing": (lambda state: {}, "holds no CLIP weights: .* got none"),
    "numbers": (lambda state: {"epoch": 3}, "holds no CLIP weights: .* got none"),
    "another model": (lambda state: {"fc.weight": torch.zeros(2)}, "holds no CLIP weights: .* got fc.weight"),
    "an optimizer": (lambda state: JUNK, "holds no CLIP weights"),
    "a text tower": (lambda state: {n: t for n, t in state.items() if "visual" not in n}, "holds no CLIP weights"),
    "Apple's names": (lambda state: {"image_encoder.model.patch_emb.0.block.conv.weight": torch.zeros(2)}, "Apple's MobileCLIP"),
    "two models": (
        lambda state: prefixed("model.")(state) | prefixed("teacher.")(state),
        "holds several CLIPs, below 'model.' and 'teacher.'",
    ),
    "two state dicts": (lambda state: {"student": state, "teacher": state}, "several state dicts, 'student' and 'teacher'"),
    "two copies": (lambda state: state | prefixed("module.")(state), "twice, with and without a wrapper"),
    "a head beside": (
        lambda state: {**prefixed("model.")(state), "head.weight": torch.zeros(2)},
        "holds 1 tensors beside the CLIP below 'model.', first head.weight",
    ),
    "a prompt inside": (lambda state: {**state, "visual.prompt": torch.zeros(2)}, "1 tensors too many, first visual.prompt"),
    "low rank inside": (lambda state: {**state, "visual.proj.lora_A": torch.zeros(2)}, "too many, first visual.proj.lora_A"),
    "too few": (lambda state: {n: t for n, t in state.items() if "ln_final" not in n}, "2 of .* missing, first ln_final.weight"),
    "another width": (
        lambda state: {**state, "visual.proj": torch.zeros(64, 9)},
        r"visual.proj is \[64, 9\], expected \[64, 8\]",
    ),
    "8 bits": (lambda state: {**state, "visual.proj": torch.zeros(64, 8, dtype=torch.int8)}, "int8 numbers in visual.proj"),
    "not finite": (lambda state: {**state, "visual.proj": torch.full((64, 8), torch.inf)}, "NaN or infinity in visual.proj"),
    "one number repeated": (lambda state: {**state, "visual.proj": torch.zeros(1).expand(64, 8)}, "repeats its numbers"),
    "transformers with a head": (
        lambda state: {**to_transformers(state), "classifier.weight": torch.zeros(2)},
        "holds classifier.weight, which transformers'",
    ),
    "transformers without queries": (
        lambda state: {n: t for n, t in to_transformers(state).items() if "q_proj" not in n},
        "expected q_proj, k_proj and v_proj",
    ),
    "nested without end": (lambda state: nested(state, 9), "nests|no CLIP weights"),
}


def nested(state: Mapping[str, Any], times: int) -> Mapping[str, Any]:
    for _ in range(times):
        state = {"model": state}
    return state


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_not_one_clip_is_refused_in_one_line_that_says_what_was_found(models, form):
    make, message = REFUSED[form]
    loaded = make(dict(models["vit"].state_dict()))
    with pytest.raises(CheckpointError, match=message) as caught:
        read(form, loaded)
    assert "\n" not in str(caught.value)


def test_at_least_sixty_forms_are_tried():
    assert len(WHOLE) + len(TOWERS) + len(REFUSED) >= 60
