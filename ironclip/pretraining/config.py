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
    """Everything that decides the result, printable; `data` is the folder that holds pretrain64, caltech101 and so on.

    Args:
        average: decay of an exponential average of the weights; the average is what is checked and written. 0: no average.
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
    """The options that decide the result, as JSON."""
    return json.dumps(config.model_dump(mode="json", exclude={"data", "device", "report_every"}), sort_keys=True)
