"""Processes of this machine that do the shards of one command together. A killed process loses at most its current batch."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ironclip.core.errors import RunError
from ironclip.core.processes import check_deaths, killed, let_finish, worker_environment
from ironclip.core.signals import LATER, asked_to_leave, leave_if_asked
from ironclip.records.folder import EvaluationFolder
from ironclip.records.shards import shards

Callback = Callable[[dict[str, Any]], None]
EACH = 8
"""Shards per worker, so that one slow shard does not delay the others."""
PAUSE = 0.3


class Workers:
    """Processes that repeat an `ironclip` command with `--shard any/n`, started when there is something to wait for.

    Args:
        command: its words after `ironclip`. many: how many processes. device: of each; with "cuda" each sees one GPU.
    """

    def __init__(self, command: Sequence[str], many: int, device: str) -> None:
        self.command = [*command, "--workers", "1", "--shard", f"any/{EACH * many}", "--device", device, "--json"]
        self.many, self.device = many, device
        self.running: list[subprocess.Popen[bytes]] = []
        self.said: list[IO[bytes]] = []
        self.files = ExitStack()
        self.done = self.deaths = 0

    def __enter__(self) -> "Workers":
        self.before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the workers end, too
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGTERM, self.before)
        for worker in self.running:
            worker.terminate()
        for worker in self.running:
            worker.wait()
        self.files.close()

    def watch(self, finished: Path, look: Callable[[], int]) -> None:
        """Wait until this file exists. `look`, which returns the progress, is called repeatedly.

        Raises:
            Leaving: this process was asked to, and the workers have left.
            RunError: the message of a worker that gave up, or workers that die repeatedly.
        """
        while not finished.exists():
            if asked_to_leave():
                let_finish(self.running)
                leave_if_asked()
            if not self._keep_running() and not finished.exists():
                raise RunError(f"the workers ended, but {finished} is not there; the same command goes on")
            if (done := look()) > self.done:
                self.done, self.deaths = done, 0
            time.sleep(PAUSE)
        self.done = 0

    def _keep_running(self) -> bool:
        """Start workers that are not running; True if any is running."""
        if not self.running:
            said = (tempfile.TemporaryFile() for _ in range(self.many))  # noqa: SIM115 - closed with the workers
            self.said = [self.files.enter_context(file) for file in said]
            self.running = [self._started(number) for number in range(self.many)]
        for number, worker in enumerate(self.running):
            if worker.poll() == LATER:
                let_finish(self.running)
                leave_if_asked(True)
            if killed(worker, self.said[number]):
                self.deaths += 1
                check_deaths(self.deaths, self.many)
                self.running[number] = self._started(number)
        return any(worker.poll() is None for worker in self.running)

    def _started(self, number: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "ironclip", *self.command]
        environment = worker_environment(number, self.many, self.device)
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=self.said[number])


@dataclass
class Tally:
    """The results of the shards of an evaluation so far, read from their growing files.

    Args:
        images: that are scored there. callback: gets the "batch" events of `loops.evaluation.evaluate` for all shards together.
    """

    place: EvaluationFolder
    images: int
    callback: Callback
    done: int = 0
    right: int = 0
    robust: int = 0
    seen: dict[Path, int] = field(default_factory=dict)
    first: tuple[int, float] | None = None

    def look(self) -> int:
        """Images that are done; reads what is new, and tells it."""
        before = self.done
        for shard in shards(self.place):
            for sample in self._new(shard.path / "samples.jsonl"):
                self.done += 1
                self.right += sample["clean"] == sample["label"]
                self.robust += sample["broken_by"] is None
        if before < self.done <= self.images:
            now = time.monotonic()
            self.first = self.first or (self.done, now)
            fresh, seconds = self.done - self.first[0], now - self.first[1]
            eta = seconds / fresh * (self.images - self.done) if fresh else None
            shares = {"clean": self.right / self.done, "robust": self.robust / self.done}
            self.callback({"event": "batch", "done": self.done, "total": self.images, "seconds": seconds, "eta": eta, **shares})
        return self.done

    def _new(self, path: Path) -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.seen.get(path, 0))
            lines, end, _ = file.read().rpartition(b"\n")
        self.seen[path] = self.seen.get(path, 0) + len(lines) + len(end)
        for line in lines.splitlines():
            yield json.loads(line)
