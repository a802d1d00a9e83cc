"""The device that computes, chosen on the machine that computes. Imports no torch before it is asked."""

from ironclip.core.errors import UsageError


def pick_device(name: str) -> str:
    """The device asked for, or the best there is.

    Raises:
        UsageError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(kind, False):
        here = ", ".join(device for device, there in usable.items() if there)
        raise UsageError(f"device {name!r} is not usable here; usable: {here}")
    return name
