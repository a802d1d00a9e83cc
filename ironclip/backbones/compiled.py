"""Blocks of image towers compiled by torch during training. The code between them, with edits and traces, is not compiled.

Text towers are not compiled: their prompts have many lengths, and each would need its own graph.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ironclip.backbones import blocks
from ironclip.core.errors import UsageError

GRAPHS = 32
"""Largest number of graphs of one block: with and without gradients, with replaced weights, for the last layer, for another batch
size."""
BLOCKS = r"(?:.*\.)?(?:blocks|layer[1-4])\.\d+"
"""Names of the blocks in timm's towers and in ResNets; open_clip's transformers run theirs in `blocks.run_block`."""


@contextmanager
def compiling(backbone: Any, backend: Any = "inductor") -> Iterator[None]:
    """Inside, a block of an image tower runs as a compiled graph, unless its attention is recorded.

    One block is compiled, not a whole tower, so that the first step waits for one graph and not for twelve.

    Args:
        backbone: the `ClipBackbone` whose image tower is compiled.
        backend: of `torch.compile`.

    """
    inside = [module for name, module in backbone.image.named_modules() if re.fullmatch(BLOCKS, name)]
    before = blocks.computed
    blocks.computed = torch.compile(before, backend=backend)
    for module in inside:
        module.compile(backend=backend)
    try:
        with torch._dynamo.config.patch(recompile_limit=GRAPHS), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The .grad attribute of a Tensor that is not a leaf"
            )  # torch's own tracer asks for it
            yield
    finally:
        blocks.computed = before
        for module in inside:
            module._compiled_call_impl = None


def check_compiler(device: torch.device, backend: Any = "inductor") -> None:
    """UsageError where torch cannot compile for the device: a CPU needs a C++ compiler, a GPU Triton."""

    def sample(values: torch.Tensor) -> torch.Tensor:
        return values.sin() + 1

    try:
        torch.compile(sample, backend=backend)(torch.ones(2, device=device))
    except Exception as problem:  # each backend has its own errors
        cause = getattr(problem, "inner_exception", problem)
        said = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:150]
        need = "Triton, which comes with torch on Linux" if device.type == "cuda" else "a C++ compiler such as g++"
        raise UsageError(f"--compile needs {need}; torch says: {said}. Install it, or leave --compile out") from None
