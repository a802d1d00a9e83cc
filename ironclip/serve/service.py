"""What the paths of the service share: the model, its batcher, the attack thread, counters, and who is under way."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache

from starlette.requests import Request
from torch import Tensor

from ironclip.core.errors import NonFinite
from ironclip.serve import attacking, intake
from ironclip.serve.batching import Batcher
from ironclip.serve.limits import Busy, Limits, Refusal
from ironclip.serve.metrics import Metrics
from ironclip.serve.model import Served


class Service:
    """Counts and admits on the event loop alone; decodes, classifies and attacks in threads of their own."""

    def __init__(self, model: Served, limits: Limits) -> None:
        self.model, self.limits, self.metrics = model, limits, Metrics()
        self.batcher = Batcher(
            model.functions, device=model.device, max_batch=limits.max_batch, max_wait=limits.max_wait,
            max_queue=limits.max_queue, observe=self._batch,
        )  # fmt: skip
        self.metrics.queue.set_function(lambda: self.batcher.waiting)
        self.attacker = ThreadPoolExecutor(1, "ironclip-attack")
        self.decoders = ThreadPoolExecutor(2, "ironclip-decode")
        self.readers = asyncio.Semaphore(limits.max_readers)
        self.twin = cache(model.twin)
        self.under_way = {"classify": 0, "attack": 0}
        self.closing = False

    @contextmanager
    def admitted(self, what: str, most: int) -> Iterator[None]:
        """A place among the requests under way; Busy where there is none."""
        if self.under_way[what] >= most:
            raise Busy(f"{self.under_way[what]} requests are under way and at most {most} may be; ask again later")
        self.under_way[what] += 1
        try:
            yield
        finally:
            self.under_way[what] -= 1

    async def pictures(self, request: Request, most: int) -> tuple[list[str], list[Tensor]]:
        """(names, images [3, R, R]) of a request; few requests at a time are in memory."""
        async with self.readers:
            found = await intake.uploads(request, self.limits, most=most)
            loop = asyncio.get_running_loop()
            images = await loop.run_in_executor(self.decoders, intake.images, found, self.model.resolution, self.limits)
        return [upload.name for upload in found], images

    async def logits(self, wanted: list[tuple[str, Tensor]]) -> list[Tensor]:
        """[K] logits of each (function, image), batched with those of other requests."""
        futures = [asyncio.wrap_future(future) for future in self.batcher.submit(wanted)]
        self.metrics.accepted.inc(len(wanted))
        try:
            return await asyncio.gather(*futures)
        except NonFinite as problem:
            raise Refusal(500, str(problem)) from None
        finally:
            for future in futures:
                future.cancel()
            self.metrics.answered.inc(len(wanted))

    async def attack(self, request: Request, wanted: attacking.Order) -> AsyncIterator[str]:
        """Lines of JSON about an attack that is under way: progress, then the result or an error."""
        loop, events, stop = asyncio.get_running_loop(), asyncio.Queue[attacking.Event](), threading.Event()
        with ExitStack() as place:
            place.enter_context(self.admitted("attack", self.limits.max_attacks))
            _, (image,) = await self.pictures(request, 1)

            def tell(event: attacking.Event) -> None:
                loop.call_soon_threadsafe(events.put_nowait, event)

            def work() -> attacking.Ended:
                return attacking.run(self.twin, image, wanted, self.limits, stop, tell)

            running = loop.run_in_executor(self.attacker, work)
            leave = place.pop_all()

        def ended(future: "asyncio.Future[attacking.Ended]") -> None:
            """Free the place and count first: who has read the last event may ask again, and finds both done."""
            end = attacking.failure("stopped", "the service stops") if future.cancelled() else future.result()
            leave.close()
            self.metrics.attacks.labels(ended=end.how).inc()
            events.put_nowait(end.last)

        running.add_done_callback(ended)
        return _lines(events, stop)

    def unready(self) -> str:
        """Why a further classification would be refused just now; empty: it would not."""
        if self.closing:
            return "the service is shutting down"
        if self.batcher.waiting >= self.limits.max_queue or self.under_way["classify"] >= self.limits.max_queue:
            return "the queue is full"
        return ""

    def close(self) -> None:
        """Finish what was accepted, then stop the threads."""
        self.closing = True
        self.batcher.close()
        self.attacker.shutdown()
        self.decoders.shutdown()

    def _batch(self, images: int, seconds: float) -> None:
        self.metrics.images.inc(images)
        self.metrics.batches.inc()
        self.metrics.batch_seconds.inc(seconds)


async def _lines(events: "asyncio.Queue[attacking.Event]", stop: threading.Event) -> AsyncIterator[str]:
    """Events up to the last one; the attack is told to stop when nobody reads on."""
    try:
        event: attacking.Event = {"event": "progress"}
        while event["event"] == "progress":
            event = await events.get()
            yield json.dumps(event, allow_nan=False) + "\n"
    finally:
        stop.set()
