"""Diagnostics that only call the classifier: outputs, randomness, adaptation inside the call, classes, the reported object."""

import torch
from torch import Tensor, nn

from ironclip.audit.lab import Lab
from ironclip.audit.results import Verdict
from ironclip.audit.watching import Watch
from ironclip.core.types import Classifier, Images

CALLS = 5
RANDOM = 1e-4
COMPANY = 1e-3
TARGETS = 9


def output_type(lab: Lab) -> Verdict:
    """D2: logits, not probabilities. AutoAttack [code]: all in [0, 1] and rows sum to 1 within 1e-5."""
    logits = lab.logits(lab.images)
    off = float((logits.sum(1) - 1).abs().max())
    inside = bool(((logits >= 0) & (logits <= 1)).all())
    bad = inside and off < 1e-5
    text = (
        "the outputs are probabilities: cross-entropy on them loses its gradient; hand out logits"
        if bad
        else "the outputs are logits"
    )
    return Verdict(
        id="D2", title="output type", level="fail" if bad else "pass", value=off,
        threshold="rows in [0, 1] that sum to 1 within 1e-5", text=text,
    )  # fmt: skip


def spread(function: Images, images: Tensor, calls: int = CALLS) -> tuple[float, Tensor]:
    """(largest difference of unit-length logits between calls on the same images, [calls, B] predictions)."""
    with torch.no_grad():
        outputs = torch.stack([function(images).float() for _ in range(calls)])
    unit = nn.functional.normalize(outputs, dim=-1)
    return float((unit - unit[0]).abs().max()), outputs.argmax(-1)


def randomness(lab: Lab) -> Verdict:
    """D3: five calls on the same images. AutoAttack [code]: number correct varies, or unit-length logits by more than 1e-4.

    A classifier whose calls agree must also give the same logits where a gradient is asked for: attacks see those.
    """
    images = lab.images[: lab.batch_size]
    difference, predictions = spread(lab.classifier, images)
    counts = (predictions == lab.labels[: lab.batch_size]).sum(1)
    bad = difference > RANDOM or bool((counts != counts[0]).any())
    if not bad and lab.gradients:
        with torch.enable_grad():
            asked = lab.classifier(images.detach().clone().requires_grad_()).detach().float()
        unit = [nn.functional.normalize(outputs, dim=-1) for outputs in (asked, lab.logits(images))]
        two_faced = float((unit[0] - unit[1]).abs().max())
        if two_faced > RANDOM:
            return Verdict(
                id="D3", title="randomness", level="fail", value=two_faced,
                threshold=f"unit logits with and without gradients differ by > {RANDOM:g}",
                text="the classifier answers otherwise where a gradient is asked for: attacks see another function",
            )  # fmt: skip
    text = (
        f"outputs change from call to call; every attack was made on the mean of {lab.draws} draws (EOT)"
        if bad
        else "the same images give the same logits"
    )
    return Verdict(
        id="D3", title="randomness", level="warn" if bad else "pass", value=difference,
        threshold=f"unit logits differ by > {RANDOM:g} over {CALLS} calls", text=text,
        numbers={"correct, fewest": float(counts.min()), "correct, most": float(counts.max())},
    )  # fmt: skip


def dynamic(lab: Lab) -> Verdict:
    """D4: optimisation inside the call: autograd used, parameters or buffers changed, or the batch mates matter."""
    images = lab.images[: min(lab.batch_size, 32)]
    before = state(lab.classifier)
    with Watch() as watch, torch.no_grad():
        together = lab.classifier(images).float()
    with torch.no_grad():
        again = lab.classifier(images).float()
        lab.classifier(lab.random_start()[: len(images)].flip(-1))
        after = lab.classifier(images).float()
        alone = torch.cat([lab.classifier(image[None]).float() for image in images])
    changed = [name for name, tensor in state(lab.classifier).items() if not tensor.equal(before[name])]
    scale = together.std().clamp_min(1e-6)
    tolerance = max(COMPANY, 4 * torch.finfo(watch.precision).eps)  # another batch size rounds otherwise
    noise = float((again - together).abs().max() / scale)
    company = float((alone - together).abs().max() / scale)
    memory = float((after - again).abs().max() / scale) > tolerance and noise < tolerance / 10
    mates = company > tolerance and noise < tolerance / 10  # of a random classifier nothing can be said
    reasons = [
        *(["gradients are taken inside the call"] if watch.backward else []),
        *([f"the call changes {changed[0]}"] if changed else []),
        *(["logits depend on what was seen before"] if memory else []),
        *(["logits depend on the other images of the batch"] if mates else []),
    ]
    text = "; ".join(reasons) + ": a defence that adapts must be attacked adaptively" if reasons else "nothing adapts in the call"
    return Verdict(
        id="D4", title="adaptation inside the call", level="warn" if reasons else "pass", value=company,
        threshold=f"a backward pass, a changed state, or logits alone or after others off by > {tolerance:.2g} of their spread",
        text=text, numbers={"operators of a backward pass": float(watch.backward), "tensors changed": float(len(changed))},
    )  # fmt: skip


def class_count(lab: Lab) -> Verdict:
    """D5: targeted attacks of AutoAttack want 9 targets; with fewer classes there are K - 1 of them."""
    targets = min(TARGETS, lab.classes - 1)
    losses = "cross-entropy and margin" if lab.classes < 3 else "cross-entropy, margin and DLR"
    text = f"{lab.classes} classes: {targets} targets" + (f" instead of {TARGETS}" if targets < TARGETS else "")
    return Verdict(
        id="D5", title="classes and targets", level="pass", value=float(lab.classes),
        threshold="none: targets are reduced and said so", text=f"{text}; losses: {losses}",
    )  # fmt: skip


def same_object(lab: Lab) -> Verdict:
    """D16: the attacked function is the reported one: clean accuracies differ by at most 0.1 points."""
    if lab.reported is None:
        return Verdict(
            id="D16", title="attacked object is the reported one", level="not applicable", text="no reported predictions given"
        )
    images = torch.cat([lab.images, lab.wrong[0]])
    labels = torch.cat([lab.labels, lab.wrong[1]])
    attacked = (lab.logits(images, lab.attacked).argmax(1) == labels).double().mean()
    reported = (lab.reported.to(labels) == labels).double().mean()
    off = abs(float(attacked - reported))
    random = lab.draws > 1
    bad = off > 0.001 + (1 / len(labels) if random else 0)
    text = (
        f"attacks see an object with clean accuracy {attacked:.1%}, the report speaks of one with {reported:.1%}"
        if bad
        else "attacks see the object that is reported"
    )
    level = ("warn" if random else "fail") if bad else "pass"
    return Verdict.model_validate(
        {"id": "D16", "title": "attacked object is the reported one", "level": level, "value": off,
         "threshold": "clean accuracies differ by > 0.1 points", "text": text}
    )  # fmt: skip


def state(classifier: Classifier) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, of a module or of the modules it holds."""
    if not isinstance(classifier, nn.Module):
        return {}
    held = [*classifier.named_parameters(), *classifier.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in held}
