"""The recipe behind `ironclip pretrain`: trains the embedded backbones `mini` and `mini-robust`.

`contrastive`: image-text training of both towers; images with the same caption are positives of each other, every
batch carries one caption for each class of each set, titles only of its own products. Most steps drop patches (FLIP,
arXiv 2212.00794) and mix images (CutMix), the last steps use whole, unmixed images.
`adversarial`: the image tower alone, against frozen text features, on PGD images (TeCoA, arXiv 2212.07016) whose
cross-entropy runs over the class texts of each image's own set.
Batches, augmentation and dropped patches are functions of (seed, step), so a resumed run repeats an unbroken one.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.core.errors import CheckpointError, DataError, NonFinite
from ironclip.core.files import check_head, disk_errors, write_text
from ironclip.pretraining import files, sets
from ironclip.pretraining import steps as steps_of
from ironclip.pretraining.config import SHARES, PretrainConfig, fingerprint
from ironclip.pretraining.data import Batch, Source, make_batch, share
from ironclip.pretraining.sets import Check
from ironclip.records.lock import locked

MIXED = 0.25
"""Share of the steps with dropped patches that also mix images."""
CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"


def pretrain(config: PretrainConfig, out: Path, callback: Callable[[dict[str, Any]], None] = lambda row: None) -> Path:
    """Train as configured; a run that was interrupted goes on from its checkpoint.

    Args:
        config: what to train.
        out: folder for checkpoint, log and weights; it is made.
        callback: gets each new row of the log: step, loss, images per second, accuracy of each check.

    Returns:
        The path of the weights, safetensors in float16. A JSON description with a probe lies beside them.

    Raises:
        DataError: a set of images, or the file `init`, is missing.
        CheckpointError: the checkpoint or `init` is damaged or does not fit; or the adversarial objective has no `init`.
        NonFinite: the loss is NaN or infinite.
        RunBusy: another process trains into this folder.
        RunError: the folder cannot be written.
    """
    size = config.architecture["vision_cfg"]["image_size"]
    sources = sets.load_sources(config.data, size, config.images)
    with locked(out), disk_errors(out):
        path = train(config, sources, sets.load_checks(config.data, size), out, callback)
        files.add_probe(path)
    return path


def train(
    config: PretrainConfig,
    sources: Sequence[Source],
    checks: Sequence[Check],
    out: Path,
    callback: Callable[[dict[str, Any]], None] = lambda row: None,
    stop_after: int | None = None,
) -> Path:
    """The training loop.

    Args:
        config: what to train.
        sources: training images.
        checks: held-out images whose accuracy is written to the log.
        out: folder for checkpoint, log and weights.
        callback: gets each new row of the log.
        stop_after: end before this step, as an interruption would.

    Returns:
        The path of the weights; that of the checkpoint where `stop_after` ended the loop.

    Raises:
        CheckpointError, DataError, NonFinite, RunError: as `pretrain`.
    """
    model = build(config)
    tokenizer = SimpleTokenizer(context_length=config.architecture["text_cfg"]["context_length"])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decay = [p for p in trained.values() if p.ndim > 1]
    plain = [p for p in trained.values() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    averaged = {name: parameter.detach().clone() for name, parameter in trained.items()} if config.average else {}
    rows = files.restore(out / CHECKPOINT, model, trained, optimizer, fingerprint(config), averaged)
    start = rows[-1]["step"] if rows else 0
    write_text(out / LOG, _lines(rows))  # the checkpoint is the truth about the log
    shares = SHARES[config.objective]
    counts = share(config.batch, [shares.get(s.name, shares["objects"]) for s in sources])
    seen, sums, clock = 0, 0.0, time.perf_counter()
    for step in range(start, config.steps):
        if step == stop_after:
            return out / CHECKPOINT
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.steps)
        loss = step_loss(config, model, tokenizer, make_batch(sources, counts, step, config.seed), step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
            for name, average in averaged.items():
                average.lerp_(trained[name], 1 - config.average)
        seen, sums = seen + 1, sums + loss.item()
        if not math.isfinite(sums):
            raise NonFinite(f"the loss is not finite at step {step}; lower learning_rate (now {config.learning_rate:g})")
        if (step + 1) % config.report_every == 0 or step + 1 == config.steps:
            rate = seen * config.batch / (time.perf_counter() - clock)
            row: dict[str, Any] = {"step": step + 1, "loss": sums / seen, "images_per_second": rate}
            with swapped(trained, averaged):
                row |= {check.name: accuracy(config, model, tokenizer, check) for check in checks}
            rows.append(row)
            files.save(out / CHECKPOINT, model, trained, optimizer, fingerprint(config), rows, averaged)
            write_text(out / LOG, _lines(rows))
            callback(row)
            seen, sums, clock = 0, 0.0, time.perf_counter()
    with swapped(trained, averaged):
        return export(config, model, out)


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@contextmanager
def swapped(trained: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the trained weights hold their averages; afterwards they are as before, after an error too.

    Args:
        trained: name -> parameter, changed in place.
        averaged: name -> average of the same shape; where it is empty nothing happens.
    """
    kept = {name: trained[name].detach().clone() for name in averaged}
    with torch.no_grad():
        for name, average in averaged.items():
            trained[name].copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weights in kept.items():
                trained[name].copy_(weights)


def schedule(step: int, steps: int) -> float:
    """Multiplier of the learning rate in [0, 1]: linear warm-up over 4 % of the run, then half a cosine down to 0.

    Args:
        step: number of the step, from 0.
        steps: of the whole run.
    """
    warm = max(1, steps // 25)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))))


def step_loss(config: PretrainConfig, model: CLIP, tokenizer: SimpleTokenizer, batch: Batch, step: int) -> Tensor:
    """The loss of one step.

    Augmentation, dropped patches, mixing and attack are drawn from a generator whose seed is made of `config.seed` and `step`.

    Args:
        batch: images in uint8, captions and targets.
        step: number of the step, from 0.

    Returns:
        Scalar in nats, a mean over the batch; gradients flow to the trained tower or towers.
    """
    generator = torch.Generator().manual_seed(config.seed * 104_729 + step)
    whole = step >= config.steps * (1 - config.whole)
    images = steps_of.augment(batch.images.to(config.device), generator)
    patches = math.prod(model.visual.grid_size)
    kept = steps_of.choose_patches(len(images), patches, 0.0 if whole else config.patch_dropout, generator)
    model.visual.patch_dropout.kept = None if kept is None else kept.to(config.device)
    targets = batch.targets.to(config.device)
    try:
        with autocast(config), sdpa_kernel(SDPBackend.MATH):  # on a CPU twice as fast as flash attention for so few tokens
            if config.objective == "adversarial":
                return adversarial_loss(config, model, tokenizer, batch, images, targets, step, generator)
            onehot = torch.nn.functional.one_hot(targets, len(batch.captions)).float()
            if not whole and torch.rand((), generator=generator) < MIXED:
                images, onehot = steps_of.cutmix(images, onehot, generator)
            texts = steps_of.encode_captions(model, tokenizer, batch.captions)
            features = steps_of.encode_pixels(model, images)
        return steps_of.contrastive_loss(model.logit_scale.exp() * steps_of.cosines(features, texts), onehot)
    finally:
        model.visual.patch_dropout.kept = None


def adversarial_loss(
    config: PretrainConfig,
    model: CLIP,
    tokenizer: SimpleTokenizer,
    batch: Batch,
    images: Tensor,
    targets: Tensor,
    step: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean cross-entropy on images attacked by PGD, each over the captions of its own set.

    Source: TeCoA (arXiv 2212.07016). The radius grows linearly to `config.eps` over the first quarter of the run. The attack
    and the loss after it see the same patches.

    Args:
        batch: its captions and groups are used.
        images: [B, 3, S, S] float32 in [0, 1], augmented.
        targets: [B] int64 position of each image's caption.
        step: number of the step, from 0.
        generator: of the random start, on the CPU.

    Returns:
        Scalar in nats.
    """
    with torch.no_grad():
        texts = steps_of.encode_captions(model, tokenizer, batch.captions)
    scale = model.logit_scale.exp().detach()

    def loss_of(pixels: Tensor) -> Tensor:
        logits = scale * steps_of.cosines(steps_of.encode_pixels(model, pixels), texts)
        return steps_of.own_set_loss(logits, targets, batch.groups)

    eps = config.eps * min(1.0, (step + 1) / (config.steps / 4))
    noise = (torch.rand(images.shape, generator=generator) * 2 - 1).to(images.device)
    adv = (images + eps * noise).clamp(0, 1)
    for _ in range(config.attack_steps):
        adv.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss_of(adv), adv)
        adv = adv.detach() + 1.5 * eps / config.attack_steps * gradient.sign()
        adv = images + (adv - images).clamp(-eps, eps)
        adv = adv.clamp(0, 1)
    return loss_of(adv) / len(images)


def autocast(config: PretrainConfig) -> torch.autocast:
    """A context in which the towers compute in `config.precision` on `config.device`."""
    return torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.precision == "bfloat16")


def accuracy(config: PretrainConfig, model: CLIP, tokenizer: SimpleTokenizer, check: Check) -> float:
    """Zero-shot accuracy on the images of a check, as a fraction."""
    with autocast(config), sdpa_kernel(SDPBackend.MATH):
        return steps_of.zero_shot_accuracy(model, tokenizer, check.images, check.labels, check.names, check.template)


def build(config: PretrainConfig) -> CLIP:
    """The model before its first step, on `config.device`: drawn from the seed, or read from `config.init`.

    The adversarial objective needs `init`, and all but the image tower is frozen. The global random state is not changed.

    Raises:
        DataError: the file `init` is missing.
        CheckpointError: it is damaged or holds another architecture; or the adversarial objective has no `init`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = CLIP(**config.architecture)
    if config.init is not None:
        if not config.init.is_file():
            raise DataError(f"{config.init} is missing; init expects a safetensors file of the same architecture")
        try:
            check_head(config.init)
            weights = load_file(config.init)
        except SafetensorError as error:
            raise CheckpointError(f"{config.init} is damaged or no safetensors file: {error}") from None
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
        if set(missing) | set(unexpected):
            raise CheckpointError(f"{config.init} holds another architecture; missing {missing[:2]}, unknown {unexpected[:2]}")
    elif config.objective == "adversarial":
        raise CheckpointError("the adversarial objective trains the image tower of a finished model; give its file as init")
    model.visual.patch_dropout = steps_of.KeepPatches()
    if config.objective == "adversarial":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("visual."))
    return model.to(config.device)


def export(config: PretrainConfig, model: CLIP, out: Path) -> Path:
    """Write `mini.safetensors` with `mini.json`; after the adversarial objective the image tower alone, as `mini-robust`.

    Args:
        config: its objective decides which of the two is written.
        model: trained.
        out: folder for both files.

    Returns:
        The path of the weights.

    Raises:
        OSError: a file cannot be written.
    """
    note = {
        "architecture": config.architecture,
        "mean": steps_of.MEAN,
        "std": steps_of.STD,
        "context_length": config.architecture["text_cfg"]["context_length"],
        "source": f"ironclip pretrain, {config.objective}; see CARD.md",
    }
    state = model.state_dict()
    if config.objective == "contrastive":
        return files.export(state, out / "mini.safetensors", {"name": "mini", **note})
    state = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
    note |= {"name": "mini-robust", "text_tower": "mini", "eps": config.eps}
    return files.export(state, out / "mini-robust.safetensors", note)


def main() -> None:
    """`python -m ironclip.pretraining --out FOLDER [--key value ...]`, one option for each field of the configuration."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name in PretrainConfig.model_fields:
        if name != "architecture":
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    out = options.pop("out")
    print(pretrain(PretrainConfig(**options), out, lambda row: print(json.dumps(row), flush=True)))
