"""Images as PNG data URIs: clean, adversarial, and their difference made visible."""

import base64
import io
from typing import Any

import numpy as np

GAINS = (500, 200, 100, 50, 30, 20, 10, 5, 2)


def data_uri(image: Any) -> str:
    """An image [3, H, W] in [0, 1] as a PNG data URI with 8 bits per channel."""
    from PIL import Image

    pixels = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1)
    stream = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8).transpose(1, 2, 0)).save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def difference(clean: Any, adversarial: Any) -> tuple[Any, int]:
    """The change times a round gain, around middle grey, and that gain: the largest at which nothing is cut off."""
    change = np.nan_to_num(np.asarray(adversarial, dtype=np.float64) - np.asarray(clean, dtype=np.float64))
    largest = float(np.abs(change).max(initial=0.0))
    gain = next((gain for gain in GAINS if gain * largest <= 0.5), 1)
    return 0.5 + gain * change, gain


def side(image: Any) -> int:
    """The longer side in pixels."""
    return int(max(np.shape(image)[-2:]))
