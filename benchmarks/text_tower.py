"""The text tower alone (ViT-B/32's: 12 layers of 512, 8 heads, context 77) against the plain pass over 77 tokens.

Plain: every class over the whole context, gradients to every parameter. Lean: the same with the parameters frozen. Ours: cut
at the last end of text, the shared prefix once, the end-of-text row alone in the last layer, gradients to the context only.
The last rows give the peak memory of a pass with gradient over 1000 classes, each measured in a process of its own: it is
bounded because the tower runs at most 256 classes at once and recomputes their activations in the backward pass.
"""

import argparse
import gc
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import harness, plain
from ironclip.backbones.prompts import splice
from ironclip.core.types import Context
from ironclip.defenses.apt import APT

TARGETS = {100: 15.0}
WHOLE = 1_000_000
"""A number of classes at once that no task reaches: one chunk."""


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for count, words in [(100, 16)] if quick else [(100, 16), (100, 4), (10, 16)]:
        yield measure("text-only", count, words, rounds, gradient=True, lean=not quick)
    if not quick:
        yield measure("text-only", 100, 16, rounds, gradient=False, lean=False)
        for count, chunks in {100: (WHOLE,), 1000: (256, WHOLE)}.items():
            for chunk in chunks:
                yield memory_row(count, chunk)
        yield memory_row(100, WHOLE, reference=True)


def measure(
    name: str,
    count: int,
    words: int,
    rounds: int,
    *,
    gradient: bool,
    lean: bool = True,
    chunk: int = 256,
    dtype: torch.dtype = torch.float32,
    tolerance: tuple[float, float] = (1e-5, 1e-4),
) -> harness.Row:
    """Equality of features and of the gradient of the context within `tolerance`, then the times (none for 0 rounds)."""
    models = plain.pair(name, dtype)
    models.backbone.text.chunk = chunk
    classes = plain.class_names(count)
    context, given, frozen = _contexts(models, classes, words)
    pull = torch.randn(count, models.backbone.spec.embed_dim, generator=torch.Generator().manual_seed(3), dtype=dtype)

    def ours() -> tuple[Tensor, Tensor | None]:
        return _pull(_features(models, classes, context), context, pull if gradient else None)

    def reference(prompts: plain.PlainPrompts) -> tuple[Tensor, Tensor | None]:
        result = _pull(prompts.text(), prompts.words, pull if gradient else None)
        prompts.zero_grad(set_to_none=True)
        return result

    with torch.set_grad_enabled(gradient):
        kind = "forward + backward" if gradient else "forward"
        row = harness.Row("text tower", f"C={count}, {words} words, {kind}", target=TARGETS.get(count) if gradient else None)
        (features, slope), (expected, expected_slope) = ours(), reference(given)
        row.deviations["features"] = harness.check("text features", features, expected, tolerance[0])
        if slope is not None and expected_slope is not None:
            row.deviations["gradient"] = harness.check("gradient of the context", slope, expected_slope, tolerance[1])
        if rounds:
            paths: dict[str, harness.Path] = {"plain": partial(reference, given), "ours": ours}
            if lean:
                paths["lean"] = partial(reference, frozen)
            row.seconds = harness.seconds(paths, rounds)
    return row


def memory_row(count: int, chunk: int, *, reference: bool = False) -> harness.Row:
    """Peak memory of one pass with gradient above what stood before, in a fresh process."""
    options = ["--classes", str(count), "--chunk", str(chunk), *(["--reference"] if reference else [])]
    command = [sys.executable, "-m", "benchmarks.text_tower", "--peak", *options]
    root = Path(__file__).resolve().parents[1]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    mebibytes, taken = (float(word) for word in printed.split())
    how = "plain, 77 tokens" if reference else "one chunk" if chunk >= count else f"chunks of {chunk}"
    row = harness.Row("text memory", f"C={count}, 16 words, {how}", notes={"peak MiB": mebibytes})
    row.seconds = {"plain" if reference else "ours": [taken]}
    return row


def _contexts(
    models: plain.Pair, classes: Sequence[str], words: int
) -> tuple[nn.Parameter, plain.PlainPrompts, plain.PlainPrompts]:
    defense = APT(models.backbone, classes[:2], length=words, generator=torch.Generator().manual_seed(2))
    context = nn.Parameter(defense.context.detach().to(models.backbone.dtype))
    given, frozen = (plain.PlainPrompts(model, context, classes) for model in (models.plain, models.lean))
    return context, given, frozen


def _features(models: plain.Pair, classes: Sequence[str], context: Tensor) -> Tensor:
    features = models.backbone.encode_text(splice(models.backbone, classes, Context(context)))
    return torch.nn.functional.normalize(features, dim=-1)


def _pull(features: Tensor, words: nn.Parameter, pull: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Features, and the gradient of <features, pull> where pull is given."""
    if pull is None:
        return features, None
    words.grad = None
    (features * pull).sum().backward()
    return features.detach(), words.grad


def _peak(count: int, chunk: int, reference: bool) -> tuple[float, float]:
    """(MiB, processor seconds) of one pass with gradient."""
    models = plain.pair("text-only")
    models.backbone.text.chunk = chunk
    classes = plain.class_names(count)
    context, given, _ = _contexts(models, classes, 16)
    gc.collect()
    before, begin = _memory("VmRSS"), time.process_time()
    features = given.text() if reference else _features(models, classes, context)
    features.sum().backward()
    return (_memory("VmHWM") - before) / 1024, time.process_time() - begin


def _memory(field: str) -> float:
    """KiB from the kernel's account of this process; elsewhere than on Linux the peak so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(float(line.split()[1]) for line in lines if line.startswith(field + ":"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--peak", action="store_true")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--reference", action="store_true")
    options, rest = parser.parse_known_args(argv)
    if options.peak:
        torch.set_num_threads(1)
        print(*_peak(options.classes, options.chunk, options.reference))
        return 0
    return harness.main(rows, __doc__ or "", rest)


if __name__ == "__main__":
    sys.exit(main())
