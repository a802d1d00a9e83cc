"""How numbers are multiplied: exact float32, TF32 on tensor cores, or bfloat16 by autocast. The caller's settings are restored.

Imports torch when it is used first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from ironclip.core.errors import UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@contextmanager
def computing(precision: str, device: "torch.device | str") -> Iterator[None]:
    """Inside, matrix products and convolutions on this device have this precision, whatever the caller's autocast says.

    Raises:
        UsageError: no such precision, or one that the device does not have.
    """
    import torch

    kind = torch.device(device).type
    check_precision(precision, kind)
    with tf32(precision == "tf32"), torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, products of float32 matrices and convolutions use TF32 where the device has it, or never do.

    The caller's settings come back, after an error too.
    """
    import torch

    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def check_precision(precision: str, kind: str) -> None:
    """UsageError where a kind of device ("cpu", "cuda", "mps") does not have this precision."""
    if precision not in PRECISIONS:
        raise UsageError(f"the precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}; got {precision!r}")
    if precision == "tf32" and kind != "cuda":
        raise UsageError(f"tf32 is a precision of NVIDIA's GPUs; a {kind} has float32 and bf16")
