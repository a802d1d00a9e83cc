"""The one loop from a classifier and attacks to a record.

What is counted: an image is robust if it is right without an attack and under every attack. An attack only proposes images. Each
is checked (inside the ball and the box, finite) and scored again by the classifier itself, so an image counts as broken only if
the classifier really misclassifies the proposal. With `stop_early` an attack gets only the images that no earlier attack broke,
which does not change robust accuracy.

Outcomes belong to images, not to batches: attacks key their randomness by `Batch.indices`. Batches of another size may
still differ in the last bits of the logits, as matrix products do. The same batch gives the same samples to the last bit,
whatever was scored before it, even by a classifier that draws from global generators.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ironclip.core import permits
from ironclip.core.errors import DataError, RunError, UsageError
from ironclip.core.memory import Parts, peak_bytes
from ironclip.core.signals import leave_if_asked
from ironclip.core.tensors import evaluating, frozen
from ironclip.core.threat import Threat
from ironclip.core.types import Attack, Batch, Classifier
from ironclip.loops.draws import drawn_for
from ironclip.loops.scoring import Scorer, full_precision, targets
from ironclip.records.folder import EvaluationFolder
from ironclip.records.pictures import Example, load_examples, save_examples
from ironclip.records.record import Quantise, Record, Sample, Setup, Timing, describe
from ironclip.records.summary import summarise

__all__ = ["Evaluation", "Example", "constants", "evaluate", "evaluate_into", "settings", "summarise"]

Callback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Evaluation:
    """All samples in the order of their indices, the first broken images, and the side of the images in pixels."""

    samples: tuple[Sample, ...]
    examples: tuple[Example, ...]
    seconds: float
    resolution: int


def evaluate(
    classifier: Classifier,
    attacks: Mapping[str, Attack],
    batches: Iterable[Batch],
    threat: Threat,
    *,
    surrogates: Sequence[Classifier] = (),
    done: Iterable[Sample] = (),
    quantise: Quantise = "none",
    stop_early: bool = True,
    probe: bool = True,
    keep_examples: int = 0,
    total: int | None = None,
    device: torch.device | str | None = None,
    exact: bool = False,
    on_batch: Callable[[Sequence[Sample], Sequence[Example]], None] | None = None,
    callback: Callback | None = None,
) -> Evaluation:
    """Outcomes per image of a classifier under attacks.

    Args:
        attacks: name -> attack, run in this order.
        threat: its knowledge says which classifier the attacks are handed. "white-box": `classifier`; "adaptive":
            `classifier`, then each surrogate; "static" and "transfer": the surrogates only; "black-box": `classifier`
            without gradients. Images are always scored by `classifier`.
        done: samples of an interrupted evaluation; they are not scored again.
        quantise: round images to 8 bits before they are scored, see `scoring.quantised`.
        stop_early: False: every attack meets every image, those misclassified included.
        probe: look for dead gradients at the clean images (one backward pass).
        keep_examples: how many broken images to hand back; no other image is kept.
        total: number of images, for the callback's "eta".
        device: where the classifier is; batches are moved there.
        exact: batches are taken whole or refused; otherwise they are scored in parts where the device does not hold them.
        on_batch: gets the new samples and examples of each batch as soon as they are known.
        callback: gets {"event": "attack", "attack", "attacked", "broken"} and {"event": "batch", "done", "total", "clean",
            "robust", "seconds", "eta"}; accuracies are fractions so far, eta is in seconds or None.

    Raises:
        AttackError: an image outside the ball or the box, or of another shape.
        NonFinite: images or logits with NaN or infinity.
        DataError: no image, an image twice, labels outside the classes, or classes other than the classifier's.
        Leaving: the process was asked to leave, and this batch is finished.
        UsageError: surrogates missing or too many for this knowledge; quantisation or resolution not as the threat says.
    """
    scorer = Scorer(classifier, targets(classifier, surrogates, attacks, threat), threat, quantise, stop_early, probe, callback)
    parts = Parts(device or "cpu", exact=exact, size=None if exact else getattr(classifier, "at_once", None))
    known = {sample.index: sample for sample in done}
    samples: dict[int, Sample] = {}
    examples: list[Example] = []
    clean = robust = fresh = resolution = 0
    start = time.perf_counter()
    with ExitStack() as stack:
        for context in (evaluating(classifier, *surrogates), frozen(classifier, *surrogates), full_precision()):
            stack.enter_context(context)
        for batch in batches:
            if not len(batch):
                continue
            resolution = batch.images.shape[-1]
            indices = batch.indices.tolist()
            missing = {index for index in indices if index not in known}
            if len(samples.keys() | indices) < len(samples) + len(indices):
                raise DataError(f"an image comes twice among {indices[:8]}...; every image has its own index")
            if missing:
                # All of the batch, as if never interrupted: in another batch, logits can differ in the last bits.
                with drawn_for(indices):
                    parts.measure(classifier, batch.images[:1].to(parts.device), len(batch))
                found = parts(partial(_scored, scorer, batch, device), len(batch))
                new = [sample for scored, _ in found for sample in scored if sample.index in missing]
                pictures = [picture for _, broken in found for picture in broken if picture.index in missing]
                kept = pictures[: max(0, keep_examples - len(examples))]
                if on_batch is not None:
                    on_batch(new, kept)
                known |= {sample.index: sample for sample in new}
                examples += kept
                fresh += len(new)
            for index, label in zip(indices, batch.labels.tolist()):
                samples[index] = known[index]
                if known[index].label != label:
                    raise DataError(f"image {index} had label {known[index].label} before and has {label} now; another split?")
                clean, robust = clean + known[index].right, robust + known[index].robust
            if callback is not None:
                seconds, n = time.perf_counter() - start, len(samples)
                eta = seconds / fresh * (total - n) if total and fresh else None
                part = {"done": n, "total": total, "clean": clean / n, "robust": robust / n, "seconds": seconds, "eta": eta}
                callback({"event": "batch", **part})
            leave_if_asked()
    if not samples:
        raise DataError("there is no image to evaluate on; the split is empty")
    ordered = tuple(samples[index] for index in sorted(samples))
    return Evaluation(ordered, tuple(examples), time.perf_counter() - start, resolution)


def _scored(scorer: Scorer, batch: Batch, device: torch.device | str | None, rows: slice) -> tuple[list[Sample], list[Example]]:
    """Samples and broken images of some rows of a batch."""
    part = batch.rows(rows)
    with drawn_for(part.indices.tolist()):
        return scorer(part.to(device) if device is not None else part)


def evaluate_into(
    folder: EvaluationFolder,
    setup: Setup,
    classifier: Classifier,
    attacks: Mapping[str, Attack],
    batches: Iterable[Batch],
    *,
    surrogates: Sequence[Classifier] = (),
    keep_examples: int = 0,
    total: int | None = None,
    timing: Timing | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> tuple[Record, list[Example]]:
    """The record of an evaluation, and its example images. An interrupted evaluation continues; a finished one is read.

    Args:
        folder: from `run.evaluation(settings(...))`; the caller holds the run's lock.
        setup: threat, quantisation and stop_early are taken from here.
        timing: seconds and memory of the training.
        options: probe, device and exact of `evaluate`.

    Raises:
        RunError: the folder holds a record of another number of images, or cannot be written.
    """
    path = folder.path / "examples.safetensors"
    examples = {example.index: example for example in load_examples(path)}
    if (record := folder.record()) is not None:
        if total is not None and record.images != total:
            raise RunError(
                f"{folder.path} holds a record of {record.images} images, not of {total}; other settings, other folder"
            )
        return record, list(examples.values())
    clock = time.perf_counter()

    def keep(samples: Sequence[Sample], pictures: Sequence[Example]) -> None:
        nonlocal clock
        if new := [picture for picture in pictures if picture.index not in examples][: max(0, keep_examples - len(examples))]:
            examples.update({picture.index: picture for picture in new})
            save_examples(path, examples.values())
        now = time.perf_counter()
        folder.log({"event": "evaluated", "images": len(samples), "seconds": now - clock})
        clock = now
        folder.append(samples)  # last: who is stopped before this does the batch again, and both times count

    found = evaluate(
        classifier,
        attacks,
        batches,
        setup.threat,
        surrogates=surrogates,
        done=folder.samples(),
        quantise=setup.quantise,
        stop_early=setup.stop_early,
        keep_examples=keep_examples,
        total=total,
        on_batch=keep,
        callback=callback,
        **options,
    )
    before = timing or Timing()
    seconds = sum(entry["seconds"] for entry in folder.entries() if entry.get("event") == "evaluated")
    peak = peak_bytes(options.get("device") or "cpu")
    spent = {"evaluate_seconds": seconds, "peak_memory_bytes": max(peak, before.peak_memory_bytes)}
    setup = setup.model_copy(update={"threat": replace(setup.threat, resolution=found.resolution)})
    ran = constants(classifier, attacks, setup.threat, surrogates)
    record = summarise(setup, found.samples, ran, timing=before.model_copy(update=spent))
    folder.save_record(record)
    return record, list(examples.values())


def constants(
    classifier: Classifier, attacks: Mapping[str, Attack], threat: Threat, surrogates: Sequence[Classifier] = ()
) -> dict[str, dict[str, Any]]:
    """The attacks that `evaluate` runs under this threat, by the names of `Sample.adversarial`, with all their constants.

    Where an attack states its budget and the classifiers their cost, "derived" holds the largest number of passes of the image
    tower per image, forward and backward, without passes repeated to save memory.
    """
    described = {target.name: describe(target.attack) for target in targets(classifier, surrogates, attacks, threat)}
    for target in targets(classifier, surrogates, attacks, threat):
        derived = described[target.name]["derived"]
        if "slopes" in derived:
            own, judge = (
                float(getattr(f, "cost", 1)) for f in (target.function, getattr(target.function, "judge", target.function))
            )
            forward = (derived["slopes"] + derived["answers"]) * own + derived["judged"] * judge
            derived |= {"forward_passes_at_most": forward, "backward_passes_at_most": derived["slopes"] * own}
    return described


def settings(setup: Setup, attacks: Mapping[str, Attack], surrogates: int = 0, images: int = 0) -> dict[str, Any]:
    """The settings that identify an evaluation of a run, as JSON values; UsageError where the threat does not permit an attack.

    Args:
        surrogates: number of classifiers attacked besides the evaluated one.
        images: number of images scored, if only a part of the split.
    """
    if setup.threat.quantised != (setup.quantise != "none"):
        raise UsageError(f"the threat says quantised={setup.threat.quantised}, but the images are rounded: {setup.quantise}")
    for name, attack in attacks.items():
        permits.check(attack, setup.threat, name)
    kept = setup.model_dump(mode="json", include={"quantise", "precision", "stop_early", "data"})
    kept["data"].pop("images_hash")  # follows from split_hash and split
    kept["threat"] = setup.threat.identity()
    described = {name: describe(attack) for name, attack in attacks.items()}
    return kept | {"attacks": described, "surrogates": surrogates, "images": images}
