"""Small random CLIPs of every tower class in open_clip, under names that `load` finds as it finds open_clip's own.

Only sizes differ from the published architectures: class of the tower, pools, norms, masks, positions and read-outs are theirs.
"""

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from safetensors.torch import save_file
from timm.layers import HybridEmbed
from timm.models import model_entrypoint
from timm.models._registry import _model_entrypoints
from timm.models.fastvit import RepConditionalPosEnc
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import Tensor, nn

from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.loading import load
from ironclip.backbones.wrapping import build

SIDE, PATCH, LAYERS, WIDTH, JOINT, VOCABULARY = 32, 8, 3, 32, 32, 2000
TOKENS = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": 2}
STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}
# Published name of the tower in timm -> sizes that make it small.
TIMM: dict[str, dict[str, Any]] = {
    "vit_base_patch16_siglip_224": TOKENS,
    "vit_base_mci_224": {key: value for key, value in TOKENS.items() if key != "patch_size"} | {"img_size": 64},
    "vit_medium_patch16_gap_256": TOKENS,
    "eva_giant_patch14_224": TOKENS | {"mlp_ratio": 2.0},
    "eva02_base_patch16_clip_224": TOKENS,
    "vit_pe_core_base_patch16_224": TOKENS | {"attn_pool_num_heads": 2},
    "vit_relpos_medium_patch16_cls_224": TOKENS | {"rel_pos_dim": 8},
    "vitamin_small_224": {
        "img_size": 64, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": 2,
        "embed_cfg": VitCfg(
            embed_dim=(8, 16, WIDTH), depths=(1, 1, 1), stem_width=8,
            conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6), head_type="1d",
        ),
    },
    "convnext_base": STAGES,
    "fastvit_mci1": {
        "layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32),
        "pos_embs": (None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))),
    },
    "swin_base_patch4_window7_224": {
        "img_size": 64, "embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4,
    },
}  # fmt: skip

VIT = {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "patch_size": PATCH, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": JOINT, "heads": 2, "layers": LAYERS}
HUB = TEXT | {"vocab_size": VOCABULARY}
SIGLIP_TEXT = HUB | {
    "context_length": 64, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    "hf_tokenizer_name": "siglip", "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip
CLIPA = {
    "vision_cfg": VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    "text_cfg": HUB | {
        "context_length": 32, "hf_tokenizer_name": "bert", "tokenizer_kwargs": {"strip_sep_token": True}, "pool_type": "last",
        "no_causal_mask": True,
    },
}  # fmt: skip


def _timm(name: str, pool: str, proj: str | None, side: int = SIDE, text: dict[str, Any] = TEXT, **more: Any) -> dict[str, Any]:
    vision = {
        "timm_model_name": f"small_{name}", "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj,
        "image_size": side,
    }  # fmt: skip
    return {"vision_cfg": vision, "text_cfg": text, "custom_text": True, **more}


SIGLIP = "vit_base_patch16_siglip_224"
CONFIGS: dict[str, dict[str, Any]] = {
    "ViT": {"vision_cfg": VIT, "text_cfg": TEXT},
    "ViT-quickgelu": {"vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "CLIPA": CLIPA,
    "worldwide": {
        "vision_cfg": VIT, "text_cfg": HUB | {"hf_tokenizer_name": "mt5", "pool_type": "eos", "eos_id": 1},
    },
    "SigLIP": _timm(SIGLIP, "map", "none", text=SIGLIP_TEXT, init_logit_bias=-10),
    "SigLIP2": _timm(
        SIGLIP, "map", "none", init_logit_bias=-10,
        text=SIGLIP_TEXT | {"hf_tokenizer_name": "siglip2", "act_kwargs": {"approximate": "tanh"}},
    ),
    "EVA01": _timm("eva_giant_patch14_224", "token", None),
    "EVA02": _timm("eva02_base_patch16_clip_224", "token", None),
    "PE-Core": _timm("vit_pe_core_base_patch16_224", "map", None, text=TEXT | {"context_length": 32}),
    "MobileCLIP-B": _timm("vit_base_mci_224", "token", None, side=64, text=TEXT | {"no_causal_mask": False}),
    "ViTamin": _timm("vitamin_small_224", "", "linear", side=64),
    "GAP": _timm("vit_medium_patch16_gap_256", "avg", "linear"),
    "RN50": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}, "text_cfg": TEXT},
    "RN50-quickgelu": {
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "patch_size": None}, "text_cfg": TEXT,
        "quick_gelu": True,
    },
    "ConvNeXt": _timm("convnext_base", "", "linear"),
    "FastViT": _timm("fastvit_mci1", "avg", None, side=64, text=TEXT | {"no_causal_mask": True}),
    "Swin": _timm("swin_base_patch4_window7_224", "", "linear", side=64),
    "RelPos": _timm("vit_relpos_medium_patch16_cls_224", "", "linear"),
}  # fmt: skip
"""Tower class -> configuration of open_clip."""
SEQUENCES = (
    "ViT",
    "ViT-quickgelu",
    "CLIPA",
    "worldwide",
    "SigLIP",
    "SigLIP2",
    "EVA01",
    "EVA02",
    "PE-Core",
    "MobileCLIP-B",
    "ViTamin",
    "GAP",
)
"""Those with a plain token sequence, which can be edited."""


class Words:
    """A tokenizer of the hub in miniature: words of up to four letters a token, and the special tokens of one family.

    Args:
        start: ids before the words.
        end: ids behind them.
        padding: id of what follows.
    """

    def __init__(self, start: tuple[int, ...], end: tuple[int, ...], padding: int) -> None:
        self.start, self.end, self.padding = start, end, padding
        self.tokenizer = self

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        pieces = re.findall(r"\w{1,4}|[^\w\s]", text.lower())
        return [200 + zlib.crc32(piece.encode()) % (VOCABULARY - 200) for piece in pieces]

    def __call__(self, texts: list[str], context_length: int) -> Tensor:
        ids = torch.full((len(texts), context_length), self.padding)
        for row, text in zip(ids, texts, strict=True):
            words = [*self.start, *self.encode(text)[: context_length - len(self.start) - len(self.end)], *self.end]
            row[: len(words)] = torch.tensor(words)
        return ids


TOKENIZERS = {
    "siglip": Words((), (1,), 1),
    "siglip2": Words((), (1,), 0),
    "mt5": Words((), (1,), 0),
    "bert": Words((101,), (0,), 0),  # its separator is stripped
}


@contextmanager
def published() -> Iterator[None]:
    """Inside, open_clip and timm know the small architectures as `small-<class>`, and their tokenizers need no download."""
    entries = {f"small_{name}": partial(_entry, name, sizes) for name, sizes in TIMM.items()}
    known, get = open_clip.factory._MODEL_CONFIGS, open_clip.get_tokenizer

    def tokenizer(model: str, **options: Any) -> Any:
        name = CONFIGS.get(model.removeprefix("small-"), {}).get("text_cfg", {}).get("hf_tokenizer_name")
        return TOKENIZERS[name] if name else get(model, **options)

    with ExitStack() as stack:
        stack.enter_context(patch.dict(_model_entrypoints, entries))
        stack.enter_context(patch.dict(known, {f"small-{name}": {"embed_dim": JOINT, **c} for name, c in CONFIGS.items()}))
        stack.enter_context(patch.object(open_clip, "get_tokenizer", tokenizer))
        yield


def _entry(name: str, sizes: dict[str, Any], pretrained: bool = False, **options: Any) -> nn.Module:
    known = {key: value for key, value in options.items() if value is not None}
    if name == "vit_base_mci_224":  # its stem is as wide as the published tower
        stem = ConvStem(channels=(8, 8, WIDTH), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU)
        known["embed_layer"] = partial(HybridEmbed, backbone=stem, proj=False)
    return model_entrypoint(name)(pretrained=False, **known | sizes)


def model(name: str, seed: int = 0) -> Any:
    """The random open_clip model of a class, with gradients far from zero and no two norms alike."""
    config = {"embed_dim": JOINT, **CONFIGS[name]}
    quick = bool(config.pop("quick_gelu", False))
    with torch.random.fork_rng(devices=[]):  # the model's own start is drawn globally
        torch.manual_seed(seed)
        made = build(config, "quick_gelu" if quick else "gelu")
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            wide = parameter.ndim >= 2
            scale = 0.5 * parameter[0].numel() ** -0.5 if wide else 0.05
            parameter += scale * torch.randn(parameter.shape, generator=draw)
        made.logit_scale.fill_(math.log(20.0))
    return made.eval()


def write(name: str, folder: Path) -> str:
    """The name of a backbone, `small-<class>@FILE`, whose weights lie in the folder afterwards."""
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        activation = "quick_gelu" if CONFIGS[name].get("quick_gelu") else "gelu"
        state = {key: value.detach().clone().contiguous() for key, value in model(name).state_dict().items()}
        save_file(state, file, metadata={"activation": activation})
    return f"small-{name}@{file}"


def small(name: str, folder: Path) -> ClipBackbone:
    """The class behind the adapter, read from a file as a user's own weights are."""
    return load(write(name, folder))
