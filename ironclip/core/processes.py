"""What each of several worker processes on one machine gets: a device of its own, and its part of the processor's cores."""

import os


def worker_environment(number: int, workers: int, device: str) -> dict[str, str]:
    """The environment of worker `number` (from 0) of so many: threads shared out, and for "cuda" one of the visible GPUs."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    if device == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = _gpu(number)
    return environment


def _gpu(number: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        names = visible.split(",")
        return names[number % len(names)]
    import torch

    return str(number % max(1, torch.cuda.device_count()))
