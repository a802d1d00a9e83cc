"""Dynamic batching: many requests, one worker thread, a bounded queue, and one call of the model per batch."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ironclip.core.errors import NonFinite
from ironclip.core.types import Images
from ironclip.serve.limits import Busy


@dataclass
class _Job:
    which: str
    image: Tensor
    answer: "Future[Tensor]"


class Batcher:
    """Answers images with logits, in the order in which they came.

    Every accepted image is answered with its logits [K] or with the error of the model. Images with a cancelled future are left
    out.

    Args:
        functions: by name, images [B, 3, R, R] -> logits [B, K], each treating images alone.
        device: where the functions want their images.
        max_batch: images in one call.
        max_wait: seconds that the first image of a batch waits for others.
        max_queue: images that may wait; more are refused.
        observe: called with the number of images and the seconds of every call.
    """

    def __init__(
        self,
        functions: Mapping[str, Images],
        *,
        device: torch.device | str = "cpu",
        max_batch: int,
        max_wait: float,
        max_queue: int,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self.functions, self.device = dict(functions), device
        self.max_batch, self.max_wait, self.max_queue, self.observe = max_batch, max_wait, max_queue, observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._worker = threading.Thread(target=self._work, name="ironclip-batcher", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def submit(self, wanted: Sequence[tuple[str, Tensor]]) -> list["Future[Tensor]"]:
        """Futures of the logits [K] of (name of a function, image [3, R, R]), all accepted or none.

        Raises:
            Busy: no room for all of them, or the service is going down.
        """
        jobs = [_Job(which, image, Future()) for which, image in wanted]
        with self._changed:
            if not self._open:
                raise Busy("the service is shutting down; ask again when it is back")
            if len(self._jobs) + len(jobs) > self.max_queue:
                raise Busy(f"{len(self._jobs)} images wait and at most {self.max_queue} may; ask again later or send fewer")
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.answer for job in jobs]

    def close(self) -> None:
        """Refuse new images, answer the accepted ones, and stop."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while jobs := self._take():
            jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            for which in dict.fromkeys(job.which for job in jobs):
                self._answer(which, [job for job in jobs if job.which == which])

    def _take(self) -> list[_Job]:
        """The next batch; none when closed and empty."""
        with self._changed:
            while self._open and not self._jobs:
                self._changed.wait()
            deadline = time.monotonic() + self.max_wait
            while self._open and len(self._jobs) < self.max_batch and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self._jobs.popleft() for _ in range(min(self.max_batch, len(self._jobs)))]

    def _answer(self, which: str, jobs: list[_Job]) -> None:
        begin = time.perf_counter()
        try:
            with torch.no_grad():
                logits = self.functions[which](torch.stack([job.image for job in jobs]).to(self.device)).float().cpu()
        except Exception as error:  # whatever the model raises belongs to the images, not to this thread
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:  # one image may have spoilt it for all
                self._answer(which, [job])
            return
        self.observe(len(jobs), time.perf_counter() - begin)
        for job, row, finite in zip(jobs, logits, logits.isfinite().all(1).tolist(), strict=True):
            if finite:
                job.answer.set_result(row)
            else:
                job.answer.set_exception(NonFinite("the model returned NaN or infinity for this image"))
