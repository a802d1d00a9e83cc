"""The options of `ironclip pretrain` and the architecture of `mini`."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MINI: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 4},
    "quick_gelu": False,
}


class PretrainConfig(BaseModel):
    """Everything that decides the result of a pre-training run. Validated when it is made; it can be printed and stored.

    Args:
        objective: "contrastive" trains both towers from images and captions (`mini`). "adversarial" trains the image tower alone
            on attacked images (`mini-robust`).
        data: folder that holds pretrain64, caltech101, eurosat and flowers5.
        images: a further folder with one folder per class.
        init: safetensors file with the weights to start from. The adversarial objective needs one.
        steps: optimiser steps of the whole run.
        batch: images of a step.
        learning_rate: largest rate of AdamW; `train.schedule` says how it rises and falls.
        weight_decay: of AdamW, for weights with two or more dimensions.
        patch_dropout: share of the patches that are left out in training.
        whole: share of the steps, the last ones, that see all patches and no mixed images.
        eps: l-inf radius of the adversarial objective; images are in [0, 1].
        attack_steps: PGD steps of the adversarial objective.
        average: decay of an exponential average of the weights; the average is what is checked and written. 0: no average.
        precision: of the towers; losses and optimiser are in float32.
        device: where the towers compute.
        seed: of the weights, batches, augmentation and attacks.
        report_every: steps between two checkpoints; the validation accuracy is measured there.
        architecture: sizes of both towers, as open_clip's `CLIP` takes them.

    Raises:
        ValidationError: an unknown option, or a value that an option does not take (pydantic's error).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["contrastive", "adversarial"] = "contrastive"
    data: Path
    images: Path | None = None
    init: Path | None = None
    steps: int = 1100
    batch: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 0.1
    patch_dropout: float = 0.6
    whole: float = 0.1
    eps: float = 4 / 255
    attack_steps: int = 2
    average: float = Field(default=0.0, ge=0.0, lt=1.0)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    device: str = "cpu"
    seed: int = 0
    report_every: int = 275
    architecture: dict[str, Any] = MINI


SHARES = {
    "contrastive": {"objects": 14.0, "products": 2.5, "caltech101": 2.0, "eurosat": 1.0, "flowers5": 1.2, "shapes": 2.0},
    "adversarial": {"objects": 8.0, "products": 2.0, "caltech101": 4.0, "eurosat": 2.5, "flowers5": 2.5, "shapes": 2.0},
}
"""Share of each source in a batch; a folder given as `images` counts like `objects`."""


def fingerprint(config: PretrainConfig) -> str:
    """The options that decide the result, as JSON text with sorted keys; a checkpoint is only used where they are equal.

    `data`, `device` and `report_every` are left out, so a run may go on with others.
    """
    return json.dumps(config.model_dump(mode="json", exclude={"data", "device", "report_every"}), sort_keys=True)
