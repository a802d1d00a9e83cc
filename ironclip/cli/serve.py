"""The verb that serves a trained run over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from ironclip.cli.common import Device, Trust, app, pick_device, took
from ironclip.cli.terminal import tell
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of


@app.command()
def serve(
    target: Annotated[Path, typer.Argument(help="A run's folder, or an exported model.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1: this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="IRONCLIP_TOKEN", show_envvar=True, help="Bearer token that every request must send.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen on a public address without a token.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further host name under which it may be called, as behind a proxy; repeatable.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Images that may wait; more are refused with 503.")] = 256,
    max_batch: Annotated[int, typer.Option(help="Images the model sees at once; 1: one by one.")] = 32,
    max_wait: Annotated[float, typer.Option(help="Milliseconds that an image waits so that others can join its batch.")] = 2.0,
    max_images: Annotated[int, typer.Option(help="Images in one request.")] = 64,
    max_bytes: Annotated[int, typer.Option(help="Bytes of one request.")] = 10_000_000,
    max_pixels: Annotated[int, typer.Option(help="Pixels of one image.")] = 25_000_000,
    seconds: Annotated[float, typer.Option(help="Seconds that one classification may take.")] = 30.0,
    attack_seconds: Annotated[float, typer.Option(help="Seconds that one attack may take.")] = 60.0,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Serve a trained run: classification over HTTP with batching, and a page that shows what an attack does."""
    where = pick_device(device)
    if token is not None and (not token.isascii() or not token.strip() or token != token.strip()):
        raise UsageError("--token is ASCII text without spaces around it")
    try:
        from ironclip.serve.hosts import is_loopback
        from ironclip.serve.limits import Limits
        from ironclip.serve.model import open_model
        from ironclip.serve.run import serve as run
    except ModuleNotFoundError as missing:
        raise UsageError(f"serving needs the extra `serve` ({missing.name} is missing); pip install 'ironclip[serve]'") from None
    limits = Limits(
        max_bytes=max_bytes, max_pixels=max_pixels, max_images=max_images, max_queue=max_queue, max_batch=max_batch,
        max_wait=max_wait / 1000, seconds=seconds, attack_seconds=attack_seconds,
    )  # fmt: skip
    if token is None and not insecure and not is_loopback(host):
        raise UsageError(f"{host!r} may be reached from the network: set --token (or IRONCLIP_TOKEN), or say --insecure")
    target = took(target)
    model = open_model(target, device=where, trust=trust)

    def ready(address: str) -> None:
        tell(f"serving {target} at {address} (page), {address}/docs (interface); Ctrl-C or SIGTERM ends it")

    accepted, answered = run(model, limits, host=host, port=port, token=token, ready=ready, allow=allow_host or ())
    tell(f"ended: {number_of(accepted, 'image')} accepted, {answered} answered")
