"""Global random numbers while a batch is scored: they depend on the batch alone.

Our own randomness is keyed by image. A user's classifier may draw from the global generators of torch, numpy or Python. Without
this its answers would depend on the number of batches scored before, and an interrupted or sharded evaluation would differ from
an uninterrupted one.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ironclip.core.tensors import key

_GLOBAL = 103  # keep these draws apart from those that attacks and data key by the same indices


@contextmanager
def drawn_for(indices: Sequence[int]) -> Iterator[None]:
    """Inside, the global generators start from a seed made of these image indices; afterwards they are as before."""
    seed = key(_GLOBAL, *indices)
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - the one that others draw from
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002
