"""The commands that publish a model: export, save, push."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Json, app, emit, took
from ironclip.cli.terminal import command, say
from ironclip.core.errors import UsageError

Run = Annotated[Path, typer.Argument(help="A run's folder, or runs/last.")]


@app.command()
def export(
    run: Run,
    file: Annotated[Path, typer.Argument(help="model.pt2 (torch.export) or model.onnx.")],
    as_json: Json = False,
) -> None:
    """Write a run's classifier as one file that needs neither the run nor ironclip, and check that it computes the same."""
    if file.suffix not in (".pt2", ".onnx"):
        raise UsageError(f"an exported model is a .pt2 (torch.export) or an .onnx file; got {file.name!r}")
    from ironclip.serve.export import export as write

    experiment, records = _open(run)
    made = write(experiment, file, records=records)
    if as_json:
        numbers = {"logits": made.logits, "relative": made.relative, "probabilities": made.probabilities}
        emit(
            {
                "file": str(made.path),
                "bytes": made.path.stat().st_size,
                "deviation": numbers,
                "facts": made.facts.model_dump(mode="json"),
            }
        )
        return
    say(str(made))
    say(f"next: {command('classify', 'IMAGES', '--model', made.path)}")


@app.command()
def save(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="Folder for the three files, made if it is not there.")],
    as_json: Json = False,
) -> None:
    """Write what a run learned as a small folder to share: tensors, facts, model card."""
    from ironclip.serve.hub import FILES, save_pretrained

    experiment, records = _open(run)
    save_pretrained(experiment, folder, records=records)
    sizes = {name: (folder / name).stat().st_size for name in FILES}
    if as_json:
        emit({"folder": str(folder), "bytes": sizes})
        return
    say(f"{folder}: " + ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items()))


@app.command()
def push(
    run: Run,
    repository: Annotated[str, typer.Argument(help="Hub id such as org/name.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; default: private.")] = False,
    as_json: Json = False,
) -> None:
    """Upload what a run learned to the Hugging Face hub, with its model card."""
    from ironclip.serve.hub import publish

    experiment, records = _open(run)
    address = publish(experiment, repository, records=records, private=not public)
    emit({"address": address}) if as_json else say(address)


def _open(run: Path) -> tuple[Any, list[Any]]:
    """A trained run's experiment and its records."""
    from ironclip.protocols.few_shot import open_run
    from ironclip.serve.facts import own_records

    folder, experiment = open_run(took(run))
    return experiment, own_records(folder, experiment)
