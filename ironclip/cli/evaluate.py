"""The verb `evaluate`: clean and robust accuracy of a run, a stack or a backbone."""

from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.attacks import default
from ironclip.cli.common import (
    Activation,
    Base,
    BatchSize,
    Classes,
    Device,
    Eps,
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
    print_record,
    repeated,
    shared_out,
    took,
)
from ironclip.cli.tasks import run_task
from ironclip.cli.terminal import say, show_table, table, tell
from ironclip.core.errors import UsageError
from ironclip.core.threat import KNOWLEDGE, parse_radii, read_norm
from ironclip.records.bounds import mark
from ironclip.records.looks import sizes

Attacks = Annotated[
    str | None,
    typer.Option(
        "--attack",
        help="Attacks, separated by commas; robust means right under all of them. Default: standard-fast, and adaptive for a "
        "test-time method under --knowledge adaptive.",
    ),
]


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(help="A run's folder, runs/last, or a backbone (zero-shot, needs --data).")],
    attack: Attacks = None,
    eps: Eps = None,
    norm: Norm = "linf",
    data: Annotated[str | None, typer.Option("--data", help="For a run: other data than it was trained on.")] = None,
    classes_file: Classes = None,
    layout: Layout = "auto",
    weights: Weights = None,
    base: Base = None,
    activation: Activation = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Several data sets: tecoa, clean, coop, cross, fine-grained or shift; with --data that one alone.",
        ),
    ] = None,
    subset: Annotated[
        str | None, typer.Option("--subset", help="Which classes of the data: all, base or new; default: as trained.")
    ] = None,
    limit: Limit = None,
    knowledge: Annotated[
        str | None,
        typer.Option(
            help="white-box (default), adaptive, static (attacked without the defence), transfer (with --source), black-box; "
            "test-time methods: static and adaptive."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="For transfer: the backbone or the run on which the images are made.")
    ] = None,
    test_time: Annotated[
        str | None, typer.Option("--test-time", help="A test-time method on top of the run, such as rtpt; nothing is retrained.")
    ] = None,
    distortion: Annotated[
        bool, typer.Option("--distortion", help="Also measure how far each attack moves the features.")
    ] = False,
    targeted: Annotated[
        str | None,
        typer.Option("--targeted", help="Also measure how often attacks reach a chosen class: next, random or least-likely."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            "--until",
            help="Stop once the 95 % interval of robust accuracy is narrower than ± this many percentage points, e.g. 3.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    batch_size: BatchSize = "auto",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Options of the attacks or of --test-time, e.g. steps=100, rtpt.views=32.")
    ] = None,
    task: Annotated[
        str,
        typer.Option("--task", help="classification; retrieval: recall of captions; corruptions: accuracy on worse images."),
    ] = "classification",
    seed: Annotated[int, typer.Option(help="Seed of the attacks' randomness.")] = 0,
    shard: ShardOption = None,
    workers: WorkersOption = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure clean and robust accuracy with intervals; robust means right under every attack, per image."""
    if task in ("retrieval", "corruptions"):
        others: dict[str, Any] = {
            "--attack": attack,
            "--norm": norm != "linf" and norm,
            "--classes": classes_file,
            "--suite": suite,
        }
        others |= {"--subset": subset, "--knowledge": knowledge, "--source": source, "--test-time": test_time, "--until": until}
        others |= {"--distortion": distortion, "--targeted": targeted, "--shard": shard, "--workers": workers > 1}
        others |= {"--weights": weights, "--base": base, "--activation": activation, "--layout": layout != "auto"}
        run_task(
            task, took(target, quiet=as_json), data, eps=eps, limit=limit, split=split, changes=changes or [], seed=seed,
            device=pick_device(device), as_json=as_json, refused=others,
        )  # fmt: skip
        return
    if task != "classification":
        raise UsageError(f"--task is classification, retrieval or corruptions; got {task!r}")
    if knowledge not in (None, *KNOWLEDGE):
        raise UsageError(f"--knowledge is {', '.join(KNOWLEDGE[:-1])} or {KNOWLEDGE[-1]}; got {knowledge!r}")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is a number of images, at least 1; got {limit}")
    if subset not in (None, "all", "base", "new"):
        raise UsageError(f"--subset is all, base or new; got {subset!r}")
    at_once = images_at_once(batch_size)
    whole = [name for name, given in (("--distortion", distortion), ("--targeted", targeted)) if given]
    share = shared_out(shard, workers, *whole)
    if until is not None:
        if other := [*whole, *(["--shard"] if share else []), *(["--workers"] if workers > 1 else [])]:
            raise UsageError(f"--until looks at more and more images; it does not go with {' or '.join(other)}")
        sizes(1, until)
    radii = parse_radii(eps, norm)
    from ironclip.protocols import repeat
    from ironclip.protocols.anytime import evaluate_until
    from ironclip.protocols.experiment import transferred, with_test_time
    from ironclip.protocols.frozen import given
    from ironclip.protocols.measure import evaluate_run
    from ironclip.protocols.resolve import named_attacks, open_target, test_time_options
    from ironclip.protocols.shards import evaluate_shards, watch
    from ironclip.protocols.sources import check_source
    from ironclip.protocols.suites import open_suite
    from ironclip.protocols.targeted import check_targeted
    from ironclip.protocols.workers import Workers
    from ironclip.records.folder import is_run
    from ironclip.testtime import called

    check_source(knowledge, source)
    adapts, rest = test_time_options(test_time, changes or [])
    adapts = called(adapts)
    under: dict[str, Any] = {"norm": norm, "knowledge": knowledge or "white-box"}

    def named(known: Any, test_time: bool) -> list[str]:
        return attack.split(",") if attack is not None else [default(known, test_time=test_time, norm=norm)]

    early = [named_attacks(named(knowledge, True), radius, seed, rest, **under) for radius in radii]
    check_targeted(targeted, knowledge or "white-box", early[0].values())
    opened, missing = open_suite(suite, [data] if data is not None else ()) if suite else ({}, {})
    if opened:  # a backbone is a run of zero-shot classification on some data
        data = None if is_run(Path(target)) else next(iter(opened))
    if suite is not None and (classes_file is not None or layout != "auto"):
        raise UsageError("the data sets of a suite have their own class names and folders; leave out --classes and --layout")
    frozen = given(weights=weights, base=base, activation=activation)
    where = {"device": pick_device(device), "classes": classes_file, "layout": layout, "frozen": frozen}
    taken = took(target, quiet=as_json)
    run, experiment = open_target(taken, data, None if opened else subset, **where)  # type: ignore[arg-type]
    if not opened:
        print_notes(experiment.dataset.notes, quiet=as_json)
    classes: Any = subset or "all"
    moved = [transferred(experiment, name, classes, opened=found, suite=suite or "") for name, found in opened.items()]
    moved = moved or [experiment]
    if test_time is not None:
        moved = [with_test_time(each, test_time, adapts) for each in moved]
    experiment = moved[0]
    usual = ["white-box"] if experiment.test_time is None else ["static", "adaptive"]
    records: list[Any] = []
    unfinished: dict[Any, None] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(Workers(repeated(target, taken), workers, str(where["device"]))) if workers > 1 else None
        for each, radius, known in product(moved, radii, [knowledge] if knowledge else usual):
            names = named(known, each.test_time is not None)
            attacks = named_attacks(names, radius, seed, rest, norm=norm, knowledge=known)  # type: ignore[arg-type]
            under = {"norm": read_norm(norm), "knowledge": known, "source": source, "split": split, "limit": limit}
            command = repeat.evaluation_command(
                run, each, names, radius, changes=rest, seed=seed, distortion=distortion, targeted=targeted,
                until=until, batch_size=at_once, **under,
            )  # fmt: skip
            under |= {"eps": radius, "batch_size": at_once, "keep_examples": 6, "command": command}
            under |= {"callback": Progress(f"evaluate {experiment.config.method}", quiet=as_json)}
            if until is not None:
                records.append(evaluate_until(run, each, attacks, until, **under)[0])
                continue
            if share is not None:
                found, left = evaluate_shards(run, each, attacks, share, **under)
                if found is None:
                    unfinished |= dict.fromkeys(left)
                else:
                    records.append(found)
                continue
            if pool is not None:
                watch(pool, run, each, attacks, **under)
            record, _ = evaluate_run(run, each, attacks, distortion=distortion, targeted=targeted, **under)
            records.append(record)
    if as_json:
        emit([record.model_dump(mode="json") for record in records])
        return
    for record in records:
        print_record(record)
    if unfinished:
        print_left(unfinished, run.path)
    if not records:
        return
    if suite is not None:
        _print_suite(suite, records, missing)
    if experiment.test_time is not None:
        show_table(side_by_side(records))
    lines = [f"record: {run.path}", *(f"again: {record.command}" for record in records)]
    say(*lines)


def _print_suite(suite: str, records: list[Any], missing: dict[str, str]) -> None:
    """Print what was left out, and the means with their data sets."""
    for reason in missing.values():
        tell(f"left out: {reason.partition(' To get it')[0]}")
    of = len(missing) + len({record.data.name for record in records})
    for threat in dict.fromkeys(str(record.threat) for record in records):
        these = [record for record in records if str(record.threat) == threat]
        clean, robust = (sum(getattr(record, what).value for record in these) / len(these) for what in ("clean", "robust"))
        bound = mark(any(record.one_loss for record in these))
        over = f"{len(these)} of {of} data sets ({', '.join(record.data.name for record in these)})"
        say(f"suite {suite}, {threat}: mean clean {clean:.1%}, robust {bound}{robust:.1%} over {over}")


def side_by_side(records: list[Any]) -> Any:
    """A table with the static and the adaptive robust accuracy of each radius in one row."""
    rows = []
    for eps in sorted({record.threat.eps for record in records}):
        found = {record.threat.knowledge: record for record in records if record.threat.eps == eps}
        cells = {known: f"{record.bound}{record.robust}" for known, record in found.items()}
        missing = "not measured: static alone is no robustness" if set(found) == {"static"} else "not measured"
        adaptive = cells.get("adaptive") or cells.get("white-box") or missing
        attacked = "; ".join(f"{record.timing.evaluate_seconds / record.images:.2f} {known}" for known, record in found.items())
        first = next(iter(found.values()))
        passes, seconds = f"{first.cost.forward_passes:g} + {first.cost.backward_passes:g}", first.timing.answer_seconds
        measured = [passes, f"{seconds:.3g}"] if first.cost.forward_passes else ["not measured"] * 2
        static = cells.get("static", "not measured")
        rows.append([first.threat.radius, str(first.clean), static, adaptive, *measured, attacked])
    heads = ["eps", "clean", "robust, static", "robust, adaptive", "passes", "seconds per answer", "seconds per image, attacked"]
    return table("Passes of the image encoder for an answer: forward + backward", heads, rows)
