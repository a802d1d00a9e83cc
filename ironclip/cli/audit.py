"""The verb audit: how robust a classifier is, and whether the number can be trusted."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import (
    Activation,
    Base,
    BatchSize,
    Classes,
    Device,
    Json,
    Layout,
    Limit,
    Norm,
    Progress,
    ShardOption,
    Weights,
    WorkersOption,
    app,
    emit,
    images_at_once,
    pick_device,
    print_left,
    print_notes,
    repeated,
    shared_out,
    took,
)  # fmt: skip
from ironclip.cli.terminal import say, show_table, table
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of
from ironclip.core.threat import format_eps, parse_radii, read_norm

RADII = "1/255,2/255,4/255,8/255"


@app.command()
def audit(
    target: Annotated[
        str,
        typer.Argument(help="A run's folder, a backbone, or module:function: class names -> classifier."),
    ],
    data: Annotated[str | None, typer.Option("--data", help="The data set; a run knows its own.")] = None,
    classes: Classes = None,
    layout: Layout = "auto",
    weights: Weights = None,
    base: Base = None,
    activation: Activation = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help=f"Radii, separated by commas; default: {RADII} for linf, none for l2.")
    ] = None,
    norm: Norm = "linf",
    require: Annotated[
        list[str] | None, typer.Option("--require", help="'robust>=0.4@4/255' or 'clean>=0.8'; exit status 1 if not met.")
    ] = None,
    limit: Limit = None,
    attack: Annotated[
        str,
        typer.Option(
            "--attack", help="Attacks, separated by commas; default: pgd,autoattack, or square where there are no gradients."
        ),
    ] = "",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Options of the attacks, e.g. steps=100, restarts=5.")
    ] = None,
    diagnostics: Annotated[int, typer.Option(help="Images the diagnostics take; 0: none.")] = 256,
    steps: Annotated[int, typer.Option(help="Steps of PGD in the diagnostics.")] = 100,
    transfer: Annotated[str, typer.Option(help="Backbones to make transfer images on, separated by commas.")] = "",
    resolution: Annotated[
        int, typer.Option(help="Image size (pixels per side) for a module:function that does not say it.")
    ] = 224,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    batch_size: BatchSize = "auto",
    html: Annotated[Path | None, typer.Option("--html", help="Write a one-file page.")] = None,
    robustbench: Annotated[Path | None, typer.Option("--robustbench", help="Write RobustBench's model-info JSON.")] = None,
    out_folder: Annotated[Path | None, typer.Option("--out", help="The audit's folder; default: a name in audits/.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the attacks' randomness.")] = 0,
    shard: ShardOption = None,
    workers: WorkersOption = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure robust accuracy over several radii, and run diagnostics that say whether it can be trusted."""
    from ironclip.audit.results import Requirement

    if limit is not None and limit < 1:
        raise UsageError(f"--limit is a number of images, at least 1; got {limit}")
    for option, value, least in (("--diagnostics", diagnostics, 0), ("--steps", steps, 1)):
        if value < least:
            raise UsageError(f"{option} is a whole number of at least {least}; got {value}")
    at_once = images_at_once(batch_size)
    share = shared_out(shard, workers)
    radii = sorted(set(parse_radii(eps, norm, RADII)))
    requirements = [Requirement.parse(text, read_norm(norm)).among(tuple(radii)) for text in require or []]
    from ironclip.protocols import repeat
    from ironclip.protocols.audit import audit as run_audit
    from ironclip.protocols.audit_target import open_target
    from ironclip.protocols.frozen import given
    from ironclip.protocols.shards import audit_shards, watch_audit
    from ironclip.protocols.workers import Workers

    where = pick_device(device)
    typed, target = target, took(target, quiet=as_json)
    frozen = given(weights=weights, base=base, activation=activation)
    opened = open_target(
        target, data, device=where, resolution=resolution, transfer=_names(transfer), classes=classes, layout=layout,
        frozen=frozen,
    )  # fmt: skip
    print_notes(opened.dataset.notes, quiet=as_json)
    shown: dict[str, Progress] = {}

    def heard(what: str, event: dict[str, Any]) -> None:
        line = shown.setdefault(what, Progress(f"audit {what}", quiet=as_json))
        line.count(event["done"], event["total"]) if event["event"] == "check" else line(event)

    options: dict[str, Any] = {"norm": read_norm(norm), "names": _names(attack), "changes": changes or [], "limit": limit}
    options |= {"split": split, "seed": seed, "device": where, "out": out_folder, "batch_size": at_once, "progress": heard}
    options["command"] = repeat.audit_command(
        target, data, radii, norm=norm, changes=changes or [], limit=limit, attack=attack, split=split, seed=seed,
        transfer=transfer, resolution=resolution, diagnostics=diagnostics, steps=steps, batch_size=at_once,
        classes=classes, layout=layout, **frozen,
    )  # fmt: skip
    if share is not None:
        run, left = audit_shards(opened, radii, share, **options)
        if as_json:
            emit({"folder": str(run.path), "unfinished": [str(each) for each in left]})
        elif left:
            print_left(left, run.path)
        else:
            say(f"all shards are merged; the same command without --shard makes the diagnostics and the report: {run.path}")
        return
    if workers > 1:
        with Workers(repeated(typed, target), workers, where) as pool:
            watch_audit(pool, opened, radii, **options)
    report, curve, run = run_audit(opened, radii, requirements=requirements, diagnostics=diagnostics, steps=steps, **options)
    if html is not None or robustbench is not None:
        _write(report, curve, html, robustbench)
    if as_json:
        emit(report.model_dump(mode="json"))
    else:
        _print(report, run.path, html)
    if not all(met.met for met in report.requirements):
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _write(report: Any, curve: Any, html: Path | None, robustbench: Path | None) -> None:
    from ironclip.audit.export import robustbench_info
    from ironclip.core.files import write_json, write_text
    from ironclip.report.audit_page import audit_page
    from ironclip.report.views import panels

    if html is not None:
        shown = [(eps, panels([example], report.record.data.classes)[0]) for eps, example in curve.examples]
        write_text(html, audit_page(report, shown))
    if robustbench is not None:
        write_json(robustbench, robustbench_info(report))


def _print(report: Any, folder: Path, html: Path | None) -> None:
    data, norm = report.record.data, report.record.threat.norm
    say(f"audit of {report.target} on {data.name}, {number_of(report.record.images, 'image')}")
    rows = [["0 (clean)", str(report.clean), "", ""]]
    for radius in report.radii:
        broke = ", ".join(f"{attack.name} {attack.broken} of {attack.attacked}" for attack in radius.attacks)
        carried = f"; {radius.carried} broken at a smaller radius" if radius.carried else ""
        rows.append([format_eps(radius.eps, norm), f"{radius.bound}{radius.robust}", broke + carried, f"{radius.seconds:.0f} s"])
    show_table(table("", [f"{norm} eps", "robust, worst case", "broken by", "cost"], rows))
    for line in (*report.remarks, *(f"{flag.level}: {flag.text}" for flag in report.flags)):
        say(line)
    if report.verdicts:
        title = f"diagnostics on {number_of(report.diagnosed, 'image')} at {norm} {format_eps(report.diagnostic_eps, norm)}"
        cells = [[v.id, v.level, v.title, "" if v.value is None else f"{v.value:.4g}", v.text] for v in report.verdicts]
        show_table(table(title, ["", "verdict", "check", "value", "what it means"], cells))
    if report.draws > 1:
        say(f"the classifier is random: every attack step averages {report.draws} draws")
    if report.surrogates:
        say(f"{number_of(report.surrogates, 'surrogate')} of the target attacked too")
    for met in report.requirements:
        say(f"requirement {met}")
    say(f"folder: {folder}", *([f"page: {html}"] if html else []))
