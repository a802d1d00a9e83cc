"""Images of requests are decoded by processes that can be killed, in turns, the large ones apart from the small ones."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ironclip.serve.decoder import Upload
from ironclip.serve.limits import Busy, Limits, Refusal
from ironclip.serve.turns import Place, Turns

SMALL = 4_000_000
"""Pixels of a request that is decoded at once; those with more wait in a line of their own."""
NICE = 10
START = 60.0
PACKAGE = str(Path(__file__).resolve().parents[2])


class Left(Exception):
    """The client of these images has left."""


class Process:
    """One decoder process and the conversation with it."""

    def __init__(self, process: asyncio.subprocess.Process, resolution: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.resolution = process, resolution
        self.stdin, self.stdout = process.stdin, process.stdout

    @classmethod
    async def start(cls, resolution: int, max_pixels: int, nice: int) -> "Process":
        kept = {name: value for name, value in os.environ.items() if name != "IRONCLIP_TOKEN"}
        paths = os.pathsep.join(filter(None, (PACKAGE, kept.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "ironclip.serve.decoder", str(resolution), str(max_pixels), str(nice),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, env={**kept, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        made = cls(process, resolution)
        try:
            async with asyncio.timeout(START):
                await made.stdout.readline()  # importing takes a while, which is not the images' fault
        except TimeoutError:
            await made.kill()
            raise Busy("no decoder could be started in time; ask again later") from None
        return made

    async def take(self, uploads: list[Upload]) -> int:
        """Hand over the files of a request; the sum of their pixels."""
        self.stdin.write(json.dumps({"files": [[upload.name, len(upload.data)] for upload in uploads]}).encode() + b"\n")
        for upload in uploads:
            self.stdin.write(upload.data)
            await self.stdin.drain()
        return sum(json.loads(await self.stdout.readline())["pixels"])

    async def decode(self, number: int) -> Tensor:
        """The image with this number: [3, R, R] in [0, 1].

        Raises:
            Refusal: 413 or 422.
        """
        self.stdin.write(json.dumps({"decode": number}).encode() + b"\n")
        await self.stdin.drain()
        said = json.loads(await self.stdout.readline())
        if "refused" in said:
            raise Refusal(*said["refused"])
        side = self.resolution
        values = np.frombuffer(bytearray(await self.stdout.readexactly(said["bytes"])), dtype=np.uint8).reshape(side, side, 3)
        return torch.from_numpy(values).permute(2, 0, 1).float().div(255)

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.stdin.close()


class Lane:
    """A line of requests before so many processes of their own."""

    def __init__(self, limits: Limits, resolution: int, *, processes: int, most: int, nice: int, enough: int) -> None:
        self.limits, self.resolution, self.nice, self.enough = limits, resolution, nice, enough
        self.turns = Turns("images to decode", room=processes, most=most)
        self.idle: list[Process] = []
        self._working: set[asyncio.Task[list[Tensor] | int]] = set()

    async def decode(self, client: str, found: list[Upload]) -> list[Tensor] | int:
        """Images, or the sum of their pixels where it is more than enough for this lane.

        A caller that leaves gives its place back at the end of the image that is being decoded.

        Raises:
            Busy, Refusal: no place, or images that are not decoded.
        """
        place = self.turns.enter(client)
        stop = asyncio.Event()
        try:
            await place.turn()
        except BaseException:
            place.leave()
            raise
        work = asyncio.create_task(self._bounded(found, stop))
        self._working.add(work)
        work.add_done_callback(lambda task: self._done(task, place))
        try:
            return await asyncio.shield(work)
        finally:
            stop.set()

    async def close(self) -> None:
        await asyncio.gather(*self._working, return_exceptions=True)
        await asyncio.gather(*[process.kill() for process in self.idle])
        self.idle.clear()

    async def _bounded(self, found: list[Upload], stop: asyncio.Event) -> list[Tensor] | int:
        process = await self._process()
        try:
            async with asyncio.timeout(self.limits.decode_seconds):
                answer = await self._conversation(process, found, stop)
        except (Refusal, Left):
            self.idle.append(process)
            raise
        except TimeoutError:
            await process.kill()
            seconds = self.limits.decode_seconds
            raise Refusal(413, f"the images took more than {seconds:g} s to decode; send fewer or smaller ones") from None
        except (OSError, EOFError, ValueError, KeyError):
            await process.kill()
            raise Refusal(422, "an image ended the process that decoded it; save it anew in another format") from None
        except BaseException:
            await process.kill()
            raise
        self.idle.append(process)
        return answer

    async def _conversation(self, process: Process, found: list[Upload], stop: asyncio.Event) -> list[Tensor] | int:
        total = await process.take(found)
        if total > self.enough:
            return total
        images = []
        for number in range(len(found)):
            if stop.is_set():
                raise Left
            images.append(await process.decode(number))
        return images

    async def _process(self) -> Process:
        while self.idle:
            process = self.idle.pop()
            if process.process.returncode is None:
                return process
        return await Process.start(self.resolution, self.limits.max_pixels, self.nice)

    def _done(self, task: "asyncio.Task[list[Tensor] | int]", place: Place) -> None:
        self._working.discard(task)
        place.leave()
        if not task.cancelled():
            task.exception()  # whoever waited has it, or has left


class Decoders:
    """Two processes for small requests, one with low priority for large ones."""

    def __init__(self, limits: Limits, resolution: int) -> None:
        self.most = limits.request_pixels
        self.small = Lane(limits, resolution, processes=2, most=limits.max_queue, nice=0, enough=min(SMALL, self.most))
        self.large = Lane(limits, resolution, processes=1, most=limits.max_large, nice=NICE, enough=self.most)

    async def images(self, client: str, found: list[Upload]) -> list[Tensor]:
        """[3, R, R] of each image.

        Raises:
            Busy, Refusal: no place, or images that are not decoded; the first bad one refuses them all.
        """
        answer = await self.small.decode(client, found)
        if isinstance(answer, int) and answer <= self.most:
            answer = await self.large.decode(client, found)
        if isinstance(answer, int):
            sizes = f"{answer / 1e6:.0f} million pixels together are more than the limit of {self.most / 1e6:g} million a request"
            raise Refusal(413, f"{sizes}; send fewer or smaller images")
        return answer

    async def warm(self) -> None:
        """Start a decoder, so that the first client need not wait for it."""
        self.small.idle.append(await self.small._process())

    async def close(self) -> None:
        await asyncio.gather(self.small.close(), self.large.close())
