"""Whose requests are let in, whatever address the service listens on; HEAD, readiness and the log."""

import logging
import threading
from dataclasses import replace

import pytest
from serve.conftest import png

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient

from ironclip.serve.app import create_app
from ironclip.serve.hosts import hosts_for, same_site
from ironclip.serve.limits import Limits
from ironclip.serve.logs import OneLine, Sparing
from ironclip.serve.model import DEFENDED

NEVER = (
    "", "evil.example", "[::1]evil", "[::1", "::1", "[::1]:80:80", "localhost:", "localhost:٨٠", "localhost:²",
    "localhost:123456", "localhost evil", "localhost,evil", "user@localhost", "localhost/evil",
    "localhost.evil.example", "evil-localhost", "ｌocalhost", "127.0.0.1.evil.example", "١٢٧.0.0.1", "[127.0.0.1]",
    "[::1%25lo]", "localhost\x00", "localhost#", "0x7f.1",
)  # fmt: skip
OWN = ("localhost", "LOCALHOST", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:65535")


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "", "192.168.1.1", "example.org"])
def test_only_names_of_the_service_are_answered_on_every_bind(bind: str) -> None:
    hosts = hosts_for(bind, ("Clip.Example",))
    assert [host for host in NEVER if hosts.admits(host)] == []
    assert [host for host in OWN if not hosts.admits(host)] == []
    assert hosts.admits("clip.example:443")


def test_a_public_service_answers_to_its_addresses_and_a_local_one_does_not() -> None:
    for bind in ("0.0.0.0", "::", "192.168.1.1"):
        assert all(map(hosts_for(bind).admits, ("10.1.2.3", "10.1.2.3:8000", "[fe80::1]:8000")))
    assert not any(map(hosts_for("127.0.0.1").admits, ("10.1.2.3", "[fe80::1]")))


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://LOCALHOST:8000", "localhost:8000", True),
        ("http://localhost", "localhost:80", True),
        ("https://localhost", "localhost:443", True),
        ("http://localhost:8001", "localhost:8000", False),
        ("http://evil.example", "localhost:8000", False),
        ("http://localhost:8000.evil.example", "localhost:8000", False),
        ("http://localhost:8000@evil.example", "localhost:8000", False),
        ("ftp://localhost:8000", "localhost:8000", False),
        ("localhost:8000", "localhost:8000", False),
        ("null", "localhost", False),
        ("", "localhost", False),
        ("http://", "", False),
    ],
)
def test_pages_of_other_sites(origin: str, host: str, same: bool) -> None:
    assert same_site(origin, host) is same


def client(model, **others) -> TestClient:
    return TestClient(create_app(model, Limits(), **others), base_url="http://127.0.0.1")


def test_the_rules_hold_for_requests_on_a_public_bind(model) -> None:
    with client(model, hosts=hosts_for("0.0.0.0")) as http:
        assert http.get("/model", headers={"Host": "evil.example"}).status_code == 400
        assert http.get("/model", headers={"Host": "[::1]evil"}).status_code == 400
        assert http.get("/model", headers={"Host": "LOCALHOST", "Origin": "http://localhost"}).status_code == 200
        assert http.get("/model", headers={"Host": "10.0.0.1", "Origin": "http://10.0.0.2"}).status_code == 403
        assert http.get("/model", headers=[("Host", "localhost"), ("Host", "127.0.0.1")]).status_code == 400


def test_a_body_with_two_lengths_is_refused(model) -> None:
    with client(model) as http:
        answer = http.post("/classify", content=b"x", headers={"Transfer-Encoding": "chunked", "Content-Length": "1"})
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/model", "/healthz", "/readyz", "/metrics", "/openapi.json", "/none", "/classify"]
)
def test_head_answers_as_get_without_a_body(model, path: str) -> None:
    with client(model) as http:
        head, get = http.head(path), http.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert {**head.headers, "content-length": 0} == {**get.headers, "content-length": 0}


def test_other_digits_are_no_numbers(model) -> None:
    with client(model) as http:
        for path in ("/attack?eps=٤/255", "/attack?steps=٣", "/classify?top=٣", "/attack?eps=４/255"):
            assert http.post(path, files={"images": png()}).status_code == 422, path


def test_the_service_is_alive_but_not_ready_while_its_queue_is_full(model) -> None:
    go = threading.Event()

    def slow(images):
        assert go.wait(20)
        return images.flatten(1)[:, :3]

    limits = Limits(max_queue=1, seconds=20)
    with TestClient(create_app(replace(model, functions={DEFENDED: slow}), limits), base_url="http://127.0.0.1") as http:
        assert http.get("/readyz").json() == {"status": "ready"}
        asking = threading.Thread(target=http.post, args=("/classify",), kwargs={"files": {"images": png()}})
        asking.start()
        while http.get("/readyz").status_code == 200:
            assert asking.is_alive()
        assert http.get("/readyz").headers["retry-after"] == "1"
        assert http.get("/healthz").status_code == 200
        go.set()
        asking.join(20)
        assert http.get("/readyz").status_code == 200


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "", 1, text, (), None)


def test_a_flood_of_events_is_a_few_lines_and_a_count() -> None:
    sparing = Sparing(most=3, seconds=60)
    assert sum(sparing.filter(record("same")) for _ in range(1000)) == 3
    sparing.seconds = 0
    last = record("after")
    assert sparing.filter(last)
    assert last.getMessage() == "after (997 events before it were left out)"


def test_what_a_client_sends_stays_on_one_line_of_the_log() -> None:
    line = OneLine("%(message)s").format(record("a\nb\r\x1b[31m\u202ec" + "x" * 5000))
    assert len(line) == 1000
    assert line.startswith("a b")
    assert line.isprintable()
