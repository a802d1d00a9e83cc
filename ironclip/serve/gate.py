"""The gate before every path: access checks, the headers of every answer, and counters."""

import hmac
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ironclip.serve.hosts import Hosts, same_site
from ironclip.serve.limits import Refusal
from ironclip.serve.metrics import Metrics

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'",
}
OPEN = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
"""Paths that ask for no token: they say nothing about the model."""


class RequestGate:
    """ASGI middleware.

    Args:
        token: asked for as `Authorization: Bearer TOKEN` by all paths but `OPEN`.
        hosts: names under which the service may be called, against web pages that reach for their visitor's own machine.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, token: str | None, hosts: Hosts) -> None:
        self.app, self.metrics, self.token, self.hosts = app, metrics, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, head = time.perf_counter(), 500, scope["method"] == "HEAD"
        if head:  # whoever answers GET answers HEAD, without the body
            scope = {**scope, "method": "GET"}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            problem = self._refuses(scope["path"], Headers(scope=scope))
            await (self.app if problem is None else refused(problem))(scope, receive, answer)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path=path, status=status).inc()
            if path == "/classify":
                self.metrics.seconds.observe(time.perf_counter() - begin)

    def _refuses(self, path: str, headers: Headers) -> Refusal | None:
        if "transfer-encoding" in headers and "content-length" in headers:  # two proxies may each believe another one
            return Refusal(400, "send Content-Length or Transfer-Encoding, not both", {"Connection": "close"})
        given_hosts = headers.getlist("host")
        host = given_hosts[0] if len(given_hosts) == 1 else ""
        if not self.hosts.admits(host):
            return Refusal(400, "unknown host name; call the service by its address, or start it with --allow-host NAME")
        if not all(same_site(origin, host) for origin in headers.getlist("origin")):
            return Refusal(403, "requests from pages of other sites are refused")
        given = headers.get("authorization", "").encode("latin-1", "replace")
        if self.token is not None and path not in OPEN and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            return Refusal(401, "this service asks for a token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return None


def refused(problem: Refusal) -> JSONResponse:
    """A refusal as an answer: {"error": one line}."""
    content: dict[str, Any] = {"error": problem.text}
    return JSONResponse(content, problem.status, problem.headers)
