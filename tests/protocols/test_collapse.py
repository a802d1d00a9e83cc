"""The flag of a training whose loss is that of chance says what the model answers."""

import pytest
import torch

from ironclip.core.types import Batch
from ironclip.protocols.collapse import sight
from ironclip.records.collapse import collapse_words


def answering(logits):
    """(a classifier that gives these logits in turn, one batch of as many images)."""
    pictures = torch.arange(len(logits), dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    batch = Batch(pictures, torch.zeros(len(logits), dtype=torch.long), torch.arange(len(logits)), tuple("abcde"))
    return (lambda images: logits[images[:, 0, 0, 0].long()]), [batch]


@pytest.mark.parametrize(
    ("logits", "seen"),
    [
        (5.0 * torch.eye(5), "chance loss"),
        (0.01 * torch.eye(5), "flat logits"),
        (5.0 * torch.eye(5)[[2] * 20], "constant answers"),
        (torch.zeros(5, 5), "flat logits"),
    ],
)
def test_a_collapse_says_what_was_seen(logits, seen):
    assert sight(*answering(logits)) == seen
    assert seen.split()[0] in {"chance", "flat", "constant"}
    assert collapse_words(["collapse", seen]) != collapse_words(["collapse"])


def test_a_sound_training_has_no_words_and_an_older_run_says_that_nobody_looked():
    assert collapse_words([]) == ""
    assert "not looked at" in collapse_words(["collapse"])
