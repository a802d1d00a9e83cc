"""A vision-language model as a classifier: log-likelihoods of whole answers, differentiable in the pixels."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironclip
from ironclip.attacks import PGD
from ironclip.core.errors import UsageError

WORDS = ["<none>", "<image>", "USER", "ASSISTANT:", "what", "is", "this?", "cat", "red", "car", "a", "very", "large", "dog"]
PROMPT = "USER <image> what is this? ASSISTANT:"
ANSWERS = ("cat", "red car", "a very large dog")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Stored:
    """The running sums of the tokens so far, in the place of keys and values."""

    def __init__(self, state: Tensor, length: int) -> None:
        self.state, self.length = state, length

    def batch_repeat_interleave(self, times: int) -> None:
        self.state = self.state.repeat_interleave(times, 0)


class Decoder(nn.Module):
    """A causal language model that sees the image at its mark: logits after each token depend on all tokens before."""

    config = SimpleNamespace(is_encoder_decoder=False)

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(len(WORDS), 8))
        self.image = nn.Parameter(torch.randn(3 * 16, 8))
        self.head = nn.Parameter(torch.randn(8, len(WORDS)))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        past_key_values: Stored | None = None,
        use_cache: bool = True,
    ) -> Any:
        tokens = self.words[input_ids]
        if pixel_values is not None:
            marked = (input_ids == WORDS.index("<image>"))[..., None]
            tokens = torch.where(marked, (pixel_values.flatten(1) @ self.image)[:, None], tokens)
        before, passed = (0, 0) if past_key_values is None else (past_key_values.state, past_key_values.length)
        length = passed + input_ids.shape[1]
        assert attention_mask.shape == (len(input_ids), length)
        sums = tokens.cumsum(1) + before
        return SimpleNamespace(logits=torch.tanh(sums) @ self.head, past_key_values=Stored(sums[:, -1:], length))


class Processor:
    """Resizes and normalises; `spoil` does something else to the pixels."""

    chat_template = "yes"
    image_processor = SimpleNamespace(image_mean=list(MEAN), image_std=list(STD))

    def __init__(self, spoil: float = 0.0, shape: tuple[int, ...] = (1, 3, 4, 4)) -> None:
        self.spoil, self.shape = spoil, shape

    def tokenizer(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [WORDS.index(word) for word in text.split()]}

    def apply_chat_template(self, turns: Any, add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        return f"USER <image> {turns[0]['content'][1]['text']} ASSISTANT:"

    def __call__(self, text: str, images: Any, return_tensors: str) -> dict[str, Tensor]:
        side = self.shape[-1]
        pixels = torch.tensor(list(images.resize((side, side)).convert("RGB").tobytes())).view(side, side, 3)
        image = pixels.permute(2, 0, 1)[None] / 255 + self.spoil
        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        values = (image - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values.reshape(self.shape)}


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder()


def one_by_one(model: nn.Module, pixels: Tensor, ids: Tensor, answers: list[list[int]]) -> Tensor:
    """The formula as it is written: each image with each whole answer, one at a time."""
    rows = []
    for image in pixels:
        row = []
        for answer in answers:
            whole = torch.cat([ids[0], torch.tensor(answer)])[None]
            seen = model(input_ids=whole, attention_mask=torch.ones_like(whole), pixel_values=image[None]).logits.log_softmax(-1)
            places = range(len(ids[0]) - 1, whole.shape[1] - 1)
            row.append(sum(seen[0, place, token] for place, token in zip(places, answer, strict=True)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_logits_and_gradients_are_those_of_each_answer_alone(decoder: Decoder) -> None:
    classifier = ironclip.VisionLanguageClassifier(decoder, Processor(), ANSWERS, question="what is this?")
    assert classifier.prompt == PROMPT
    images = torch.rand(5, 3, 4, 4, requires_grad=True)
    pixels = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    ids = torch.tensor([[WORDS.index(word) for word in PROMPT.split()]])
    expected = one_by_one(decoder, pixels, ids, [[WORDS.index(word) for word in answer.split()] for answer in ANSWERS])
    logits = classifier(images)
    assert torch.allclose(logits, expected, atol=1e-5)
    direction = torch.randn_like(logits)
    ours, theirs = (torch.autograd.grad((value * direction).sum(), images, retain_graph=True)[0] for value in (logits, expected))
    assert theirs.abs().max() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not any(value.requires_grad for value in classifier.parameters())


def test_per_token_divides_by_the_length_of_each_answer(decoder: Decoder) -> None:
    images = torch.rand(3, 3, 4, 4)
    plain = ironclip.VisionLanguageClassifier(decoder, Processor(), ANSWERS, prompt=PROMPT)(images)
    mean = ironclip.VisionLanguageClassifier(decoder, Processor(), ANSWERS, prompt=PROMPT, per_token=True)(images)
    assert torch.allclose(mean, plain / torch.tensor([1.0, 2.0, 4.0]))


def test_answers_of_one_token_need_no_second_call(decoder: Decoder) -> None:
    images = torch.rand(3, 3, 4, 4)
    one = ironclip.VisionLanguageClassifier(decoder, Processor(), ("cat", "dog"), prompt=PROMPT)(images)
    ids = torch.tensor([[WORDS.index(word) for word in PROMPT.split()]])
    pixels = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    assert torch.allclose(one, one_by_one(decoder, pixels, ids, [[WORDS.index("cat")], [WORDS.index("dog")]]), atol=1e-5)


def test_it_is_attacked_and_audited_like_any_other_classifier(decoder: Decoder) -> None:
    classifier = ironclip.VisionLanguageClassifier(decoder, Processor(), ANSWERS, prompt=PROMPT)
    assert classifier.resolution == 4
    images = torch.rand(16, 3, 4, 4)
    labels = classifier(images).argmax(-1)
    found = PGD(eps=0.2, steps=10)(classifier, images, labels)
    assert (found - images).abs().max() <= 0.2 + 1e-6
    assert (classifier(found).argmax(-1) == labels).float().mean() < 1
    larger = torch.rand(2, 3, 9, 7)
    assert classifier(larger).shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": ("cat",)}, "two or more answers"),
        ({"answers": ("cat", "cat")}, "none twice"),
        ({"answers": ("cat", " ")}, "none empty"),
        ({"processor": Processor(spoil=0.1)}, "another way than by resizing"),
        ({"processor": Processor(shape=(1, 4, 3, 4))}, r"shape \[1, 4, 3, 4\]"),
        ({"prompt": None, "processor": SimpleNamespace(chat_template=None)}, "no chat template"),
    ],
)
def test_what_cannot_be_scored_is_refused(decoder: Decoder, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"processor": Processor(), "answers": ANSWERS, "prompt": PROMPT} | change
    with pytest.raises(UsageError, match=said):
        ironclip.VisionLanguageClassifier(decoder, given["processor"], given["answers"], prompt=given["prompt"])


def test_an_encoder_decoder_is_refused(decoder: Decoder) -> None:
    decoder.config = SimpleNamespace(is_encoder_decoder=True)
    with pytest.raises(UsageError, match="encoder-decoder"):
        ironclip.VisionLanguageClassifier(decoder, Processor(), ANSWERS, prompt=PROMPT)


def test_an_answer_that_joins_the_prompt_is_refused(decoder: Decoder) -> None:
    class Joined(Processor):
        def tokenizer(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [len(text)]}

    with pytest.raises(UsageError, match="joins the last token"):
        ironclip.VisionLanguageClassifier(decoder, Joined(), ANSWERS, prompt=PROMPT)


def test_a_tiny_llava_of_transformers() -> None:
    """The same equality on the real classes: CLIP tower, projector, Llama, their cache and their processor."""
    pytest.importorskip("transformers", reason="needs the extra vlm")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<none>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<none>", additional_special_tokens=["<image>"])
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=8),
            text_config=LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(WORDS), max_position_embeddings=64),
            image_token_index=WORDS.index("<image>"),
        )
    ).eval()
    classifier = ironclip.VisionLanguageClassifier(model, processor, ANSWERS, prompt=PROMPT)
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    answers = [[WORDS.index(word) for word in answer.split()] for answer in ANSWERS]
    expected = one_by_one(model, (images - classifier.mean) / classifier.std, classifier.input_input_ids, answers)
    logits = classifier(images)
    assert classifier.input_input_ids.shape[1] > len(PROMPT.split())  # the mark became one place per patch
    assert torch.allclose(logits, expected, atol=1e-5)
    ours, theirs = (torch.autograd.grad(value.sum(), images, retain_graph=True)[0] for value in (logits, expected))
    assert theirs.abs().max() > 0
    assert torch.allclose(ours, theirs, atol=1e-6)
