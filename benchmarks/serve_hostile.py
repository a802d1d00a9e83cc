"""Answers per second that honest clients of the service get while others try to take it from them.

`python -m benchmarks.serve_hostile [--seconds S] [--connections C] [--json]`. One process serves `mini` zero-shot; honest
clients ask for one small image at a time over keep-alive connections, first alone, then beside each attack, then alone
again. Everything stays on loopback and comes from one address, so that fairness between addresses cannot help. Attackers
run at the lowest priority: in earnest they have machines of their own. The aim: at least half of the undisturbed answers
per second.
"""

import argparse
import asyncio
import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.serve_load import pictures, request, service

Attack = Callable[[int], Awaitable[None]]
MARK = b"loadloadload"


def black(count: int) -> bytes:
    """A request with so many black images of 5000 x 5000 pixels; 64 of them have some 200 kB."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("1", (5000, 5000)).save(stream, format="PNG")
    whole = request(stream.getvalue())
    head, _, body = whole.partition(b"\r\n\r\n")
    part = body.removesuffix(b"--" + MARK + b"--\r\n")
    body = part * count + b"--" + MARK + b"--\r\n"
    return head.partition(b"Content-Length")[0] + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def repeat(port: int, data: bytes, *, wait: float) -> None:
    """Send a request, read on for a while, leave, begin anew."""
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await reader.read(65536)
            writer.close()
        await asyncio.sleep(0.01)


async def crowd(port: int, connections: int, data: bytes, *, wait: float) -> None:
    await asyncio.gather(*[repeat(port, data, wait=wait) for _ in range(connections)])


FORM = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n\r\n"
DRIP = b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\n" + FORM + b"-"
ATTACKS: dict[str, Attack] = {
    "4 x 64 black images of 25 megapixels": lambda port: crowd(port, 4, black(64), wait=60),
    "4 x 2 such images, within the limits": lambda port: crowd(port, 4, black(2), wait=60),
    "the same, leaving after 50 ms": lambda port: crowd(port, 4, black(2), wait=0.05),
    "64 bodies that stop after one byte": lambda port: crowd(port, 64, DRIP, wait=60),
    "1200 half-open connections": lambda port: crowd(port, 1200, b"GET / HTTP/1.1\r\nHost: ", wait=60),
}


def attacker(name: str, port: int) -> None:
    os.nice(19)
    asyncio.run(ATTACKS[name](port))  # type: ignore[arg-type]


async def honest(port: int, requests: list[bytes], seconds: float, connections: int) -> tuple[float, int]:
    """(answers per second, requests without one) over so many connections, which are opened again where they are lost."""
    good, bad, end = 0, 0, time.monotonic() + seconds

    async def one(number: int) -> None:
        nonlocal good, bad
        writer = None
        while time.monotonic() < end:
            number += 1
            try:
                async with asyncio.timeout(30):
                    if writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(requests[number % len(requests)])
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                    await reader.readexactly(int(length.split(b":")[1]))
                    good, bad = good + (head[9:12] == b"200"), bad + (head[9:12] != b"200")
            except (OSError, EOFError, TimeoutError):
                writer, bad = None, bad + 1

    begin = time.monotonic()
    await asyncio.gather(*[one(number) for number in range(connections)])
    return good / (time.monotonic() - begin), bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--connections", type=int, default=8, help="of honest clients")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    requests = pictures()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=service, args=(32, 256, 0, "cpu", theirs))
    server.start()
    port = int(ours.recv().rsplit(":", 1)[1])
    ask = [port, requests, options.seconds, options.connections]
    asyncio.run(honest(port, requests, 3, options.connections))  # warm-up
    rows = []
    for name in ATTACKS:
        before, _ = asyncio.run(honest(*ask))  # type: ignore[arg-type]
        foe = context.Process(target=attacker, args=(name, port), daemon=True)
        foe.start()
        time.sleep(3)
        during, bad = asyncio.run(honest(*ask))  # type: ignore[arg-type]
        foe.kill()
        foe.join()
        rows.append({"attack": name, "before": before, "during": during, "ratio": during / before, "unanswered": bad})
        if not options.json:
            print(f"{name}: {before:.0f} -> {during:.0f} answers/s, ratio {during / before:.2f}; {bad} unanswered", flush=True)
    os.kill(server.pid or 0, signal.SIGTERM)
    accepted, answered, _, grown = ours.recv()
    server.join()
    if options.json:
        print(json.dumps({"rows": rows, "accepted": accepted, "answered": answered, "grown_mib": grown}, indent=1))
    else:
        print(f"accepted {accepted}, answered {answered}; peak memory of the service +{grown:.0f} MiB; exit {server.exitcode}")
    return 0 if all(row["ratio"] >= 0.5 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
