"""Nobody takes the service from others: turns, bodies, decoders, connections, clients that leave."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from PIL import Image
from serve.conftest import png

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from ironclip.serve.bodies import Bodies
from ironclip.serve.connections import guarded
from ironclip.serve.decoder import Upload
from ironclip.serve.decoding import Decoders
from ironclip.serve.limits import Busy, Limits, Refusal
from ironclip.serve.turns import Turns, address


def run(work):
    return asyncio.run(work)


def test_addresses_take_turns_whatever_the_length_of_their_lines() -> None:
    async def work() -> list[str]:
        turns, order = Turns("images", room=1, most=100), []

        async def one(client: str) -> None:
            with turns.enter(client) as place:
                await place.turn()
                order.append(client)
                await asyncio.sleep(0)

        await asyncio.gather(*[one("greedy") for _ in range(6)], one("a"), one("b"), one("a"))
        assert turns.total == turns.used == 0
        return order

    assert run(work())[:6] == ["greedy", "greedy", "a", "b", "greedy", "a"]


def test_a_newcomer_gets_a_place_from_the_address_that_has_most_and_nobody_else() -> None:
    async def work() -> None:
        turns = Turns("images", room=1, most=4)
        held = [turns.enter("greedy") for _ in range(4)]
        with pytest.raises(Busy, match="4 images wait and at most 4 may"):
            turns.enter("greedy")
        turns.check("other")
        other = turns.enter("other")
        with pytest.raises(Busy, match="taken by others"):
            await held[3].turn()
        await held[0].turn()
        assert not other.granted.done()
        second = turns.enter("third")
        with pytest.raises(Busy):
            turns.enter("other", 2)
        for place in (*held, other, second):
            place.leave()
            place.leave()
        assert turns.total == turns.used == 0

    run(work())


def test_what_is_in_use_is_never_taken_away_and_a_place_that_is_left_is_passed_on() -> None:
    async def work() -> None:
        turns = Turns("images", room=2, most=2)
        first = turns.enter("greedy", 2)
        with pytest.raises(Busy):
            turns.enter("other")
        first.leave()
        with turns.enter("other") as other:
            await other.turn()
        waiting = [turns.enter("a") for _ in range(2)]
        for place in waiting:
            await place.turn()

    run(work())


def test_an_address_is_one_ipv4_or_one_ipv6_network() -> None:
    assert address("10.0.0.1") == "10.0.0.1"
    assert address("2001:db8::1") == address("2001:db8::ffff") != address("2001:db8:0:1::1")
    assert address(None) == ""


class Sender:
    """A request whose body comes as the test says; a number is a pause."""

    def __init__(self, *parts: bytes | float) -> None:
        self.headers, self.parts = {}, parts

    async def stream(self):
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(part)


def test_a_body_must_keep_its_pace() -> None:
    limits = Limits(pace_bytes=100, pace_seconds=0.2)
    drops = Sender(*[b"x", 0.05] * 100)
    steady = Sender(*[b"x" * 60, 0.05] * 10)

    async def work() -> None:
        bodies = Bodies(limits)
        begin = time.monotonic()
        answers = await asyncio.gather(bodies.read(drops, "a"), bodies.read(steady, "a"), return_exceptions=True)
        assert isinstance(answers[0], Refusal)
        assert answers[0].status == 408
        assert len(answers[1]) == 600
        assert time.monotonic() - begin < 3

    run(work())


def test_short_memory_takes_the_unfinished_body_of_whom_holds_most() -> None:
    limits = Limits(max_bytes=1000, max_bodies=2, pace_seconds=30)

    async def work() -> None:
        bodies = Bodies(limits)
        stalled = [asyncio.ensure_future(bodies.read(Sender(b"x" * 900, 20), "greedy")) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert len(await bodies.read(Sender(b"y" * 500, b"y" * 400), "honest")) == 900
        with pytest.raises(Busy):
            await stalled[0]
        assert not stalled[1].done()
        stalled[1].cancel()
        with bodies.kept(1500), pytest.raises(Busy), bodies.kept(600):
            pass

    run(work())


def black(side: int) -> Upload:
    stream = io.BytesIO()
    Image.new("1", (side, side)).save(stream, format="PNG")
    return Upload("black", stream.getvalue())


def test_pixels_of_a_request_are_counted_before_any_is_decoded() -> None:
    async def work() -> None:
        decoders = Decoders(Limits(decode_seconds=120), 32)
        try:
            begin = time.monotonic()
            with pytest.raises(Refusal, match="1600 million pixels together are more than the limit of 50 million"):
                await decoders.images("a", [black(5000)] * 64)
            assert not decoders.large.idle, "no decoder for large requests was started"
            assert time.monotonic() - begin < 30
            small, large = await asyncio.gather(
                decoders.images("a", [Upload("a", png())] * 3), decoders.images("b", [black(2100), Upload("a", png())])
            )
            assert [image.shape for image in small] == [(3, 32, 32)] * 3
            assert large[0].max() == 0
            assert (large[1] == small[0]).all()
        finally:
            await decoders.close()

    run(work())


def test_a_decoder_that_takes_too_long_or_has_died_is_replaced() -> None:
    async def work() -> None:
        decoders = Decoders(Limits(), 32)
        lane, upload = decoders.small, Upload("a", png())
        await decoders.images("a", [upload])
        (process,) = lane.idle
        lane.limits = SimpleNamespace(**{**vars(Limits()), "decode_seconds": 1e-9})
        with pytest.raises(Refusal, match="to decode; send fewer"):
            await decoders.images("a", [upload])
        assert process.process.returncode == -9
        lane.limits = Limits()
        assert len(await decoders.images("a", [upload])) == 1
        (process,) = lane.idle
        process.process.kill()
        await process.process.wait()
        assert len(await decoders.images("a", [upload])) == 1
        await decoders.close()

    run(work())


SERVICE = """
import os
from ironclip.serve.limits import Limits
from ironclip.serve.model import Served
from ironclip.serve.run import serve

model = Served(("a", "b", "c"), 8, {"defended": lambda images: images.flatten(1)[:, :3]}, {})
say = lambda text: print(text, flush=True)
limits = Limits(pace_seconds=5, max_connections=20)
print("counts", *serve(model, limits, host="127.0.0.1", port=0, token=None, ready=say), flush=True)
"""
BODY = b'--b7\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + png() + b"\r\n--b7--\r\n"
HEAD = b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b7\r\n"


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        return b"".join(iter(lambda: link.recv(65536), b""))


@pytest.fixture(scope="module")
def port():
    process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        assert b" 200 " in ask(port)[:20]
        yield port
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
        process.kill()
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 25


@pytest.mark.slow
@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: lo", HEAD + b"Content-Length: 5000\r\n\r\n--b7"])
def test_half_open_connections_end_and_never_keep_others_out(port: int, begin: bytes) -> None:
    links = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(60)]
    for link in links:
        try:
            link.sendall(begin)
        except OSError:
            continue
    assert b" 200 " in ask(port)[:20]
    for link in links:
        try:
            while link.recv(65536):
                pass
        except ConnectionError:
            continue
        finally:
            link.close()
    assert b" 200 " in ask(port)[:20]


@pytest.mark.slow
def test_bytes_that_are_no_http_flood_neither_the_service_nor_its_log(port: int) -> None:
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
            link.sendall(b"\x00\xff\r\n\r\n")
            assert b" 400 " in link.recv(65536)[:20]
    both = HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(both)
        assert b" 400 " in link.recv(65536)[:20]
    assert b" 200 " in ask(port)[:20]


@pytest.mark.parametrize(("first", "expected"), [(False, b"HTTP/1.1 400 "), (True, b"HTTP/1.1 200 ")])
def test_a_body_that_is_no_http_ends_its_request_and_nothing_is_logged_as_a_fault(
    first: bool, expected: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that comes at once, before the body is read: after uvicorn's own 400, or with its begin before that."""
    import uvicorn

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while first and (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def asked() -> bytes:
        config = uvicorn.Config(app, port=0, http=guarded(Limits()), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname()[:2])
        head, body = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"no chunk\r\n"
        for part in (head, body) if first else (head + body,):
            writer.write(part)
            await asyncio.sleep(0.1)
        answer = await reader.read()
        writer.close()
        server.should_exit = True
        await task
        return answer

    assert asyncio.run(asked()).startswith(expected)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_client_that_left_is_not_worked_for(model) -> None:
    from dataclasses import replace

    from fastapi.testclient import TestClient

    from ironclip.serve.app import create_app
    from ironclip.serve.model import DEFENDED

    go = threading.Event()
    app = create_app(replace(model, functions={DEFENDED: lambda images: go.wait(20) and images.flatten(1)[:, :3]}), Limits())
    sent = [{"type": "http.request", "body": BODY}, {"type": "http.disconnect"}]
    said: list[dict] = []

    async def receive() -> dict:
        return sent.pop(0) if sent else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/classify",
        "raw_path": b"/classify",
        "query_string": b"",
        "root_path": "",
    }
    scope |= {
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b7")],
        "client": ("1.1.1.1", 1),
    }
    scope |= {"scheme": "http", "server": ("127.0.0.1", 80), "http_version": "1.1"}

    with TestClient(app, base_url="http://127.0.0.1") as http:
        http.portal.call(app, scope, receive, send)
        assert said[0]["status"] == 400
        assert "closed before" in json.loads(said[1]["body"])["error"]
        assert app.state.service.queue.total == 0
        go.set()
