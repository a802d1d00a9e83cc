"""The verb `doctor`: what is installed on which machine, and whether a device computes what a CPU computes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Device, Json, Progress, app, emit, pick_device
from ironclip.cli.terminal import say
from ironclip.core.errors import UsageError


@app.command()
def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Compare the device with the CPU and measure its speed; under ten minutes.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --gpu: tiny models, in a minute; the speeds mean nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="With --gpu: the JSON file; default: device-check.json.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Versions, devices, optional packages, caches, data sets and backbones found here, and whether runs can be written."""
    if gpu:
        _check(pick_device(device), quick, out or Path("device-check.json"), as_json)
        return
    if quick or out is not None:
        raise UsageError("--quick and --out go with `doctor --gpu`")
    from ironclip.protocols.machine import facts

    found = facts()
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        if isinstance(value, dict):
            width = max(map(len, value), default=0)
            say(f"{name}:", *(f"  {key:<{width}}  {each}" for key, each in value.items()))
        elif isinstance(value, list) and len(value) > 1:
            say(f"{name}:", *(f"  {each}" for each in value))
        elif isinstance(value, list):
            say(f"{name}: {''.join(value) or 'none'}")
        else:
            say(f"{name}: {('no', 'yes')[value] if isinstance(value, bool) else value}")


def _check(device: str, quick: bool, out: Path, as_json: bool) -> None:
    from ironclip.core.files import disk_errors, write_json, write_text
    from ironclip.protocols.device_check import check_device
    from ironclip.report.device_page import device_page

    shown = Progress("doctor", quiet=as_json)
    report: dict[str, Any] = check_device(
        device, quick=quick, progress=lambda name, done, total: shown.say(f"{done}/{total} {name}", False)
    )
    page = out.with_suffix(".html")
    with disk_errors(out):
        write_json(out, report)
        write_text(page, device_page(report))
    if as_json:
        emit(report)
    else:
        for check in report["checks"]:
            say(f"{'good' if check['ok'] else 'NOT GOOD'}  {check['name']}: {check['text']}")
        for row in report["speeds"]:
            say(f"{row['what']}, {row['precision']}: {row['text']}")
        say(
            f"{report['good']} of {len(report['checks'])} checks are good, in {report['seconds']:.0f} s",
            f"page: {page}",
            f"json: {out}",
        )
    if report["good"] < len(report["checks"]):
        raise typer.Exit(1)
