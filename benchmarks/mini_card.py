"""The table of ironclip/backbones/weights/CARD.md: zero-shot and PGD-10 accuracy of `mini` or `mini-robust`.

    python benchmarks/mini_card.py mini --data ../shared/data

Written against open_clip directly, so that it also checks the package's own loading and attack. Clean accuracy: whole test
splits. Robust accuracy: the first 200 shuffled test images (seed 0); PGD-10, step eps / 4, random start, summed
cross-entropy, float32; an image that is wrong without an attack counts as wrong.
"""

import argparse
import json
from pathlib import Path

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ironclip.data import shapes
from ironclip.pretraining import sets
from ironclip.pretraining.steps import encode_captions, encode_pixels, zero_shot_accuracy

WEIGHTS = Path(__file__).parent.parent / "ironclip" / "backbones" / "weights"
TEMPLATES = {
    "caltech101": "a photo of a {}.",
    "eurosat": "a centered satellite photo of {}.",
    "flowers5": "a photo of a {}, a type of flower.",
    "clothing10": "a photo of a {}, a piece of clothing.",
}


def load(name: str, folder: Path) -> tuple[CLIP, SimpleTokenizer]:
    """The model in float32; `mini-robust` brings its image tower only."""
    description = json.loads((folder / f"{name}.json").read_text())
    model = CLIP(**description["architecture"]).eval()
    state = load_file(folder / f"{description.get('text_tower', name)}.safetensors") | load_file(folder / f"{name}.safetensors")
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True)
    return model.requires_grad_(False), SimpleTokenizer(context_length=description["context_length"])


def pgd_survivors(model: CLIP, texts: Tensor, images: Tensor, labels: Tensor, eps: float, seed: int) -> int:
    """How many of images [B, 3, H, W] in [0, 1] are right before and after PGD-10 within eps."""
    scale = model.logit_scale.exp()

    def logits(pixels: Tensor) -> Tensor:
        return scale * encode_pixels(model, pixels) @ texts.T

    right = logits(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    adv = (images + eps * noise).clamp(0, 1)
    for _ in range(10):
        adv.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(adv), labels, reduction="sum"), adv)
        adv = adv.detach() + eps / 4 * gradient.sign()
        adv = (images + (adv - images).clamp(-eps, eps)).clamp(0, 1)
    return int((logits(adv).argmax(1) == labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("mini", "mini-robust"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    model, tokenizer = load(options.name, options.weights)

    val = sets.objects(options.data / "pretrain64", 64, "val")
    accuracy = zero_shot_accuracy(model, tokenizer, val.images, val.labels, val.wordings[0], "a photo of a {}.")
    print(f"| pretrain64 validation, 200 classes | {accuracy:.1%} |", flush=True)
    for style in shapes.STYLES:
        drawn = [shapes.draw("test", i, style=style)[:2] for i in range(shapes.SPLITS["test"])]
        images = torch.stack([torch.from_numpy(sets.square(image, 64)) for image, _ in drawn])
        labels = torch.tensor([label for _, label in drawn])
        for title, rows in (("all 30 pairs", labels >= 0), ("6 held-out pairs among 30", labels >= 24)):
            accuracy = zero_shot_accuracy(model, tokenizer, images[rows], labels[rows], shapes.CLASSES, "a picture of a {}.")
            print(f"| shapes, {style}, {title} | {accuracy:.1%} |", flush=True)
    for name, template in TEMPLATES.items():
        test = sets.labelled(options.data / name, 64, (template,), "test")
        names = test.wordings[0]
        accuracy = zero_shot_accuracy(model, tokenizer, test.images, test.labels, names, template)
        texts = encode_captions(model, tokenizer, [template.format(n) for n in names])
        chosen = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(0))[:200]
        robust = []
        for eps in (1 / 255, 2 / 255, 4 / 255):
            parts = [
                pgd_survivors(model, texts, test.images[rows].float() / 255, test.labels[rows], eps, int(rows[0]))
                for rows in chosen.split(50)
            ]
            robust.append(f"{sum(parts) / len(chosen):.1%}")
        print(f"| {name} ({len(test.images)}) | {accuracy:.1%} | {' | '.join(robust)} |", flush=True)


if __name__ == "__main__":
    main()
