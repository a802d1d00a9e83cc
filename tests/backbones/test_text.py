"""The text engine: open_clip's numbers over 77 tokens, whatever is left out, shared, chunked or edited."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import ironclip.backbones.text as text
from ironclip.backbones.text import TextTower, shared_columns
from ironclip.backbones.tiny import tiny_backbone, tiny_clip
from ironclip.core.errors import UsageError
from ironclip.core.types import PromptTokens, Trace
from ironclip.defenses._blocks import Refiners, TextPrompts, TokenRefiner

CLASSES = ["cat", "golden retriever", "hummingbird of the deep green forest", "car", "an old tram in the snow"]
PROMPTS = [f"a photo of a {name}." for name in CLASSES]
WIDTH, LAYERS = 32, 2


@pytest.fixture(scope="module")
def model():
    return tiny_clip().requires_grad_(False)


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture
def blocks(monkeypatch):
    """What every block call was given: (batch, tokens, prefix, whether rows were picked)."""
    seen, run = [], text.run_block

    def noted(block, tokens, *, prefix=None, rows=None, **options):
        seen.append((len(tokens), tokens.shape[1], 0 if prefix is None else prefix.shape[1], rows is not None))
        return run(block, tokens, prefix=prefix, rows=rows, **options)

    monkeypatch.setattr(text, "run_block", noted)
    return seen


def refiners(**scope) -> Refiners:
    """One random refiner a layer, not the identity."""
    draw = torch.Generator().manual_seed(3)
    made = [TokenRefiner(WIDTH, 8, generator=draw) for _ in range(LAYERS)]
    for refiner in made:
        nn.init.normal_(refiner.net[-1].weight, std=0.3, generator=draw)
    return Refiners(made, LAYERS, **scope)


def prompts() -> TextPrompts:
    made = TextPrompts(LAYERS, 2, WIDTH, start=1, generator=torch.Generator().manual_seed(4))
    nn.init.normal_(made.tokens, generator=torch.Generator().manual_seed(5))
    return made


EDITS = {
    "none": list,
    "deep prompts": lambda: [prompts()],
    "refiners": lambda: [refiners()],
    "refiners that skip prompts, then prompts": lambda: [refiners(skip=2, depth=LAYERS), prompts()],
    "refiners and shallower prompts": lambda: [refiners(skip=2, depth=1), prompts()],
}


class Hidden(nn.Module):
    """The same edit without what it says about itself, so that the engine must run everything."""

    def __init__(self, edit) -> None:
        super().__init__()
        self.edit = edit

    def forward(self, layer, tokens):
        return self.edit(layer, tokens)


def test_features_equal_open_clips_over_all_positions(model, backbone):
    assert_close(
        backbone.encode_text(backbone.embed_text(PROMPTS)), model.encode_text(backbone.tokenize(PROMPTS)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_class_is_the_same_alone_and_in_company(backbone, count):
    whole = backbone.encode_text(backbone.embed_text(PROMPTS))
    assert_close(backbone.encode_text(backbone.embed_text(PROMPTS[:count])), whole[:count], atol=1e-5, rtol=0)


def test_prompts_are_cut_at_the_last_end_and_share_their_first_words(backbone):
    tokens = backbone.embed_text(PROMPTS)
    assert tokens.embeddings.shape == (5, int(tokens.eot.max()) + 1, WIDTH)
    assert tokens.shared == 5  # start, a, photo, of, a
    assert tokens.eot.tolist() == [7, 8, 12, 7, 12]


def test_shared_columns_count_only_the_leading_ones():
    assert shared_columns(torch.tensor([[1, 2, 3, 9], [1, 2, 4, 9]])) == 2
    assert shared_columns(torch.tensor([[1, 2]])) == 2
    assert shared_columns(torch.tensor([[1, 2], [3, 2]])) == 0


def test_prefix_runs_once_and_the_last_layer_computes_one_row(backbone, blocks):
    backbone.encode_text(backbone.embed_text(PROMPTS))
    assert blocks == [(5, 8, 5, False), (1, 5, 0, False), (5, 8, 5, True)]


@pytest.mark.parametrize("name", EDITS)
def test_sharing_the_prefix_changes_nothing_and_is_used(backbone, blocks, name):
    edits = EDITS[name]()
    parameters = [p for edit in edits for p in edit.parameters()]
    tokens = backbone.embed_text(PROMPTS)
    words = tokens.embeddings[0, 1:3].clone().requires_grad_()

    def run(*edits):
        embeddings = torch.cat([tokens.embeddings[:, :1], words.expand(5, -1, -1), tokens.embeddings[:, 3:]], 1)
        blocks.clear()
        features = backbone.encode_text(PromptTokens(embeddings, tokens.eot, tokens.shared, tokens.ids), edits=edits)
        weights = torch.linspace(-1, 1, features.numel()).view_as(features)
        slopes = torch.autograd.grad((features * weights).sum(), [words, *parameters], allow_unused=True)
        return features.detach(), slopes, max(prefix for _, _, prefix, _ in blocks), blocks[-1][3]

    features, slopes, prefix, one_row = run(*edits)
    plain, expected, none, all_rows = run(*[Hidden(edit) for edit in edits] or [Hidden(lambda layer, tokens: tokens)])
    assert (prefix, none, one_row, all_rows) == (5, 0, True, False)
    assert_close(features, plain, atol=1e-5, rtol=0)
    for slope, other in zip(slopes, expected):
        assert (slope is None) == (other is None)
        if slope is not None:
            assert_close(slope, other, atol=2e-5, rtol=1e-4)


def test_prefix_is_not_shared_where_an_edit_reaches_beyond_it(backbone, blocks):
    edit = refiners()
    edit.reach = 6
    backbone.encode_text(backbone.embed_text(PROMPTS), edits=[edit])
    assert all(prefix == 0 for _, _, prefix, _ in blocks)


def test_class_specific_words_share_the_start_token_alone(backbone, blocks):
    tokens = backbone.embed_text(PROMPTS)
    draw = torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    embeddings = torch.cat([tokens.embeddings[:, :1], draw, tokens.embeddings[:, 5:]], 1)
    shared = backbone.encode_text(PromptTokens(embeddings, tokens.eot, 1, tokens.ids))
    assert blocks[0][2] == 1
    assert_close(shared, backbone.encode_text(PromptTokens(embeddings, tokens.eot, 0, tokens.ids)), atol=1e-5, rtol=0)


def test_what_follows_the_end_never_counts(backbone):
    tokens = backbone.embed_text(PROMPTS)
    embeddings = tokens.embeddings.clone()
    embeddings[0, int(tokens.eot[0]) + 1 :] = torch.nan
    changed = embeddings.nan_to_num(7.0)
    whole = backbone.encode_text(tokens)
    assert_close(backbone.encode_text(PromptTokens(changed, tokens.eot, tokens.shared, tokens.ids)), whole, atol=1e-6, rtol=0)


def test_prompts_never_reach_the_start_token(backbone):
    plain, edited = Trace(), Trace()
    tokens = backbone.embed_text(PROMPTS)
    backbone.encode_text(tokens, trace=plain)
    backbone.encode_text(tokens, trace=edited, edits=[prompts()])
    for layer in range(LAYERS + 1):
        assert_close(plain.inputs[layer][:, 0], edited.inputs[layer][:, 0])
    assert (plain.inputs[2][:, 5] - edited.inputs[2][:, 5]).abs().max() > 1e-2


def test_trace_gives_the_inputs_of_blocks_and_causal_attention_with_gradients(model, backbone):
    tokens, trace = backbone.embed_text(PROMPTS), Trace(attention=True)
    leaf = tokens.embeddings.clone().requires_grad_()
    features = backbone.encode_text(PromptTokens(leaf, tokens.eot, tokens.shared, tokens.ids), trace=trace)
    assert_close(features, backbone.encode_text(tokens), atol=1e-5, rtol=0)
    length = tokens.embeddings.shape[1]
    for layer, block in enumerate(model.transformer.resblocks):
        assert_close(trace.weights[layer].sum(-1), torch.ones(5, 2, length))
        assert not trace.weights[layer].triu(1).any()
        expected = block(trace.inputs[layer], attn_mask=model.attn_mask[:length, :length])
        assert_close(trace.inputs[layer + 1], expected, atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(trace.weights[1][0, :, 7].square().sum(), leaf)
    assert slope.abs().max() > 0
    only = Trace(layers=(0,), attention=True)
    backbone.encode_text(tokens, trace=only)
    assert (list(only.inputs), list(only.weights)) == ([0], [0])


@pytest.mark.parametrize("name", ["none", "refiners that skip prompts, then prompts"])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_give_the_same_features_and_gradients(model, backbone, blocks, name, chunk):
    edits, small = EDITS[name](), TextTower(model, chunk=chunk)
    parameters = [p for edit in edits for p in edit.parameters()]
    tokens = backbone.embed_text(PROMPTS)
    words = tokens.embeddings[0, 1:3].clone().requires_grad_()
    embeddings = torch.cat([tokens.embeddings[:, :1], words.expand(5, -1, -1), tokens.embeddings[:, 3:]], 1)
    spliced = PromptTokens(embeddings, tokens.eot, tokens.shared, tokens.ids)
    found = []
    for tower in (small, backbone.text):
        blocks.clear()
        features = tower(spliced, edits=edits)
        assert max(batch for batch, *_ in blocks) == (chunk if tower is small else 5)
        slopes = torch.autograd.grad(features.square().sum(), [words, *parameters], retain_graph=True, allow_unused=True)
        again = torch.autograd.grad(features.square().sum(), [words])  # the recomputation serves a second pass
        assert_close(again[0], slopes[0], atol=1e-6, rtol=1e-5)
        found.append((features.detach(), [s for s in slopes if s is not None]))
    assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        assert_close(small(spliced, edits=edits), found[1][0], atol=1e-5, rtol=0)


def test_a_thousand_classes_never_run_at_once_and_keep_no_activations(model, blocks):
    tower = TextTower(model)
    count = 1000
    draw = torch.Generator().manual_seed(0)
    ids = torch.zeros(count, 77, dtype=torch.long)
    eot = torch.randint(4, 9, (count,), generator=draw)
    ids[:, 0], ids[:, 1] = 49406, 320
    for row, end in enumerate(eot.tolist()):
        ids[row, 2:end] = torch.randint(1000, 2000, (end - 2,), generator=draw)
        ids[row, end] = 49407
    tokens = tower.embed(ids)
    words = tokens.embeddings[0, 1:2].clone().requires_grad_()
    kept = []

    def run(tower):
        embeddings = torch.cat([tokens.embeddings[:, :1], words.expand(count, -1, -1), tokens.embeddings[:, 2:]], 1)
        blocks.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            features = tower(PromptTokens(embeddings, tokens.eot, tokens.shared, tokens.ids))
        sizes, saved = max(batch for batch, *_ in blocks), sum(kept)
        kept.clear()
        return features, torch.autograd.grad(features.square().sum(), words)[0], sizes, saved

    features, slope, largest, saved = run(tower)
    whole, expected, _, everything = run(TextTower(model, chunk=count))
    assert largest <= 256
    assert saved < 0.1 * everything
    assert_close(features, whole, atol=1e-5, rtol=0)
    assert_close(slope, expected, atol=1e-3, rtol=1e-4)


def test_replaced_weights_and_gradients_to_them_in_and_out_of_chunks(model, backbone):
    name = backbone.text.weight_names[0]
    fresh = (backbone.text_weight(name) * 0.5).requires_grad_()
    tokens = backbone.embed_text(PROMPTS)
    found = []
    for tower in (TextTower(model, chunk=2), backbone.text):
        features = tower(tokens, weights={name: fresh})
        found.append((features.detach(), torch.autograd.grad(features.square().sum(), fresh)[0]))
    assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)
    assert (found[1][0] - backbone.encode_text(tokens)).abs().max() > 1e-3
    with pytest.raises(UsageError, match="did you mean"):
        backbone.encode_text(tokens, weights={name + "s": fresh})


def test_a_text_that_does_not_fit_is_refused_in_one_line(backbone):
    with pytest.raises(UsageError, match=r"has 80 tokens; tiny holds at most 75\. Shorten it") as caught:
        backbone.tokenize(["cat " * 80])
    assert "\n" not in str(caught.value)
    assert backbone.tokenize(["cat " * 75])[0, 76] == 49407


def test_tokens_of_many_texts_are_remembered_and_right(backbone):
    lists = [[f"a {i} b", "c"] for i in range(40)]
    first = [backbone.tokenize(texts) for texts in lists]
    assert all(torch.equal(a, backbone.tokenize(texts)) for a, texts in zip(first, lists))
    assert len(backbone._ids) <= 32


def test_float64_runs_in_float64():
    backbone = tiny_backbone().double()
    model = tiny_clip().double()
    features = backbone.encode_text(backbone.embed_text(PROMPTS))
    assert features.dtype == torch.float64
    assert_close(features, model.encode_text(backbone.tokenize(PROMPTS)).detach(), atol=1e-12, rtol=0)
