"""How many images fit on a device at once. The number is measured, and halved where the device runs out of memory.

All random numbers are keyed by image, so another number at once gives the same outcomes. The last bits of logits may differ.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ironclip.core.errors import RunError
from ironclip.core.shown import number_of
from ironclip.core.types import Batch, Images

T = TypeVar("T")
SHARE = 0.8  # of the free memory that images may take
BESIDE = 1.5  # gradients, temporaries and copies of the images, per byte that is kept for the backward pass
SMALL = 1 << 22  # numbers in a batch of images below which a CPU is not asked: 100 of 64 pixels, 27 of 224
CGROUP = Path("/sys/fs/cgroup")


class Parts:
    """Calls a function on as many images at once as fit into memory.

    Args:
        device: where the function computes.
        exact: the user asked for this number of images at once. It is used, or refused in one line.
        size: images at once to begin with; None: all.
    """

    def __init__(self, device: torch.device | str, *, exact: bool = False, size: int | None = None) -> None:
        self.device, self.exact = torch.device(device), exact
        self.size = size
        self._cost: int | None = None

    def measure(self, function: Images, image: Tensor, count: int) -> None:
        """Measure the memory per image, if that is unknown and can matter.

        Args:
            function: images -> logits; image: [1, 3, H, W], on the device; count: images wanted at once.

        Raises:
            RunError: this number was asked for and cannot fit.
        """
        if self._cost is not None or (self.device.type == "cpu" and image.numel() * count < SMALL):
            return
        try:
            self._cost = image_bytes(function, image)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self._cost = free_bytes(self.device) + 1
        free = free_bytes(self.device)
        if self.exact and self._cost * count > free:
            raise self._refusal(count)
        if not self.exact:
            fitting = max(1, int(SHARE * free / (BESIDE * max(1, self._cost))))
            self.size = fitting if self.size is None else min(self.size, fitting)

    def __call__(self, function: Callable[[slice], T], count: int) -> list[T]:
        """The results of the function for the rows 0 .. count - 1, in order, in parts that fit into memory.

        Raises:
            RunError: the number asked for does not fit, or one image alone does not.
        """
        found: list[T] = []
        start = 0
        while start < count:
            rows = slice(start, min(count, start + (self.size or count)))
            try:
                found.append(function(rows))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.exact or rows.stop - rows.start == 1:
                    raise self._refusal(rows.stop - rows.start) from None
                tried = rows.stop - rows.start
            else:
                start = rows.stop
                continue
            self.size = tried // 2  # outside the handler, whose traceback keeps the tensors of the failed call
            release(self.device)
        return found

    def _refusal(self, count: int) -> RunError:
        needs = "" if self._cost is None else f"at least {self._cost * count / 1e9:.1f} GB, "
        room = f"{needs}{free_bytes(self.device) / 1e9:.1f} GB are free"
        advice = "say --batch-size auto or a smaller number" if self.exact and count > 1 else "take another device"
        many = number_of(count, "image")
        return RunError(f"{many} at once do not fit into the memory of {self.device} ({room}); {advice}")


def over(
    batches: Iterable[Batch], function: Callable[[Batch], T], device: torch.device | str, *, exact: bool = False
) -> Iterator[T]:
    """The function of each batch, in order; a batch that does not fit into memory comes in parts.

    Raises:
        RunError: as of `Parts`.
    """
    parts = Parts(device, exact=exact)
    for batch in batches:
        yield from parts(partial(_of_rows, function, batch), len(batch))


def _of_rows(function: Callable[[Batch], T], batch: Batch, rows: slice) -> T:
    return function(batch.rows(rows))


def image_bytes(function: Images, image: Tensor) -> int:
    """Bytes that a gradient with respect to the pixels keeps for one image: the same on every device.

    The memory for two images minus that for one, so that memory taken once, such as the weights', is not counted.
    """
    return max(0, _kept(function, image.repeat(2, 1, 1, 1)) - _kept(function, image))


def _kept(function: Images, images: Tensor) -> int:
    """Bytes of all storages that autograd keeps for the backward pass of function(images)."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = function(images.detach().clone().requires_grad_())
    del output
    return sum(storages.values())


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the system had no memory left."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(part in said for part in words)


def release(device: torch.device) -> None:
    """Hand cached memory back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_bytes(device: torch.device | str) -> int:
    """Memory that new tensors may take on the device now; in a container, what its limit leaves."""
    device = torch.device(device)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return min(_available(), _left_in_group())


def peak_bytes(device: torch.device | str) -> int:
    """The most memory that tensors took on the device so far; for a CPU the largest resident size of this process."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 62  # the system does not say it


def _left_in_group() -> int:
    try:
        limit, used, facts = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current", "memory.stat"))
        if limit == "max":
            return 1 << 62
        files = sum(int(line.split()[1]) for line in facts.splitlines() if line.startswith(("active_file ", "inactive_file ")))
        return max(0, int(limit) - int(used) + files)  # pages of files are given back when they are needed
    except (OSError, ValueError):
        return 1 << 62
