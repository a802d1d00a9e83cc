import pytest

from ironclip.core.shown import number_of, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[v2] [/x] [bold]", "[v2] [/x] [bold]"),
        (":smile: Ärger 猫 👩‍🚀 ≤", ":smile: Ärger 猫 👩‍🚀 ≤"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("txt\u202egnp", r"txt\u202egnp"),
        ("half \udcff", r"half \udcff"),
    ],
)
def test_a_text_is_one_line_that_moves_nothing(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_number_agrees_with_its_noun() -> None:
    assert number_of(1, "class", "has", "have") == "1 class has"
    assert number_of(1200, "class", "has", "have") == "1,200 classes have"
    assert [number_of(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [number_of(2, noun) for noun in ("epoch", "batch", "class")] == ["2 epochs", "2 batches", "2 classes"]
