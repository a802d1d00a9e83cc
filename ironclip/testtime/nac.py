"""NAC: TTC's counterattack with Nesterov's momentum: each gradient is taken at the point that the velocity leads to.

Source: 1011245276/NAC (`nac.py`; preprint of 2026). Neither the look-ahead nor the velocity is clipped, as released. Gate and
weights of the iterates are those of TTC; mu = 0 and one step are TTC itself. The paper's text lowers the distance from the
embedding of the clean image, which nobody has at test time; the released code, as here, raises the distance from that of the
received one. Deviations: those of TTC.

Equations, v_0 = 0, delta_0 the noise, P the projection onto the ball and [0, 1]:

    e(p) = ||f(p) - f(x)||^2,  g = grad e(x + delta_t + mu v_t)
    v_{t+1} = mu v_t + alpha sign g,  delta_{t+1} = P(delta_t + v_{t+1})
"""

from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.losses import squared_distance_each
from ironclip.core.options import check_number
from ironclip.core.tensors import project, value_and_slope
from ironclip.testtime.ttc import Counterattack


class NAC(Counterattack):
    """Nesterov accelerated counterattack.

    Args:
        momentum: mu; a larger one reaches farther in the same number of steps.
    """

    def __init__(self, *, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        check_number("momentum", momentum, 0, 1)
        self.momentum = momentum

    def iterates(self, base: AdaptedClassifier, images: Tensor, start: Tensor) -> Tensor:
        with torch.no_grad():
            own = base.encode_image(images)
        seen, velocity = [start.detach()], torch.zeros_like(images)
        for _ in range(self.steps):
            ahead = seen[-1] + self.momentum * velocity
            slope = value_and_slope(base.encode_image, lambda features: squared_distance_each(features, own), ahead)[2]
            velocity = self.momentum * velocity + self.step_size * slope.sign()
            seen.append(project(seen[-1] + velocity, images, self.eps))
        return torch.stack(seen) - images


METHOD = NAC
