"""Requests per second of the service on loopback: dynamic batching against one by one, and ten times more than it may take.

`python -m benchmarks.serve_load [--rounds R] [--requests N] [--connections C] [--threads T] [--device D] [--json]`. One process
serves `mini` zero-shot on the classes of `shapes`; this process asks it over keep-alive connections, a bounded number of times,
one image per request. The answers are compared before a ratio is given. Wall time, because a service is about waiting; the CPU
time of the service stands beside it. Rounds alternate the two; the median of their ratios comes last.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from typing import Any


def service(max_batch: int, max_queue: int, threads: int, device: str, pipe: Any) -> None:
    """A service in a process of its own; sends its address, and at the end what it accepted, answered and used at most."""
    import torch

    from ironclip.backbones import assemble, load
    from ironclip.data import open_dataset
    from ironclip.serve.limits import Limits
    from ironclip.serve.model import DEFENDED, Served
    from ironclip.serve.run import serve

    if threads:
        torch.set_num_threads(threads)
    classes = open_dataset("shapes").classes
    with torch.no_grad():
        classifier = assemble(load("mini", device=device), classes).eval().requires_grad_(False)
        classifier(torch.rand(32, 3, 64, 64, device=device))
    model = Served(classes, 64, {DEFENDED: classifier}, {}, device)
    limits = Limits(max_batch=max_batch, max_queue=max_queue, max_wait=0.002)
    start = resource.getrusage(resource.RUSAGE_SELF)
    counts = serve(model, limits, host="127.0.0.1", port=0, token=None, ready=pipe.send)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - start.ru_utime - start.ru_stime
    pipe.send([*counts, cpu, (used.ru_maxrss - start.ru_maxrss) / 1024])


def request(picture: bytes) -> bytes:
    mark = b"loadloadload"
    body = b"--" + mark + b'\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + picture
    body += b"\r\n--" + mark + b"--\r\n"
    head = f"POST /classify?top=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={mark.decode()}\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(port: int, requests: list[bytes], total: int, connections: int) -> tuple[float, dict[int, tuple[int, bytes]]]:
    """(seconds, number of the request -> (status, body)) of `total` requests over so many connections."""
    answers: dict[int, tuple[int, bytes]] = {}
    todo = iter(range(total))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in todo:
            writer.write(requests[number % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
            answers[number] = (int(head[9:12]), await reader.readexactly(length))
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*[one() for _ in range(connections)])
    return time.perf_counter() - begin, answers


def measure(
    max_batch: int, max_queue: int, total: int, connections: int, requests: list[bytes], where: tuple[int, str]
) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=service, args=(max_batch, max_queue, *where, theirs))
    process.start()
    port = int(ours.recv().rsplit(":", 1)[1])
    try:
        asyncio.run(ask(port, requests, 16, 4))  # warm-up
        seconds, answers = asyncio.run(ask(port, requests, total, connections))
    finally:
        os.kill(process.pid or 0, signal.SIGTERM)
        accepted, answered, cpu, grown = ours.recv()
        process.join()
    good = {number: body for number, (status, body) in answers.items() if status == 200}
    row = {"batch": max_batch, "requests": total, "connections": connections, "seconds": seconds, "good": len(good)}
    row |= {"refused": len(answers) - len(good), "per_second": len(good) / seconds, "accepted": accepted, "answered": answered}
    return row | {"server_cpu": cpu, "grown_mib": grown, "bodies": good, "clean_exit": process.exitcode == 0}


def pictures() -> list[bytes]:
    """The requests of a load test: one PNG of `shapes` in each."""
    import io

    from ironclip.data import decode, open_dataset

    requests = []
    for item in open_dataset("shapes").items("test")[:16]:
        stream = io.BytesIO()
        decode(item.source).save(stream, format="PNG")
        requests.append(request(stream.getvalue()))
    return requests


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="of the model; default: torch's own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    requests = pictures()
    where = (options.threads, options.device)
    rows: list[tuple[str, dict[str, Any]]] = []
    ratios = []
    for _ in range(options.rounds):
        alone = measure(1, 256, options.requests, options.connections, requests, where)
        together = measure(32, 256, options.requests, options.connections, requests, where)
        if problem := unequal(alone.pop("bodies"), together.pop("bodies")):
            print(f"not equal, so not timed: {problem}", file=sys.stderr)
            return 1
        rows += [("one by one", alone), ("batched", together)]
        ratios.append(together["per_second"] / alone["per_second"])
    crowd = measure(32, 8, 10 * options.requests, 80, requests, where)  # ten times as many at once as may be under way
    crowd.pop("bodies")
    rows.append(("batched, overloaded", crowd))
    if options.json:
        print(json.dumps({"rows": rows, "ratios": ratios, "median": statistics.median(ratios)}, indent=1))
        return 0
    for name, row in rows:
        asked = f"{row['good']} answered, {row['refused']} refused of {row['requests']} over {row['connections']} connections"
        kept = f"accepted {row['accepted']}, answered {row['answered']}; memory +{row['grown_mib']:.0f} MiB"
        cpu = 1e3 * row["server_cpu"] / row["requests"]
        print(f"{name}: {row['per_second']:.0f} answers/s, {cpu:.1f} ms CPU per request; {asked}; {kept}")
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"batched / one by one: {statistics.median(ratios):.2f} (median of {each})")
    return 0


def unequal(alone: dict[int, bytes], together: dict[int, bytes]) -> str:
    """The first request to which the two gave different answers, or one of them none; empty where there is none."""
    if alone.keys() != together.keys():
        return f"{len(alone)} and {len(together)} answers"
    for number, body in alone.items():
        one, other = (json.loads(text)["results"][0]["predictions"][0] for text in (body, together[number]))
        if one["class"] != other["class"] or abs(one["probability"] - other["probability"]) > 1e-4:
            return f"{one} and {other}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
