"""The generated set `shapes`: coloured shapes with captions, drawn from (seed, split, index) alone.

Thirty classes, every pair of 5 colours and 6 shapes: class k is colour k mod 5 and shape k mod 6, which visits each
pair once. The first half is base, the second half new; each half contains every colour and every shape. The last six
classes are `HELD_OUT`: the split `pretrain` never shows them, so zero-shot accuracy on them says whether a model
combines a known colour with a known shape. Styles: `plain` (filled, light paper), `sketch` (wobbly outline, white
paper) and `night` (dim colours, dark striped texture); only `plain` is ever pre-trained on.
"""

import hashlib
import math

import numpy as np
from PIL import Image, ImageDraw

from ironclip.core.errors import unknown

COLORS = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 205),
    "yellow": (236, 200, 30),
    "purple": (140, 60, 175),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "heart")
CLASSES = tuple(f"{tuple(COLORS)[k % 5]} {KINDS[k % 6]}" for k in range(30))
BASE, NEW, HELD_OUT = CLASSES[:15], CLASSES[15:], CLASSES[24:]
STYLES = ("plain", "sketch", "night")
SPLITS = {"train": 3000, "val": 300, "test": 1500, "pretrain": 12000}
"""Usual number of images in each split; any index may be drawn."""

TEMPLATES = (
    "a picture of a {}.",
    "a drawing of a {}.",
    "a {}.",
    "there is a {} in the picture.",
    "a {size} {} on a {ground} background.",
    "a {size} {}.",
)
GROUNDS = {"plain": "light", "sketch": "white", "night": "dark"}
OVERSAMPLING = 3


def draw(split: str, index: int, *, style: str = "plain", size: int = 64, seed: int = 0) -> tuple[Image.Image, int, str]:
    """Image number `index` of a split with its label and a caption; the same on every call.

    Labels go round: index modulo 30, or modulo 24 in the split `pretrain`. One index is the same scene (shape, place,
    size, turn) in every style and at every resolution.

    Args:
        size: pixels per side.

    Returns:
        RGB image, index into `CLASSES`, caption.
    """
    rng, label, radius, center, text = _scene(split, index, style, seed)
    points = center + radius * _turn(_outline(KINDS[label % 6]), rng.uniform(-0.35, 0.35))
    color = np.clip(np.array(COLORS[CLASSES[label].split()[0]]) + rng.normal(0, 10, 3), 0, 255)
    paint = {"plain": _plain, "sketch": _sketch, "night": _night}[style]
    return paint(points, color, size, rng), label, text


def caption(split: str, index: int, *, style: str = "plain", seed: int = 0) -> str:
    """The caption of `draw` for this image, without drawing it."""
    return _scene(split, index, style, seed)[4]


def _scene(split: str, index: int, style: str, seed: int) -> tuple[np.random.Generator, int, float, np.ndarray, str]:
    """(random numbers that are left for the image, label, radius, centre, caption)."""
    if split not in SPLITS:
        raise unknown("split of shapes", split, SPLITS)
    if style not in STYLES:
        raise unknown("style of shapes", style, STYLES)
    key = hashlib.sha256(f"shapes/{seed}/{split}/{index}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(key[:8], "little"))
    label = index % (len(CLASSES) - len(HELD_OUT) if split == "pretrain" else len(CLASSES))
    radius = rng.uniform(0.16, 0.36)
    center = rng.uniform(radius, 1 - radius, 2)
    name = CLASSES[label]
    text = TEMPLATES[rng.integers(len(TEMPLATES))].format(name, size="small" if radius < 0.26 else "large", ground=GROUNDS[style])
    return rng, label, radius, center, text


def _outline(kind: str) -> np.ndarray:
    """[N, 2] corner points of a shape inside the unit circle, y downwards."""
    turn = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    if kind == "circle":
        return 0.85 * np.stack([np.cos(turn), np.sin(turn)], 1)
    if kind == "square":
        return 0.78 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    if kind == "triangle":
        return np.array([(0, -1), (0.9, 0.7), (-0.9, 0.7)])
    if kind == "star":
        spokes = np.arange(10) * math.pi / 5 - math.pi / 2
        return np.where(np.arange(10) % 2, 0.42, 1.05)[:, None] * np.stack([np.cos(spokes), np.sin(spokes)], 1)
    if kind == "cross":
        a, b = 0.32, 0.95
        quarter = np.array([(-a, -b), (a, -b), (a, -a)])
        return np.concatenate([_turn(quarter, k * math.pi / 2) for k in range(4)])
    x = 16 * np.sin(turn) ** 3
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([x, -y - 2], 1) / 17


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([(cos, sin), (-sin, cos)])


def _canvas(ground: np.ndarray, size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An image `OVERSAMPLING` times too large, filled with one colour, and a pen for it."""
    image = Image.new("RGB", (size * OVERSAMPLING, size * OVERSAMPLING), _rgb(ground))
    return image, ImageDraw.Draw(image)


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(float(channel)) for channel in np.clip(color, 0, 255))
    return red, green, blue


def _corners(points: np.ndarray, size: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points * size * OVERSAMPLING]


def _finish(image: Image.Image, light: np.ndarray, noise: float, size: int, rng: np.random.Generator) -> Image.Image:
    """Shrink with anti-aliasing, multiply by a light field [size, size] and add pixel noise of that standard deviation."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float64)
    pixels = pixels * light[..., None] + rng.normal(0, noise, (size, size, 3))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _plain(points: np.ndarray, color: np.ndarray, size: int, rng: np.random.Generator) -> Image.Image:
    image, pen = _canvas(rng.uniform(200, 250) + rng.normal(0, 8, 3), size)
    for _ in range(rng.integers(0, 4)):  # grey distractors under the shape
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.07)
        box = _corners(np.array([(x - r, y - r), (x + r, y + r)]), size)
        pen.ellipse([*box[0], *box[1]], fill=_rgb(np.full(3, rng.uniform(90, 190))))
    pen.polygon(_corners(points, size), fill=_rgb(color))
    slope = rng.uniform(-0.15, 0.15, 2)
    ramp = np.linspace(-1, 1, size)
    return _finish(image, 0.95 + slope[0] * ramp[:, None] + slope[1] * ramp[None], 4.0, size, rng)


def _sketch(points: np.ndarray, color: np.ndarray, size: int, rng: np.random.Generator) -> Image.Image:
    image, pen = _canvas(np.full(3, 252.0), size)
    width = max(1, round(0.022 * size * OVERSAMPLING))
    for _ in range(2):  # two wobbly strokes
        corners = _corners(points + rng.normal(0, 0.008, points.shape), size)
        pen.line([*corners, corners[0]], fill=_rgb(color), width=width, joint="curve")
    return _finish(image, np.ones((size, size)), 3.0, size, rng)


def _night(points: np.ndarray, color: np.ndarray, size: int, rng: np.random.Generator) -> Image.Image:
    image, pen = _canvas(rng.uniform(40, 70) + rng.normal(0, 6, 3), size)
    pen.polygon(_corners(points, size), fill=_rgb(0.8 * color))
    angle, waves, phase = rng.uniform(0, math.pi), rng.uniform(3, 7), rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:size, 0:size] / size
    stripes = np.sin(2 * math.pi * waves * (x * math.cos(angle) + y * math.sin(angle)) + phase)
    return _finish(image, 0.6 + 0.25 * stripes, 8.0, size, rng)
