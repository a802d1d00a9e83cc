"""The service as a process: uvicorn on one port; on a signal to stop it finishes the accepted requests."""

import os
import signal
import socket
from collections.abc import Callable, Sequence

import uvicorn

from ironclip.core.errors import UsageError
from ironclip.serve.app import create_app
from ironclip.serve.connections import guarded
from ironclip.serve.hosts import hosts_for
from ironclip.serve.limits import Limits
from ironclip.serve.logs import sparing_log
from ironclip.serve.model import Served


def serve(
    model: Served,
    limits: Limits,
    *,
    host: str,
    port: int,
    token: str | None,
    ready: Callable[[str], None],
    allow: Sequence[str] = (),
) -> tuple[int, int]:
    """(images accepted, images answered) after SIGINT or SIGTERM; `ready` is called with the address.

    Args:
        allow: further host names under which it may be called.

    Raises:
        UsageError: the port cannot be had.
    """
    app = create_app(model, limits, token=token, hosts=hosts_for(host, allow))
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256)
    except (OSError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; take another --port or --host") from None
    settings = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=round(limits.seconds + limits.attack_seconds) + 1, h11_max_incomplete_event_size=32_768,
        http=guarded(limits), ws="none", limit_concurrency=limits.max_connections + 2,
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    ready(f"http://{name}:{bound.getsockname()[1]}")
    # uvicorn raises a signal again after it went down in order; the accounts below are still to be given.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with sparing_log():
            uvicorn.Server(settings).run(sockets=[bound])
    finally:
        bound.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    metrics = app.state.service.metrics
    return metrics.value("ironclip_accepted_images_total"), metrics.value("ironclip_answered_images_total")
