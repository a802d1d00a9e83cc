"""Whether a device gives the results of a CPU, and how fast it is: the check of `doctor --gpu`.

Everything has random weights, so nothing is downloaded. Devices round differently, and an attack follows the sign of a gradient,
so attacked images may differ while outcomes agree. So logits are compared by value, and attacks by the outcome of each image.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ironclip import attacks, defenses, testtime
from ironclip.backbones import ClipBackbone, assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import IronclipError
from ironclip.core.memory import peak_bytes
from ironclip.core.precision import PRECISIONS, check_precision, computing
from ironclip.core.tensors import generator
from ironclip.core.types import Attack, Batch, Defense
from ironclip.loops.scoring import full_precision
from ironclip.protocols.machine import facts

CLASSES = ("cat", "golden retriever", "school bus", "tram")
EPS = 4 / 255
HALF = 0.5 / 255  # at which some of the random images keep their label and some do not
SHARES = {"patch": 0.1, "text": 0.3}  # of the area, for attacks with no other norm
TOWERS = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP")
CLOSE = 1e-3  # of the largest feature: float32 on both sides
SAME_LOSS = 0.05  # of a training step's loss, whose inner attack may take another sign
SAME_OUTCOMES = 0.9  # share of images
MATRIX = 4096


@dataclass(frozen=True)
class Check:
    """One comparison: whether it is correct, and the result."""

    name: str
    ok: bool
    text: str
    seconds: float


def check_device(device: str, *, quick: bool = False, progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
    """JSON values: "machine", "checks" (each a `Check`), "speeds", how many are "good", "seconds".

    Args:
        quick: tiny models and few images; shows that everything runs, the speeds mean nothing.
        progress: gets the name of what is done now, its number and how many there are.
    """
    start = time.monotonic()
    with full_precision():
        checks = _checks(device, quick, progress or (lambda name, done, total: None))
        speeds = _speeds(device, quick)
    machine = facts()
    return {
        "machine": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": f"ironclip doctor --gpu --device {device}{' --quick' if quick else ''}",
            "device": device,
            "devices": ", ".join(machine["devices"]),
            "driver": machine["driver"],
            "cuda": machine["cuda"],
            "versions": ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
            "peak memory": f"{peak_bytes(device) / 1e9:.2f} GB",
        },
        "quick": quick,
        "checks": [asdict(check) for check in checks],
        "speeds": speeds,
        "good": sum(check.ok for check in checks),
        "seconds": time.monotonic() - start,
    }


def random_backbone(architecture: str) -> ClipBackbone:
    """An architecture of open_clip with random weights, on the CPU; its texts are read by CLIP's tokenizer."""
    import open_clip

    from ironclip.backbones.wrapping import build, tokenizer_for, wrap

    config: dict[str, Any] = open_clip.get_model_config(architecture)
    words = {"text_cfg": {"context_length": config["text_cfg"].get("context_length", 77)}}
    return wrap(build(config, "gelu"), tokenizer_for("", words), name=architecture, activation="gelu")


def pictures(backbone: ClipBackbone, count: int) -> Batch:
    """Random images with labels in turn, the same everywhere."""
    side = backbone.spec.resolution
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count) % len(CLASSES), torch.arange(count), CLASSES)


def _checks(device: str, quick: bool, progress: Callable[[str, int, int], None]) -> list[Check]:
    small = tiny_backbone()
    batch = pictures(small, 4 if quick else 32)
    there = tiny_backbone().to(device)
    towers: dict[str, Callable[[], ClipBackbone]] = {"tiny": tiny_backbone}
    if not quick:
        towers = {name: partial(random_backbone, name) for name in TOWERS}
    jobs: list[tuple[str, Callable[[], tuple[bool, str]]]] = []
    jobs += [(f"features of {name}", partial(_same_features, make, device)) for name, make in towers.items()]
    jobs += [(f"training step of {name}", partial(_same_step, name, small, there, batch)) for name in defenses.NAMES]
    few = batch.rows(slice(2))
    jobs += [(f"answer of {name}", partial(_same_answer, name, small, there, few)) for name in testtime.NAMES]
    tried = [name for name in attacks.CATALOGUE if name != "transfer"]
    jobs += [(f"outcomes under {name}", partial(_same_outcomes, name, small, there, batch)) for name in tried]
    done = []
    for number, (name, job) in enumerate(jobs, 1):
        progress(name, number, len(jobs))
        clock = time.perf_counter()
        try:
            ok, text = job()
        except (IronclipError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            ok, text = False, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]
        done.append(Check(name, ok, text, time.perf_counter() - clock))
    return done


@torch.no_grad()
def _same_features(make: Callable[[], ClipBackbone], device: str) -> tuple[bool, str]:
    backbone = make()
    images = pictures(backbone, 4).images
    ids = torch.randint(1, 100, (3, backbone.spec.context_length), generator=torch.Generator().manual_seed(0))

    def both(place: str) -> list[Tensor]:
        moved = backbone.to(place)
        return [moved.encode_image(images.to(place)).cpu(), moved.encode_text(moved.text.embed(ids.to(place))).cpu()]

    here, there = both("cpu"), both(device)
    off = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(here, there, strict=True))
    return off <= CLOSE, f"off by {off:.1e} of the largest feature"


def _method(name: str, backbone: ClipBackbone) -> Defense:
    given = {"length": 4} if "length" in defenses.options(name) else {}
    made = defenses.build(name, backbone, CLASSES, generator=generator(1), given=given)
    return made.to(backbone.device)


def _stepped(name: str, backbone: ClipBackbone, batch: Batch, attack: Attack) -> tuple[float, bool]:
    """(loss, whether every gradient is finite) of one training step."""
    batch = batch.to(backbone.device)
    defense = _method(name, backbone)
    defense.prepare(backbone, [batch])
    terms = defense.loss(backbone, batch, attack)
    total = torch.stack(list(terms.values())).sum()
    if not total.requires_grad:
        return float(total), True
    total.backward()
    slopes = [parameter.grad for parameter in defense.parameters() if parameter.grad is not None]
    return float(total.detach()), bool(slopes) and all(bool(slope.isfinite().all()) for slope in slopes)


def _same_step(name: str, here: ClipBackbone, there: ClipBackbone, batch: Batch) -> tuple[bool, str]:
    if not defenses.method(name).learns:
        return True, "learns nothing"
    attack = attacks.build("pgd", eps=EPS, steps=2)
    (ours, _), (theirs, finite) = (_stepped(name, backbone, batch, attack) for backbone in (here, there))
    off = abs(ours - theirs) / max(abs(ours), 1e-6)
    return finite and off <= SAME_LOSS, f"loss {theirs:.5g}, {off:.1e} from the CPU's" + (
        "" if finite else "; no finite gradient"
    )


def _same_answer(name: str, here: ClipBackbone, there: ClipBackbone, batch: Batch) -> tuple[bool, str]:
    answers = []
    for backbone in (here, there):
        method = testtime.build(name, {"views": 4} if "views" in testtime.options(name) else {})
        base = assemble(backbone, CLASSES)
        method.prepare(base, iter([batch.to(backbone.device)]))
        with torch.no_grad():
            answers.append(method(base)(batch.images.to(backbone.device)).softmax(1).cpu())
    off = float((answers[0] - answers[1]).abs().max())
    return off <= SAME_LOSS, f"probabilities off by {off:.1e}"


def own_radius(name: str, eps: float) -> dict[str, Any]:
    """The first norm of an attack, and this l-infinity radius, or in a norm that is a share of the area one that can be made."""
    norm = "linf" if name in attacks.FIXED else attacks.kind(name).norms[0]
    return {"norm": norm, "eps": SHARES.get(norm, eps)}


def _same_outcomes(name: str, here: ClipBackbone, there: ClipBackbone, batch: Batch) -> tuple[bool, str]:
    labels = assemble(here, CLASSES)(batch.images).argmax(1).detach()
    known = set(attacks.kind(name).__dataclass_fields__) if name not in attacks.FIXED else set()
    short = {option: value for option, value in (("steps", 5), ("queries", 20)) if option in known}
    right: list[list[bool]] = []
    for backbone in (here, there):
        classifier, place = assemble(backbone, CLASSES), backbone.device
        attack = attacks.build(name, **own_radius(name, HALF), **short)
        adv = attack(classifier, batch.images.to(place), labels.to(place), indices=batch.indices)
        right.append((classifier(adv).argmax(1).cpu() == labels).tolist())
    same = sum(a == b for a, b in zip(*right, strict=True)) / len(batch)
    return same >= SAME_OUTCOMES, f"{same:.0%} of {len(batch)} images have the same outcome; {sum(right[1])} robust"


def _speeds(device: str, quick: bool) -> list[dict[str, Any]]:
    """Images per second of PGD-10 and of a NAP step, with the share of what one large product reaches, in every precision."""
    backbone = (tiny_backbone() if quick else random_backbone("ViT-B-32")).to(device)
    batch = pictures(backbone, 4 if quick else 100).to(device)
    classifier = assemble(backbone, CLASSES)
    pgd = attacks.build("pgd", eps=EPS, steps=10)
    nap = _method("nap", backbone)
    inner = attacks.build("pgd", eps=EPS, steps=2)

    def attacked() -> None:
        pgd(classifier, batch.images, batch.labels, indices=batch.indices)

    def trained() -> None:
        torch.stack(list(nap.loss(backbone, batch, inner).values())).sum().backward()

    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        try:
            check_precision(precision, torch.device(device).type)
        except IronclipError as error:
            rows.append({"what": "all", "precision": precision, "text": str(error)})
            continue
        with computing(precision, device):
            side = torch.rand(256 if quick else MATRIX, 256 if quick else MATRIX, device=device)
            best = 2 * len(side) ** 3 / _seconds(partial(torch.matmul, side, side), device)
            for what, work in (("PGD-10", attacked), ("NAP step", trained)):
                spent = _seconds(work, device)
                rate = _operations(work) / spent
                rows.append(
                    {
                        "what": f"{what} on {backbone.spec.name}",
                        "precision": precision,
                        "images_per_second": len(batch) / spent,
                        "flops_per_second": rate,
                        "share": rate / best,
                        "text": f"{len(batch) / spent:.4g} images per second, {rate / 1e12:.3g} TFLOP/s, {rate / best:.0%} of "
                        f"one large product ({best / 1e12:.3g} TFLOP/s)",
                    }
                )
    return rows


def _seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of one run, the second of two."""
    seconds = 0.0
    for _ in range(2):
        _wait(device)
        clock = time.perf_counter()
        work()
        _wait(device)
        seconds = time.perf_counter() - clock
    return seconds


class _Operations(TorchDispatchMode):
    """Counts floating-point operations of matrix products, convolutions and attention, in both directions.

    `torch.utils.flop_counter.FlopCounterMode`, whose table this reads, fails inside `torch.autograd.grad`, which attacks call.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if (rule := flop_registry.get(function.overloadpacket)) is not None:
            self.total += rule(*args, **(kwargs or {}), out_val=made)
        return made


def _operations(work: Callable[[], object]) -> int:
    with _Operations() as counter:
        work()
    return counter.total


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.device(device).type == "mps":
        torch.mps.synchronize()
