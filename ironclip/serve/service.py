"""What the paths of the service share: the model, its batcher, the attack thread, counters, and the running requests."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from typing import TypeVar

from starlette.requests import Request
from torch import Tensor

from ironclip.core.errors import NonFinite
from ironclip.serve import attacking, intake
from ironclip.serve.batching import Batcher
from ironclip.serve.decoding import Decoders
from ironclip.serve.limits import Busy, Limits, Refusal
from ironclip.serve.metrics import Metrics
from ironclip.serve.model import Served
from ironclip.serve.turns import Place, Turns

T = TypeVar("T")


class Service:
    """Counts and admits on the event loop alone; decodes in processes, classifies and attacks in threads of their own."""

    def __init__(self, model: Served, limits: Limits) -> None:
        self.model, self.limits, self.metrics = model, limits, Metrics()
        self.batcher = Batcher(
            model.functions, device=model.device, max_batch=limits.max_batch, max_wait=limits.max_wait,
            max_queue=limits.max_queue, observe=self._batch,
        )  # fmt: skip
        self.metrics.queue.set_function(lambda: self.batcher.waiting)
        self.queue = Turns("images", room=4 * limits.max_batch, most=limits.max_queue)
        self.places = Turns("attacks", room=1, most=limits.max_attacks)
        self.attacker = ThreadPoolExecutor(1, "ironclip-attack")
        self.decoders = Decoders(limits, model.resolution)
        self.bodies = intake.Bodies(limits)
        self.twin = cache(model.twin)
        self.closing = False
        self._attacks: set[asyncio.Task[None]] = set()

    async def pictures(self, request: Request, client: str, most: int) -> tuple[list[str], list[Tensor]]:
        """(names, images [3, R, R]) of a request."""
        found = await intake.uploads(request, self.bodies, client, most=most)
        with self.bodies.kept(sum(len(upload.data) for upload in found)):
            images = await while_asked(request, self.decoders.images(client, found))
        return [upload.name for upload in found], images

    async def logits(self, request: Request, client: str, wanted: list[tuple[str, Tensor]]) -> list[Tensor]:
        """[K] logits of each (function, image), batched with those of other requests."""
        with self.queue.enter(client, len(wanted)) as place:
            return await while_asked(request, self._answered(place, wanted))

    async def _answered(self, place: Place, wanted: list[tuple[str, Tensor]]) -> list[Tensor]:
        await place.turn()
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

    async def attack(self, request: Request, client: str, wanted: attacking.Order) -> AsyncIterator[str]:
        """Lines of JSON about an attack that is under way: progress, then the result or an error."""
        events, stop = asyncio.Queue[attacking.Event](), threading.Event()
        with ExitStack() as kept:
            place = kept.enter_context(self.places.enter(client))
            _, (image,) = await self.pictures(request, client, 1)
            kept.pop_all()
        task = asyncio.create_task(self._attacked(place, image, wanted, events, stop))
        self._attacks.add(task)
        task.add_done_callback(self._attacks.discard)
        return _lines(events, stop)

    async def _attacked(
        self,
        place: Place,
        image: Tensor,
        wanted: attacking.Order,
        events: "asyncio.Queue[attacking.Event]",
        stop: threading.Event,
    ) -> None:
        """One attack in its turn. Its place is free and it is counted before its last event: who has read that may ask again."""
        loop = asyncio.get_running_loop()

        def tell(event: attacking.Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> attacking.Ended:
            return attacking.run(self.twin, image, wanted, self.limits, stop, tell)

        end = attacking.failure("stopped", "the service stops")
        try:
            await place.turn()
            end = await loop.run_in_executor(self.attacker, work)
        except Busy as busy:
            end = attacking.failure("refused", busy.text)
        finally:
            place.leave()
            self.metrics.attacks.labels(ended=end.how).inc()
            events.put_nowait(end.last)

    def unready(self) -> str:
        """Why a further classification would be refused just now; empty: it would not."""
        if self.closing:
            return "the service is shutting down"
        if self.queue.total >= self.limits.max_queue:
            return "the queue is full"
        return ""

    async def close(self) -> None:
        """Finish what was accepted, then stop the threads and the decoders."""
        self.closing = True
        await asyncio.to_thread(self.batcher.close)
        await asyncio.gather(*self._attacks, return_exceptions=True)
        await asyncio.to_thread(self.attacker.shutdown)
        await self.decoders.close()

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


async def while_asked(request: Request, work: Coroutine[None, None, T]) -> T:
    """What the work returns; it is cancelled as soon as the client has left. The body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(400, "the connection was closed before the answer")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
