"""Thousands of odd requests to one service: no fault of the service, no request without an answer, memory that stays flat."""

import multiprocessing
import os
import random
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serve_load import pictures, service

PATHS = (
    "/classify", "/classify?top=1", "/classify?top=-1", "/classify?top=99999999999999999999", "/classify?top=a&top=b", "/", "*",
    "/healthz", "/readyz", "/metrics", "/model", "/docs", "/openapi.json", "/..%2f..%2fetc/passwd", "/%00", "/" + "x" * 3000,
    "//evil.example/", "/classify?" + "a=b&" * 500, "/attack", "/\u00ff", "http://evil.example/",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "PATCH", "G\u00c9T", "")
HEADERS = (
    "Host: evil.example", "Host: 127.0.0.1", "Host:", "Content-Length: -1", "Content-Length: 99999999999",
    "Content-Length: 5\r\nContent-Length: 6", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip",
    "Content-Type: application/json", "Content-Type: multipart/form-data", "Authorization: Bearer x", "Origin: https://evil.example",
    "Content-Type: multipart/form-data; boundary=" + "x" * 200,
    "Expect: 100-continue", "Upgrade: websocket\r\nConnection: Upgrade",
    "Connection: close", "X: " + "y" * 9000, "Cookie: \x01\x02", "Range: bytes=0-1", "Accept-Encoding: gzip;q=0",
    "Forwarded: for=1.1.1.1", "X-Forwarded-For: 1.1.1.1", "No colon here", " folded: x",
)  # fmt: skip


def odd(whole: bytes, draw: random.Random) -> bytes:
    """A sound request with up to three changes: other lines, other headers, flipped, cut or doubled bytes."""
    head, _, body = whole.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    for _ in range(draw.choice((1, 1, 2, 3))):
        kind = draw.randrange(7)
        if kind == 0:
            line = f"{draw.choice(METHODS)} {draw.choice(PATHS)} HTTP/1.1".encode()
        elif kind == 1:
            headers.insert(draw.randrange(len(headers) + 1), draw.choice(HEADERS).encode("latin-1"))
        elif kind == 2 and headers:
            headers.pop(draw.randrange(len(headers)))
        elif kind == 3:
            line = b" ".join([*line.split(b" ")[:2], draw.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"\x00"))])
        elif kind == 4 and body:
            place = draw.randrange(len(body))
            body = body[:place] + draw.randbytes(draw.choice((1, 8, 100))) + body[place + draw.choice((0, 1, 100)) :]
        elif kind == 5 and body:
            body = body[: draw.randrange(len(body))]
        else:
            place = draw.randrange(len(line))
            line = line[:place] + draw.randbytes(1) + line[place + 1 :]
    return b"\r\n".join([line, *headers]) + b"\r\n\r\n" + body


def answer(port: int, data: bytes, seconds: float = 3) -> str:
    """The status of the answer, "closed" where the service closed the connection, "waits" where it waits for more."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        try:
            link.sendall(data)
            link.settimeout(seconds)
            seen = link.recv(65536)
        except ConnectionError:
            return "closed"
        except TimeoutError:
            return "waits"
    return seen[9:12].decode("latin-1") if seen.startswith(b"HTTP/1.1 ") else "closed"


def resident(pid: int) -> float:
    """MiB of a process in memory, and of the processes that it started."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(part for line in status.read_text().splitlines() if len(part := line.split(":", 1)) == 2)
        except OSError:
            continue
        if pid in (int(facts["Pid"]), int(facts["PPid"])):
            total += int(facts.get("VmRSS", "0 kB").split()[0])
    return total / 1024


def _logged(path: Path, *given: Any) -> None:
    """The service of the load test, with its log in a file."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
    service(*given)


def drill(count: int, log: Path, seed: int = 0) -> tuple[Counter[str], float, list[str]]:
    """(answers by status, MiB that the service grew by, what went wrong).

    Before that each sound request is asked once, one of them as an attack: what is loaded then stays, some 70 MiB.
    """
    draw, sound, seen, wrong = random.Random(seed), pictures(), Counter[str](), list[str]()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_logged, args=(log, 32, 64, 1, "cpu", theirs))
    server.start()
    try:
        port = int(ours.recv().rsplit(":", 1)[1])
        with ThreadPoolExecutor(16) as pool:
            warm = [*sound, sound[0].replace(b"/classify?top=1", b"/attack", 1)]
            assert set(pool.map(partial(answer, port, seconds=60), warm)) == {"200"}
            begin = resident(server.pid or 0)
            asked = [odd(draw.choice(sound), draw) for _ in range(count)]
            for data, status in zip(asked, pool.map(partial(answer, port), asked)):
                seen[status] += 1
                if status.startswith("5") and status != "503":
                    wrong.append(f"{status}: {data[:80]!r}")
        if answer(port, sound[0], 60) != "200":
            wrong.append("afterwards a sound request is not answered")
        grown = resident(server.pid or 0) - begin
    finally:
        os.kill(server.pid or 0, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while server.is_alive() and time.monotonic() < deadline:
            server.join(1)
        if server.is_alive():
            server.kill()
            wrong.append("the service did not end in order")
    wrong += ["its log holds a traceback"] if "Traceback" in log.read_text(errors="replace") else []
    if server.exitcode:
        wrong.append(f"the service ended with {server.exitcode}")
    return seen, grown, wrong
