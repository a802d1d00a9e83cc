"""The attack for defences that adapt or draw at test time: momentum towards common wrong classes, judged by the defence itself.

Source: momentum of Dong et al. 2018 (arXiv 1710.06081), expectation over fresh randomness of Athalye et al. 2018
(arXiv 1707.07397), adaptive attacks of Tramer et al. 2020 (arXiv 2002.08347); the combination and its constants are ours
[inferred]. For each goal in turn (away from the true class by the cross-entropy, then by the margin towards the wrong classes
that the mean answer over re-drawn randomness ranks first):

- `steps` steps along the accumulated gradient, so that the random views of all steps so far add up; the step size falls to a
  tenth of its start. A defence whose randomness belongs to the image draws anew in every step;
- the defence itself judges the point ten times on the way, and at the end with `tries` slightly moved copies, which re-draw its
  randomness once more. A misclassified point is kept and ends the search for that image.

A surrogate (another function with the defence as its attribute `judge`) is differentiated in place of the defence; the defence
still decides. So a user's own method needs no attack of its own.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Best, Mode, clean_logits, ranked_targets, scores
from ironclip.attacks._options import AttackOptions
from ironclip.core.losses import cross_entropy_each, margin_each
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.tensors import keyed_uniform, per_image, project, steepest, value_and_slope
from ironclip.core.threat import Norm
from ironclip.core.types import Images

LOOKS = 10  # how often a point is judged on its way
LEAST = 0.1  # of the first step size, at the last step
FAR = 5  # over the number of steps, the least first step in units of eps: all steps together cross the ball
MOVE = 0.6 / 255  # how far a pixel of a copy moves at most: over half a grey level, so that the copy is another image


def towards(outputs: Tensor, labels: Tensor) -> Tensor:
    """[B] logit of the class aimed at minus the largest other one."""
    return -margin_each(outputs, labels)


@dataclass(frozen=True)
class Adaptive(AttackOptions):
    """Images in the ball and in [0, 1]: points that the judge misclassifies, else those with its largest margin.

    The function is differentiated; its attribute `judge`, or itself without one, decides what is wrong.

    Args:
        steps: for each goal.
        step_size: of the first step; default eps / 4, or 5 eps / steps where that is more. It falls to a tenth of that.
        decay: of the accumulated gradient.
        targets: number of common wrong classes to aim at, one after the other, after the untargeted goal.
        tries: moved copies of the last point of each goal, and of the image in the search for common wrong classes.
        mode: "compact": an image that the judge misclassifies is finished. "full": every image, every step.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index, the key of each image's draws.
    """

    judges: ClassVar[bool] = True

    eps: float
    steps: int = 50
    step_size: float | None = None
    decay: float = 0.9
    targets: int = 2
    tries: int = 5
    norm: Norm = "linf"
    mode: Mode = "compact"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, 0)
        check_whole("tries", self.tries, 0)
        check_choice("mode", self.mode, get_args(Mode))

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options; the budget counts the passes of an image through the function and through the
        judge."""
        goals = 1 + self.targets
        looks = len({step for step in range(self.steps) if self._looks(step)})
        return {
            "step_size": self.eps * max(1 / 4, FAR / max(self.steps, 1)) if self.step_size is None else self.step_size,
            "losses": ["ce", "targets"] if self.targets else ["ce"],
            "slopes": goals * self.steps,
            "answers": 1 + self.tries,
            "judged": 1 + goals * (looks + self.tries),
        }

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        judge, first, compact = getattr(function, "judge", function), self.derived["step_size"], self.mode == "compact"
        best, everyone = Best(images, labels, False), torch.arange(len(images), device=images.device)

        def judged(rows: Tensor, adv: Tensor) -> None:
            outputs = scores(judge, adv)
            best.offer(rows, positions[rows], adv, outputs, margin_each(outputs, labels[rows]))

        def moved(rows: Tensor, by: float, of: Tensor, number: int) -> Tensor:
            drawn = keyed_uniform(images.shape[1:], self.seed, positions[rows].tolist(), number, device=images.device).to(images)
            return project(of + by * drawn, images[rows], self.eps, self.norm)

        with inputs.borrowed(function, self.eval_mode), inputs.borrowed(judge, self.eval_mode):
            common = clean_logits(function, images, labels, positions).log_softmax(1)
            judged(everyone, images)
            for number in range(self.tries):
                common = common + scores(function, moved(everyone, MOVE, images, -1 - number)).log_softmax(1)
            for number, goal in enumerate([labels, *ranked_targets(common, labels, self.targets)]):
                rows = everyone[~best.fooled] if compact else everyone
                adv = moved(rows, self.eps, images[rows], number)
                memory = torch.zeros_like(adv)
                for step in range(self.steps):
                    if not len(rows):
                        break
                    loss = partial(towards if number else cross_entropy_each, labels=goal[rows])
                    slope = value_and_slope(function, loss, adv, positions[rows])[2]
                    memory = self.decay * memory + slope / per_image(slope.abs().flatten(1).sum(1).clamp_min(1e-30), slope)
                    size = first * (1 - (1 - LEAST) * step / max(self.steps - 1, 1))
                    adv = project(adv + size * steepest(memory, self.norm), images[rows], self.eps, self.norm)
                    if self._looks(step):
                        judged(rows, adv)
                        left = ~best.fooled[rows] if compact else torch.ones_like(rows, dtype=torch.bool)
                        rows, adv, memory = rows[left], adv[left], memory[left]
                for tried in range(self.tries):
                    left = ~best.fooled[rows]
                    if left.any():
                        judged(rows[left], moved(rows[left], MOVE, adv[left], 100 + self.tries * number + tried))
        return best.adv

    def _looks(self, step: int) -> bool:
        return (step + 1) % max(1, self.steps // LOOKS) == 0 or step + 1 == self.steps


ATTACK = Adaptive
