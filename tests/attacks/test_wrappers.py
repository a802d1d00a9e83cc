"""EOT averages draws; BPDA has the value of one function and the gradient of another."""

import pytest
import torch
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import FGSM, PGD
from ironclip.attacks.bpda import BPDA
from ironclip.attacks.eot import EOT, Averaged
from ironclip.core.errors import UsageError
from ironclip.records.record import describe


class Noisy(torch.nn.Module):
    """Logits of a linear model, shifted by a draw of its own."""

    classes = ("a", "b")

    def __init__(self):
        super().__init__()
        self.net, self.draws = linear(2), []
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, images):
        self.draws.append(torch.randn(2, generator=self.generator))
        return self.net(images) + self.draws[-1]


def test_the_mean_of_the_draws_written_out():
    noisy, images = Noisy(), pictures()
    mean = EOT(noisy, 3)(images)
    assert torch.allclose(mean, noisy.net(images) + torch.stack(noisy.draws).mean(0), atol=1e-6)
    assert EOT(noisy, 3).classes == ("a", "b")
    noisy.draws.clear()
    log = EOT(noisy, 4, over="probabilities")(images)
    each = [(noisy.net(images) + draw).softmax(1) for draw in noisy.draws]
    assert torch.allclose(log.exp(), torch.stack(each).mean(0), atol=1e-6)


def test_many_draws_undo_a_random_sign():
    """Half of the draws flip the logits' sign with weight 0.8: one draw misleads FGSM, the mean does not."""
    plain, images = linear(2), pictures(40)
    labels = predicted(plain, images)
    draw = torch.Generator().manual_seed(0)

    def flipping(x):
        sign = -0.8 if torch.rand((), generator=draw) < 0.5 else 1.0
        return sign * plain(x)

    exact = FGSM(0.02)(plain, images, labels)
    assert Averaged(FGSM(0.02), 200)(flipping, images, labels).equal(exact)
    assert any(not FGSM(0.02)(flipping, images, labels).equal(exact) for _ in range(8))


def test_an_averaged_attack_is_described_with_all_constants():
    told = describe(Averaged(PGD(0.1, steps=7), 5))
    assert told["attack"] == "averaged"
    assert told["draws"] == 5
    assert told["inner"]["steps"] == 7
    with pytest.raises(UsageError, match="draws must be a whole number of at least 1; got 0"):
        Averaged(PGD(0.1), 0)
    with pytest.raises(UsageError, match="over must be one of"):
        EOT(linear(), over="median")


def test_value_of_one_gradient_of_the_other():
    levels = BPDA(lambda x: (x * 4).round() / 4)
    x = torch.tensor([[0.3, 0.6]], requires_grad=True)
    y = levels(x)
    (slope,) = torch.autograd.grad((y * torch.tensor([2.0, 3.0])).sum(), x)
    assert y.equal(torch.tensor([[0.25, 0.5]]))
    assert slope.equal(torch.tensor([[2.0, 3.0]]))
    square = BPDA(lambda x: x * 0 + 1e6, lambda x: x.square())
    (slope,) = torch.autograd.grad(square(x).sum(), x)
    assert square(x).eq(1e6).all()
    assert torch.allclose(slope, 2 * x)
    with pytest.raises(UsageError, match="the substitute returns shape"):
        BPDA(lambda x: x[:, :1])(x)


def test_an_attack_through_the_substitute_breaks_what_rounding_hides():
    model, images = convnet(), (pictures(40) * 16).round() / 16
    labels = predicted(model, images)

    def rounded(x):
        return (x * 16).round() / 16 + 0 * x

    def hidden(x):
        return model(rounded(x))

    def opened(x):
        return model(BPDA(rounded)(x))

    right = [(hidden(PGD(0.06, steps=10)(function, images, labels)).argmax(1) == labels).sum() for function in (hidden, opened)]
    assert right[1] < right[0]
