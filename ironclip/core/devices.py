"""The device to compute on, chosen on the machine that computes. Imports torch only when it is called."""

import re

from ironclip.core.errors import UsageError


def pick_device(name: str) -> str:
    """The device asked for, or the best there is.

    Raises:
        UsageError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    found = re.fullmatch(r"(cpu|cuda|mps)(?::(\d{1,4}))?", name)
    if found is None:
        raise UsageError(
            f"--device is auto, cpu, cuda, one GPU such as cuda:1, or mps; got {name!r}. Several workers take all GPUs of cuda, "
            "or those that CUDA_VISIBLE_DEVICES names"
        )
    many = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if int(found[2] or 0) >= many[found[1]]:
        here = ", ".join(kind if count == 1 else f"{kind} (0 to {count - 1})" for kind, count in many.items() if count)
        raise UsageError(f"device {name!r} is not usable here; usable: {here}")
    return name
