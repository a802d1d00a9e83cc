"""A cloned repository of open_clip or transformers, and weights in several files, load to the same numbers."""

import json

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close
from weight_files import NOTE, VIT, open_clip_folder, tiny_clip, transformers_folder

from ironclip.backbones import load
from ironclip.backbones.wrapping import build
from ironclip.core.errors import CheckpointError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_clip()


def features(model: nn.Module, mean: Tensor, std: Tensor) -> Tensor:
    return model.encode_image((pictures() - mean) / std)


def pictures() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_transformers_folder_needs_no_more_than_its_path(model, tmp_path):
    folder = transformers_folder(tmp_path / "clip-tiny", model)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    for name in (folder, folder / "model.safetensors"):
        backbone = load(str(name))
        assert_close(backbone.encode_image(pictures()), features(model, backbone.mean, backbone.std), atol=1e-5, rtol=0)
        words = model.encode_text(backbone.tokenize(["a cat", "dogs"]))
        assert_close(backbone.encode_text(backbone.embed_text(["a cat", "dogs"])), words, atol=1e-5, rtol=0)
    spec = backbone.spec
    assert (spec.name, spec.activation, spec.mean, spec.std) == ("clip-tiny", "gelu", (0.5,) * 3, (0.25,) * 3)
    assert load(str(transformers_folder(tmp_path / "shards", model, shards=3))).spec.sha256 == spec.sha256
    index = tmp_path / "shards" / "model.safetensors.index.json"
    assert load(str(index)).spec.sha256 == spec.sha256


def test_transformers_takes_quick_gelu_where_its_configuration_says_nothing(model, tmp_path):
    quiet = {
        **NOTE,
        **{part: {k: v for k, v in NOTE[part].items() if k != "hidden_act"} for part in ("vision_config", "text_config")},
    }
    folder = transformers_folder(tmp_path / "quiet", model, quiet)
    assert load(str(folder)).spec.activation == "quick_gelu"
    with pytest.raises(CheckpointError, match=r"quiet was trained with quick_gelu \(its config\.json\)"):
        load(str(folder), activation="gelu")


@pytest.mark.parametrize(
    ("said", "activation"), [("TRUE", "quick_gelu"), ("FALSE", "gelu"), (True, "quick_gelu"), (None, "gelu")]
)
def test_quick_gelu_as_a_string_is_read_as_what_it_says(model, tmp_path, said, activation):
    backbone = load(str(open_clip_folder(tmp_path / "clone", model, quick_gelu=said)))
    assert (backbone.spec.activation, backbone.spec.mean) == (activation, (0.5, 0.4, 0.3))


def test_a_named_architecture_must_be_the_one_that_the_folder_describes(model, tmp_path, monkeypatch):
    folder = transformers_folder(tmp_path / "clip", model)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Mine", VIT)
    assert load(f"Mine@{folder}").spec.activation == "gelu"
    heads = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "head_width": 64}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Heads", heads)
    with pytest.raises(CheckpointError, match=r"describes a model with vision_cfg\.head_width 32; Heads has 64"):
        load(f"Heads@{folder}")


def test_siglip_of_transformers_loads_with_its_own_approximation_of_gelu(tmp_path, monkeypatch):
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    config["text_cfg"] |= {"layers": 1, "vocab_size": 90}
    config["vision_cfg"]["image_size"] = 32
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: create(*args, **options, depth=1, img_size=32))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-SigLIP", config)
    torch.manual_seed(0)
    model = build({**config, "gelu_tanh": True}, "gelu").requires_grad_(False)
    note = {"hidden_size": 768, "num_hidden_layers": 1, "image_size": 32}
    words = {"hidden_size": 768, "num_hidden_layers": 1, "vocab_size": 90}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": note, "text_config": words}))
    save_file(siglip_names(model.state_dict()), tmp_path / "model.safetensors")
    backbone = load(str(tmp_path))
    assert (backbone.spec.mean, backbone.spec.activation) == ((0.5,) * 3, "gelu")
    assert_close(backbone.encode_image(pictures()), features(model, backbone.mean, backbone.std), atol=1e-5, rtol=0)
    ids = torch.randint(1, 90, (2, 64), generator=torch.Generator().manual_seed(0))
    assert_close(backbone.encode_text(backbone.text.embed(ids)), model.encode_text(ids), atol=1e-5, rtol=0)
    exact = build(config, "gelu").requires_grad_(False)
    exact.load_state_dict(model.state_dict())
    assert (exact.encode_image(pictures()) - model.encode_image(pictures())).abs().max() > 1e-5


def siglip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names as transformers' SiglipModel has them."""
    made = {name: state[name] for name in ("logit_scale", "logit_bias")}
    made = {name: tensor.reshape(1) for name, tensor in made.items()}
    rules = [
        ("visual.trunk.patch_embed.proj", "vision_model.embeddings.patch_embedding"),
        ("visual.trunk.pos_embed", "vision_model.embeddings.position_embedding.weight"),
        ("visual.trunk.norm.", "vision_model.post_layernorm."),
        ("visual.trunk.attn_pool.latent", "vision_model.head.probe"),
        ("visual.trunk.attn_pool.proj", "vision_model.head.attention.out_proj"),
        ("visual.trunk.attn_pool.norm", "vision_model.head.layernorm"),
        ("visual.trunk.attn_pool.mlp", "vision_model.head.mlp"),
        ("visual.trunk.blocks.", "vision_model.encoder.layers."),
        ("text.transformer.resblocks.", "text_model.encoder.layers."),
        ("text.token_embedding", "text_model.embeddings.token_embedding"),
        ("text.positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("text.ln_final", "text_model.final_layer_norm"),
        ("text.text_projection", "text_model.head"),
    ]
    inner = {
        ".norm1.": ".layer_norm1.", ".norm2.": ".layer_norm2.", ".ln_1.": ".layer_norm1.", ".ln_2.": ".layer_norm2.",
        ".attn.proj.": ".self_attn.out_proj.", ".attn.out_proj.": ".self_attn.out_proj.", ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
    }  # fmt: skip
    joint: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        for kind in ("weight", "bias"):
            if name in (f"visual.trunk.attn_pool.q.{kind}", f"visual.trunk.attn_pool.kv.{kind}"):
                joint.setdefault(f"vision_model.head.attention.in_proj_{kind}", []).append(tensor)
        for start, to in rules:
            if name.startswith(start):
                new = to + name.removeprefix(start)
                for old, other in inner.items():
                    new = new.replace(old, other)
                if "attn.qkv." in new or "attn.in_proj_" in new:
                    for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                        by = new.replace(".attn.qkv.", f".self_attn.{letter}_proj.").replace(
                            ".attn.in_proj_", f".self_attn.{letter}_proj."
                        )
                        made[by] = piece.contiguous()
                else:
                    made[new] = tensor[0] if name.endswith("trunk.pos_embed") else tensor
                break
    return {name: tensor.contiguous() for name, tensor in (made | {n: torch.cat(t) for n, t in joint.items()}).items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "blip"}, "describes a model of type 'blip'; expected transformers' clip or siglip"),
        ({"model_type": "siglip"}, "describes a SigLIP of width 64, patch 8, 32 pixels and .* no architecture for"),
        (
            {"text_config": {**NOTE["text_config"], "vocab_size": 30522}},
            "has a vocabulary of 30522 words; CLIP's tokenizer has 49408",
        ),
        ({"vision_config": {"hidden_act": "relu"}}, "states the activations"),
        ({"vision_config": {**NOTE["vision_config"], "hidden_act": "quick_gelu"}}, "states the activations gelu, quick_gelu"),
        ({"vision_config": {**NOTE["vision_config"], "layer_norm_eps": 1e-6}}, "layer_norm_eps 1e-06 of its vision tower"),
        ({"vision_config": {**NOTE["vision_config"], "hidden_size": "wide"}}, "is damaged: "),
        ({"vision_config": {**NOTE["vision_config"], "hidden_size": 128}}, "does not fit .* expected"),
    ],
)
def test_a_configuration_that_is_not_these_weights_is_refused_in_one_line(model, tmp_path, change, message):
    folder = transformers_folder(tmp_path / "clip", model, {**NOTE, **change})
    with pytest.raises(CheckpointError, match=message) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_key_that_open_clip_does_not_know_is_another_programs_model(model, tmp_path):
    text = {**VIT["text_cfg"], "vocab_path": "vocab.txt"}
    folder = open_clip_folder(tmp_path / "delta", model, text_cfg=text)
    with pytest.raises(CheckpointError, match=r"sets text_cfg\.vocab_path, which open_clip does not know: .* wrong features$"):
        load(str(folder))
    with pytest.raises(CheckpointError, match="states quick_gelu 'maybe'; expected true or false"):
        load(str(open_clip_folder(tmp_path / "maybe", model, quick_gelu="maybe")))


def test_a_missing_shard_and_a_path_outside_the_folder_are_named(model, tmp_path):
    folder = transformers_folder(tmp_path / "clip", model, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names model-00002-of-00002\.safetensors, which is not there; .* in 2 files"):
        load(str(folder))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"logit_scale": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names '\.\./secret\.safetensors', which is no file beside it"):
        load(str(folder))
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="should say which file holds which weight"):
        load(str(folder))
    index.unlink()
    with pytest.raises(CheckpointError, match="is a folder without weights of a known name"):
        load(str(folder))
    (folder / "model.safetensors").symlink_to(folder / "gone")
    with pytest.raises(CheckpointError, match="points to a file that is not there; delete the link"):
        load(str(folder))
