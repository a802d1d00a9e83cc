"""The verb `classify`: the most probable classes of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import (
    Activation,
    Base,
    Classes,
    Device,
    Json,
    Limit,
    Progress,
    Trust,
    Weights,
    app,
    emit,
    pick_device,
    print_notes,
    took,
)  # fmt: skip
from ironclip.cli.terminal import say, show_table, table, tell
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of

PAGE = 100


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A run's folder, an exported .pt2 or .onnx file, a saved folder or a hub id."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="For zero-shot classification, default mini; for a saved folder: the one it was trained on.",
        ),
    ] = None,
    weights: Weights = None,
    base: Base = None,
    activation: Activation = None,
    classes: Classes = None,
    names: Annotated[str | None, typer.Option("--names", help="Class names separated by commas, instead of --classes.")] = None,
    test_time: Annotated[str | None, typer.Option("--test-time", help="A test-time method on top, such as rtpt.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Options of --test-time, e.g. views=32.")] = None,
    limit: Limit = None,
    top: Annotated[int, typer.Option(help="Classes to show for each image.")] = 3,
    report: Annotated[
        Path | None,
        typer.Option("--report", help=f"HTML page of the first {PAGE} images: attention, kept views with their weights."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", help="A .csv or .parquet file for any number of images; the same command goes on where it stopped."
        ),
    ] = None,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Label images with a trained run, or zero-shot with class names."""
    from ironclip import testtime
    from ironclip.data.class_lists import class_list
    from ironclip.data.layouts import left_out
    from ironclip.data.names import doubts
    from ironclip.data.walk import contents
    from ironclip.protocols.classify import classifier_of, found, predict
    from ironclip.protocols.config import values_of
    from ironclip.protocols.frozen import given
    from ironclip.protocols.labelling import check_table, label
    from ironclip.serve.opening import open_shipped

    if to is not None and report is not None:
        raise UsageError("--out is for any number of images and --report shows the first of them; give one of the two")
    if to is not None:
        check_table(to)
    where = pick_device(device)
    if (model is None) == (classes is None and names is None):
        raise UsageError("give either --model RUN, or class names by --classes FILE or --names a,b,c")
    frozen = given(weights=weights, base=base, activation=activation)
    listed = [name.strip() for name in (names or "").split(",") if name.strip()]
    if classes is not None:
        listed = list(class_list(classes).alone())
    if changes and test_time is None:
        raise UsageError("--set gives options of --test-time; name a test-time method")
    above = None if test_time is None else testtime.build(test_time, testtime.called(values_of(changes or [])))
    shipped = None
    if model is not None:
        model = took(model, quiet=as_json)
        shipped = open_shipped(model, device=where, backbone=backbone, frozen=frozen, test_time=above, trust=trust)
    classifier = shipped or classifier_of(model, backbone or "mini", frozen, listed, where, above)
    print_notes(doubts(classifier.classes), quiet=as_json)
    for folder in filter(Path.is_dir, images):
        print_notes(left_out(contents(folder)), quiet=as_json)
    shown = Progress("classify", quiet=as_json)
    size = 64 if above is None else 4  # so that progress shows
    photos: list[Any] = []
    if to is not None:
        done = label(classifier, found(images, limit), to, top=top, batch_size=size, progress=shown.count)
        counts = {"file": str(to), "images": done.pictures, "unreadable": done.unreadable, "resumed": done.resumed}
        emit(counts) if as_json else say(str(done))
        raise typer.Exit(2 if done.unreadable else 0)
    collect = None if report is None else _collector(classifier, photos)
    rows, bad = predict(classifier, images, top=top, limit=limit, batch_size=size, progress=shown.count, observe=collect)
    if report is not None:
        _write_report(report, classifier, photos, len(rows), bad)
    for each in bad:
        tell(f"left out: {each.name}: {each.reason}")
    if as_json:
        emit([{"image": row.name, "predictions": [{"class": c, "probability": p} for c, p in row.ranked]} for row in rows])
    else:
        cells = [[row.name, ", ".join(f"{c} {p:.1%}" for c, p in row.ranked)] for row in rows]
        show_table(table("", ["image", "most probable classes"], cells))
    if bad:
        raise typer.Exit(2)


def _collector(classifier: Any, photos: list[Any]) -> Any:
    """Adds the first images, with attention and views, to `photos`."""
    from ironclip.protocols.explain import explain
    from ironclip.report.photos import photo

    def collect(predictions: Sequence[Any], batch: Any) -> None:
        room = max(0, PAGE - len(photos))
        if room:
            photos.extend(photo(found) for found in explain(classifier, predictions[:room], batch[:room]))

    return collect


def _write_report(file: Path, classifier: Any, photos: list[Any], count: int, bad: list[Any]) -> None:
    from ironclip.core.files import disk_errors, write_text
    from ironclip.report.photos import photos_page

    method = getattr(classifier, "method", None)
    name = type(method).__module__.rpartition(".")[2]
    what = f"with {name}, which adapts to each image by itself" if method else "without a test-time method"
    among = f"{number_of(count, 'image')} labelled among {number_of(len(classifier.classes), 'class')}"
    notes = [f"{among}, {what}. Probabilities are not calibrated."]
    notes += [f"Shown are the first {len(photos)} of {count}."] if len(photos) < count else []
    notes += [f"Left out: {each.name}, {each.reason}." for each in bad]
    with disk_errors(file):
        write_text(file, photos_page(photos, notes=notes))
    tell(f"report: {file}")
