import pytest

from ironclip.data.names import as_read, doubts, looks_like_id, prompt_name


def test_underscores_become_spaces():
    assert prompt_name("Apply_Eye__Makeup ") == "Apply Eye Makeup"


@pytest.mark.parametrize("name", ["n01855672", "class_3", "Class 12", "0", "007", "c10", "id-4", "3fa85f64c1", "??"])
def test_ids_are_recognised(name):
    assert looks_like_id(name)


@pytest.mark.parametrize("name", ["goose", "boeing 747", "747-200", "n", "class", "гусь", "鹅", "A4 paper", "cat"])
def test_words_are_not_ids(name):
    assert looks_like_id(name) is (name == "747-200")  # a bare number says nothing to a text tower


def test_doubts_offer_a_classes_file():
    (note,) = doubts(["n01855672", "n01440764"])
    assert "look like ids (n01855672, n01440764)" in note
    assert "folder<TAB>name" in note
    assert "'imagenet'" in note
    assert "'imagenet'" not in doubts(["0", "1"])[0]
    assert doubts(["goose", "owl", "boeing 747"]) == ()
    assert "1 of 4 class names look like ids (class_3)" in doubts(["goose", "owl", "fox", "class_3"])[0]


PAIRS = [("DOG", "ＤＯＧ"), ("ﬁsh", "fish"), ("cafÃ©", "café"), ("dog’s", "dog's"), ("a\u00a0b", "a b")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_names_that_the_tokenizer_makes_one_are_noted(one: str, other: str) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    same = bool((SimpleTokenizer()([one]) == SimpleTokenizer()([other])).all())
    assert (as_read(one) == as_read(other)) == same
    assert bool(doubts([one, other])) == same


@pytest.mark.parametrize(
    "name", ["Boeing_747  (old)", "a\tb", "Caf\u00e9", "rock &amp; roll", "\x1b[31mred", "\u2018ok\u2019", ""]
)
def test_plain_names_are_read_as_the_long_way_reads_them(name: str) -> None:
    import html
    import unicodedata

    import ftfy

    assert as_read(name) == prompt_name(unicodedata.normalize("NFC", html.unescape(ftfy.fix_text(name)))).lower()
