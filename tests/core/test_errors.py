"""An unknown name is answered in a line that can be read."""

import pytest

from ironclip.core.errors import LONG, unknown


@pytest.mark.parametrize("count", [1, 3, 20, 500])
@pytest.mark.parametrize("see", ["", "ironclip list backbones"])
def test_a_list_of_names_is_printed_whole_or_counted(count: int, see: str) -> None:
    known = [f"tower-{number}" for number in range(count)]
    said = str(unknown("backbone", "qqq", known, see=see))
    assert said.startswith("unknown backbone 'qqq'; ")
    assert len(said) < LONG + 100
    assert (", ".join(sorted(known)) in said) if count <= 20 else (f"{count} are known" in said)
    assert said.endswith(f"(all: `{see}`)") if see else "all:" not in said


def test_the_nearest_name_is_offered_of_however_many() -> None:
    assert "did you mean 'tower-7'?" in str(unknown("backbone", "towr-7", [f"tower-{number}" for number in range(500)]))
