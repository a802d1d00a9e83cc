"""The verb `pretrain`: the embedded backbones from nothing."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Device, Json, app, emit, pick_device
from ironclip.cli.terminal import say, tell


@app.command()
def pretrain(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, log and weights.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that holds pretrain64, caltech101, eurosat, flowers5.")],
    objective: Annotated[
        str, typer.Option(help="contrastive (mini) or adversarial (its image tower, mini-robust).")
    ] = "contrastive",
    images: Annotated[Path | None, typer.Option(help="More images: one folder per class, such as all of Tiny-ImageNet.")] = None,
    init: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value for any other setting.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train the embedded backbones from captioned images; goes on where an interrupted run stopped."""
    from ironclip.pretraining.train import PretrainConfig
    from ironclip.pretraining.train import pretrain as run_pretraining
    from ironclip.protocols.config import validated, values_of

    given = {"objective": objective, "data": data, "images": images, "init": init, "steps": steps, "batch": batch}
    values = {key: value for key, value in given.items() if value is not None}
    config = validated(PretrainConfig, {**values, **values_of(changes or []), "seed": seed, "device": pick_device(device)})

    def heard(row: dict[str, Any]) -> None:
        if not as_json:
            shown = "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
            tell(shown)

    weights = run_pretraining(config, out_folder, heard)
    if as_json:
        emit({"weights": str(weights), "config": config.model_dump(mode="json")})
    else:
        say(f"weights: {weights}")
