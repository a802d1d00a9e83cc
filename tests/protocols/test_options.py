"""`ironclip list options NAME`: names, defaults, what the code allows, what it means, and where the values come from."""

import pytest

from ironclip import defenses, testtime
from ironclip.attacks import CATALOGUE
from ironclip.core.errors import UsageError
from ironclip.protocols.options import described
from ironclip.protocols.resolve import named_attacks, open_target, resolve


def test_options_are_those_that_the_code_checks() -> None:
    source, options = described("nap")
    found = {option.name: option for option in options}
    assert list(found) == list(defenses.options("nap"))
    assert found["adv_weight"].default == 1.0
    assert found["adv_weight"].allowed == "a number of at least 0 and at most 1"
    assert found["sides"].allowed == "one of both, image, text"
    assert found["depth"].meaning.startswith("J, prompted layers; default: all layers of each tower")
    assert "2506.12706" in source
    assert "[inferred]" in source


def test_a_stack_has_the_options_of_its_parts_and_an_attack_its_own() -> None:
    names = [option.name for option in described("nap+rtpt")[1]]
    assert "nap.length" in names
    assert "rtpt.views" in names
    pgd = {option.name: option for option in described("pgd")[1]}
    assert pgd["steps"].allowed == "a whole number of at least 0"
    assert "eps" not in pgd  # part of the threat model
    assert described("standard-fast")[1] == ()


@pytest.mark.parametrize("name", [*defenses.NAMES, *testtime.NAMES, *CATALOGUE])
def test_every_method_and_attack_can_be_described(name: str) -> None:
    described(name)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'napp'; did you mean 'nap'"):
        described("napp")


@pytest.mark.parametrize(("key", "words"), [("lenght", "'length'"), ("epoch", "'epochs'"), ("xqzw", "known: activation")])
def test_an_unknown_setting_is_answered_with_those_of_this_method(key: str, words: str) -> None:
    with pytest.raises(UsageError, match="unknown setting of nap") as refusal:
        resolve("nap", "shapes", given={}, changes=[f"{key}=1"])
    assert words in str(refusal.value)
    assert "refiner_layers" in str(refusal.value) or "did you mean" in str(refusal.value)
    assert "dataset" not in str(refusal.value)
    assert str(refusal.value).endswith("(all: `ironclip list options nap`)")


def test_a_hint_names_what_can_be_set_and_nothing_twice() -> None:
    with pytest.raises(UsageError) as refused:
        named_attacks(["pgd"], 4 / 255, 0, ["judge=1"])
    known = str(refused.value).partition("known: ")[2].partition(" (all")[0].split(", ")
    assert known == sorted({option.name for option in described("pgd")[1]})
    with pytest.raises(UsageError) as refused:
        named_attacks(["zzz"], 4 / 255, 0)
    known = str(refused.value).partition("known: ")[2].split(", ")
    assert len(known) == len(set(known)) > 10


@pytest.mark.parametrize("name", [*defenses.NAMES, *testtime.NAMES])
def test_a_method_in_place_of_a_run_is_called_a_method(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' is a method; expected a run"):
        open_target(name, "shapes", device="cpu")
