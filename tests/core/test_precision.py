"""Precisions hold inside and the caller's settings come back."""

import pytest
import torch

from ironclip.core.errors import UsageError
from ironclip.core.precision import computing


def test_bf16_rounds_products_inside_and_nothing_afterwards():
    left, right = torch.rand(8, 64), torch.rand(64, 8)
    exact = left @ right
    with computing("bf16", "cpu"):
        inside = left @ right
    assert inside.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16), computing("float32", "cpu"):
        assert torch.equal(left @ right, exact), "nothing of the caller's autocast reaches in"


def failing() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    raise ZeroDivisionError


def test_settings_come_back_even_after_an_error(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")  # other settings than those inside
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), computing("float32", "cpu"):
        failing()
    found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    assert found == before == ("high", True)


@pytest.mark.parametrize(
    ("precision", "words"), [("fp8", "float32, tf32 or bf16; got 'fp8'"), ("tf32", "a precision of NVIDIA's")]
)
def test_a_precision_that_there_is_not_is_refused(precision, words):
    with pytest.raises(UsageError, match=words), computing(precision, "cpu"):
        raise AssertionError
