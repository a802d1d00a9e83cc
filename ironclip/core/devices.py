"""The device to compute on, chosen on the machine that computes. Imports torch only when it is called."""

import re

from ironclip.core.errors import UsageError


def check_device(name: str) -> tuple[str, int]:
    """Kind and number of a device by its name, whether it is here or not; UsageError where no device has such a name."""
    found = re.fullmatch(r"auto|(cpu|cuda|mps)(?::([0-9]{1,4}))?", name)
    if found is None:
        raise UsageError(
            f"--device is auto, cpu, cuda, one GPU such as cuda:1, or mps; got {name!r}. Several workers take all GPUs of cuda, "
            "or those that CUDA_VISIBLE_DEVICES names"
        )
    return found[1] or "auto", int(found[2] or 0)


def pick_device(name: str) -> str:
    """The device asked for, or the best there is.

    Raises:
        UsageError: no such device here.
    """
    import torch

    kind, number = check_device(name)
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    many = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if number >= many[kind]:
        here = ", ".join(kind if count == 1 else f"{kind} (0 to {count - 1})" for kind, count in many.items() if count)
        raise UsageError(f"device {name!r} is not usable here; usable: {here}")
    return name
