"""Classes of different lengths run in groups behind one shared prefix: the same features and gradients as one by one."""

import pytest
import torch
from torch import Tensor

from ironclip.backbones import assemble, text
from ironclip.backbones.text import length_groups
from ironclip.backbones.tiny import tiny_backbone
from ironclip.defenses.apt import APT
from ironclip.defenses.nap import NAP

NAMES = ("cat", "a long haired cat", "dog", "the very small dog of a friend", "ox", "two birds", "egg", "fish")


def test_groups_hold_every_class_once_by_rising_length() -> None:
    eot = torch.tensor([7, 3, 3, 9, 3, 4] + [3] * 40)
    groups = length_groups(eot)
    assert sorted(torch.cat(groups).tolist()) == list(range(len(eot)))
    ends = eot[torch.cat(groups)]
    assert torch.equal(ends, ends.sort().values)
    assert [eot[group].unique().tolist() for group in groups] == [[3], [4, 7, 9]]


def test_few_classes_stay_together() -> None:
    assert len(length_groups(torch.tensor([3, 9, 4, 5]))) == 1


@pytest.mark.parametrize("method", [APT, NAP])
def test_grouped_classes_equal_those_run_in_one_batch(method: type[APT] | type[NAP], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone().double()
    defense = method(backbone, NAMES, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for parameter in defense.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).to(parameter))
    pull = torch.randn(len(NAMES), backbone.spec.embed_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def run(padding: int) -> tuple[Tensor, list[Tensor]]:
        monkeypatch.setattr(text, "PADDING", padding)
        features = assemble(backbone, NAMES, defense.adaptation(backbone, NAMES)).text_features
        learned = [p for name, p in defense.named_parameters() if not name.startswith("image")]
        return features, list(torch.autograd.grad((features * pull).sum(), learned))

    together, slopes = run(10**6)
    apart, other_slopes = run(0)
    torch.testing.assert_close(apart, together, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other_slopes, slopes, rtol=1e-10, atol=1e-12)
