"""From an open_clip model to our adapter: which tower class fits, and which tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from ironclip.backbones.adapter import OPENAI_MEAN, OPENAI_STD, ClipBackbone
from ironclip.backbones.foreign import TANH
from ironclip.backbones.registry import Activation
from ironclip.backbones.resnet import ResNetTower
from ironclip.backbones.text import TextTower
from ironclip.backbones.text_plain import PlainTextTower
from ironclip.backbones.timm_tower import TimmTower
from ironclip.backbones.towers import Tower
from ironclip.backbones.vit import VitTower
from ironclip.core.errors import CheckpointError

Tokenizer = Callable[[list[str]], Tensor]


def build(config: Mapping[str, Any], activation: Activation) -> CLIP | CustomTextCLIP:
    """An open_clip model of this configuration, with random weights that leave the caller's random state alone.

    Raises:
        CheckpointError: a model class or text tower that has no adapter, or a configuration open_clip does not take.
    """
    options = deepcopy(dict(config))
    custom = options.pop("custom_text", False)
    if "multimodal_cfg" in options or "hf_model_name" in options.get("text_cfg", {}):
        raise CheckpointError(
            "CoCa models and text towers from transformers have no adapter here; use a CLIP with open_clip's own text tower"
        )
    options["quick_gelu"] = activation == "quick_gelu"
    tanh = options.pop(TANH, False)
    with torch.random.fork_rng(devices=[]):
        try:
            model: CLIP | CustomTextCLIP = (CustomTextCLIP if custom else CLIP)(**options).eval()
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"open_clip does not take this configuration: {error}") from None
    for part in model.modules() if tanh else ():
        if isinstance(part, nn.GELU):
            part.approximate = "tanh"
    return model


def image_tower(visual: nn.Module) -> Tower:
    """The image tower behind the common interface."""
    for kind, tower in ((VisionTransformer, VitTower), (ModifiedResNet, ResNetTower), (TimmModel, TimmTower)):
        if isinstance(visual, kind):
            return tower(visual)
    raise CheckpointError(f"no adapter for the image tower {type(visual).__name__}")


def text_tower(model: nn.Module) -> TextTower:
    """The text engine where prompts may be cut at their end token, the plain tower elsewhere."""
    text = getattr(model, "text", model)
    if not isinstance(text, (TextTransformer, CLIP)) or getattr(text, "cls_emb", None) is not None:
        raise CheckpointError(f"no adapter for the text tower {type(text).__name__}")
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
    causal = getattr(text, "attn_mask", None) is not None
    return TextTower(text) if causal and pool in ("argmax", "eos") else PlainTextTower(text)


def wrap(
    model: CLIP | CustomTextCLIP,
    tokenizer: Tokenizer,
    *,
    name: str,
    activation: Activation,
    mean: Sequence[float] = OPENAI_MEAN,
    std: Sequence[float] = OPENAI_STD,
    sha256: str = "",
) -> ClipBackbone:
    """The adapter around an open_clip `CLIP` or `CustomTextCLIP`; frozen and in evaluation mode.

    Raises:
        CheckpointError: a tower that has no adapter.
    """
    bias = model.logit_bias
    return ClipBackbone(
        image_tower(model.visual),
        text_tower(model),
        tokenizer,
        name=name,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        activation=activation,
        mean=mean,
        std=std,
        sha256=sha256,
    )


class HubTokenizer:
    """A tokenizer that lives on the Hugging Face hub, fetched when the first text comes.

    Args:
        model: what open_clip calls the model.
        context_length: T of the ids [K, T].
    """

    def __init__(self, model: str, context_length: int) -> None:
        self.model, self.context_length = model, context_length
        self._loaded: Any = None

    def __call__(self, texts: list[str]) -> Tensor:
        return self._tokenizer()(texts, context_length=self.context_length)

    def encode(self, text: str) -> list[int]:
        """Ids without start and end, to see whether a text fits."""
        return self._tokenizer().tokenizer.encode(text, add_special_tokens=False)

    def _tokenizer(self) -> Any:
        if self._loaded is None:
            import open_clip

            try:
                self._loaded = open_clip.get_tokenizer(self.model)
            except ImportError:
                raise CheckpointError(
                    f"the tokenizer of {self.model} needs the package transformers; pip install transformers"
                ) from None
            except (OSError, RuntimeError, ValueError) as error:
                raise CheckpointError(
                    f"the tokenizer of {self.model} could not be fetched: {str(error).splitlines()[0]}"
                ) from None
        return self._loaded


def tokenizer_for(model: str, config: Mapping[str, Any]) -> Tokenizer:
    """CLIP's own tokenizer, or the one that the configuration names."""
    text = config.get("text_cfg", {})
    length = text.get("context_length", 77)
    if text.get("hf_tokenizer_name"):
        return HubTokenizer(model, length)
    options = text.get("tokenizer_kwargs") or {}
    return SimpleTokenizer(context_length=length, **options) if options else clip_tokenizer(length)


@lru_cache(maxsize=8)
def clip_tokenizer(context_length: int) -> SimpleTokenizer:
    """CLIP's tokenizer; reading its vocabulary takes longer than loading a small model."""
    return SimpleTokenizer(context_length=context_length)
