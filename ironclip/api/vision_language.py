"""A vision-language model (LLaVA-like) as a classifier: the class whose answer the model finds most likely.

For image x, prompt q and the answer a_k of class k, cut into tokens a_k,1 .. a_k,T:

    logit_k(x) = sum over t of log p(a_k,t | x, q, a_k,1 .. a_k,t-1)

This is how multiple-choice benchmarks score a language model. The logits are differentiable in the pixels, so every attack
and every diagnostic of ironclip works on the model as on any other classifier. The prompt with its image goes through the model
once per image; the answers of all classes continue from its stored keys and values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.core.errors import UsageError

PIXEL_ERROR = 0.05
"""Largest difference, in units of the normalised pixels, between our input of the model and its own processor's: above it the
processor does something to images besides resizing and normalising. Rounding to 8 bits alone gives about 0.01."""


class VisionLanguageClassifier(nn.Module):
    """Images [B, 3, H, W] float32 in [0, 1] -> logits [B, K]: log-likelihoods of the K answers.

    Args:
        model: a decoder of transformers that reads `input_ids` and `pixel_values` [B, 3, H, W], such as
            LlavaForConditionalGeneration. It is frozen and put into eval mode.
        processor: the processor that belongs to it.
        answers: one text per class, usually the class names.
        question: what the model is asked.
        prompt: the whole text before the answer, with the model's image mark in it; default: the processor's chat template around
            the question.
        per_token: divide each log-likelihood by its number of tokens, so that long names are not at a disadvantage.

    Raises:
        UsageError: an encoder-decoder, a model that cuts images into a list of patches, a processor that changes pixels in
            another way than by resizing and normalising them, no chat template and no prompt, or answers that are empty or equal.
    """

    mean: Tensor
    std: Tensor
    tokens: Tensor
    lengths: Tensor

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        answers: Sequence[str],
        *,
        question: str = "What is shown in this image?",
        prompt: str | None = None,
        per_token: bool = False,
    ) -> None:
        super().__init__()
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise UsageError(f"{type(model).__name__} is an encoder-decoder; expected a decoder that continues the prompt")
        self.model = model.eval().requires_grad_(False)
        self.prompt = _prompt(processor, question) if prompt is None else prompt
        self.per_token = per_token
        mean, std, self.resolution, inputs = _processed(processor, self.prompt)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        for name, value in inputs.items():
            self.register_buffer(f"input_{name}", value, persistent=False)
        self.inputs = tuple(inputs)
        tokens, lengths = _answers(processor.tokenizer, self.prompt, answers)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("lengths", lengths, persistent=False)
        self.to(next(model.parameters()).device)

    @classmethod
    def from_pretrained(cls, name: str, answers: Sequence[str], *, device: str = "cpu", **options: Any) -> Self:
        """The model and the processor of this name or folder, read by transformers. Code of a repository never runs."""
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as e:
            raise UsageError("vision-language models need the package transformers; pip install 'ironclip[vlm]'") from e
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        return cls(model.to(device), processor, answers, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> logits [B, K], float32."""
        batch, classes = len(images), len(self.tokens)
        given = {name: _repeated(getattr(self, f"input_{name}"), batch) for name in self.inputs}
        seen = self.model(pixel_values=self._pixels(images), **given, use_cache=True)
        likely = [_log_likelihood(seen.logits[:, -1:].repeat_interleave(classes, 0), self.tokens[:, :1].repeat(batch, 1))]
        if self.tokens.shape[1] > 1:
            name = "cache" if hasattr(seen, "cache") else "past_key_values"  # renamed in transformers 5.24
            stored = getattr(seen, name)
            stored.batch_repeat_interleave(classes)
            mask = given["attention_mask"].repeat_interleave(classes, 0)
            mask = F.pad(mask, (0, self.tokens.shape[1] - 1), value=1)
            rest = self.tokens.repeat(batch, 1)
            after = self.model(input_ids=rest[:, :-1], attention_mask=mask, use_cache=True, **{name: stored})
            likely.append(_log_likelihood(after.logits, rest[:, 1:]))
        places = torch.arange(self.tokens.shape[1], device=images.device)
        counted = torch.cat(likely, 1).view(batch, classes, -1).masked_fill(places >= self.lengths[:, None], 0).sum(-1)
        return counted / self.lengths if self.per_token else counted

    def _pixels(self, images: Tensor) -> Tensor:
        side = (self.resolution, self.resolution)
        if images.shape[-2:] != side:
            images = F.interpolate(images, side, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return ((images - self.mean) / self.std).to(next(self.model.parameters()).dtype)


def _log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Logits [N, T, W] of the next token, tokens [N, T] -> log-likelihoods [N, T]."""
    return F.log_softmax(logits.float(), -1).gather(-1, tokens[..., None])[..., 0]


def _repeated(value: Tensor, batch: int) -> Tensor:
    return value.expand(batch, *value.shape[1:])


def _prompt(processor: Any, question: str) -> str:
    if not getattr(processor, "chat_template", None):
        raise UsageError("the processor has no chat template; give prompt=, with the model's image mark in it")
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def _processed(processor: Any, prompt: str) -> tuple[Sequence[float], Sequence[float], int, Mapping[str, Tensor]]:
    """(mean, std, pixels per side, the model's inputs without pixels), read off what the processor makes of a test image."""
    from PIL import Image

    pictures = processor.image_processor
    mean, std = tuple(pictures.image_mean), tuple(pictures.image_std)
    made = dict(processor(text=prompt, images=Image.new("RGB", (64, 64)), return_tensors="pt"))
    pixels = made.pop("pixel_values", None)
    if pixels is None or pixels.ndim != 4 or pixels.shape[:2] != (1, 3) or pixels.shape[2] != pixels.shape[3]:
        shape = None if pixels is None else list(pixels.shape)
        raise UsageError(f"the processor makes pixel_values of shape {shape}; expected [1, 3, H, H], one square image")
    side = pixels.shape[-1]
    drawn = torch.randint(0, 256, (side // 4, side // 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    smooth = Image.fromarray(drawn.numpy()).resize((side, side), Image.Resampling.BICUBIC)
    theirs = processor(text=prompt, images=smooth, return_tensors="pt")["pixel_values"][0].float()
    image = torch.frombuffer(bytearray(smooth.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1).float() / 255
    ours = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    error = float((theirs - ours).abs().max())
    if not error <= PIXEL_ERROR:
        raise UsageError(
            f"the processor changes pixels in another way than by resizing and normalising (difference {error:.2f}); "
            "an attack on such a model would not be an attack on what it sees"
        )
    return mean, std, side, made


def _answers(tokenizer: Any, prompt: str, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(tokens [K, T], filled up with 0, and their numbers [K]) of each answer as it stands after the prompt."""
    if len(set(answers)) < max(2, len(answers)) or not all(answer.strip() for answer in answers):
        raise UsageError(f"expected two or more answers, none empty and none twice; got {list(answers)}")
    head = tokenizer(prompt)["input_ids"]
    space = "" if prompt[-1:].isspace() else " "
    rows = []
    for answer in answers:
        whole = tokenizer(prompt + space + answer)["input_ids"]
        if whole[: len(head)] != head or len(whole) == len(head):
            raise UsageError(f"the answer {answer!r} joins the last token of the prompt; end the prompt with a mark such as ':'")
        rows.append(torch.tensor(whole[len(head) :]))
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths
