"""An answer depends on no gradient step inside the call, no stored state, no other image of the batch, no image seen before.

Optimisation inside the call: autograd used, parameters or buffers changed, or an answer
that depends on the other images of the batch.
"""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.forward import state
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.audit.watching import Watch

BATCH_DIFFERENCE = 1e-3


def dynamic(lab: Lab) -> Finding:
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
    tolerance = max(BATCH_DIFFERENCE, 4 * torch.finfo(watch.precision).eps)  # another batch size rounds otherwise
    noise = float((again - together).abs().max() / scale)
    difference = float((alone - together).abs().max() / scale)
    memory = float((after - again).abs().max() / scale) > tolerance and noise < tolerance / 10
    mates = difference > tolerance and noise < tolerance / 10  # of a random classifier nothing can be said
    reasons = [
        *(["gradients are taken inside the call"] if watch.backward else []),
        *([f"the call changes {changed[0]}"] if changed else []),
        *(["logits depend on what was seen before"] if memory else []),
        *(["logits depend on the other images of the batch"] if mates else []),
    ]
    text = "; ".join(reasons) + ": a defence that adapts must be attacked adaptively" if reasons else "nothing adapts in the call"
    return Finding(
        level="warn" if reasons else "pass", value=difference,
        threshold=f"a backward pass, a changed state, or logits alone or after others off by > {tolerance:.2g} of their spread",
        text=text, numbers={"operators of a backward pass": float(watch.backward), "tensors changed": float(len(changed))},
    )  # fmt: skip


CHECK = Diagnostic(4, "adaptation inside the call", dynamic, alarm="warn", scores=True)
