"""A zoo of class lists: each is read as its author meant it, or refused with the number of the line."""

import pytest

from ironclip.core.errors import DataError
from ironclip.data.class_lists import class_list

FOLDERS = ("fox", "owl", "newt")
PAIRS = [("fox", "red fox"), ("owl", "barn owl"), ("newt", "wet newt")]
NAMES = tuple(name for _, name in PAIRS)


def lines(form, pairs=PAIRS):
    return "\n".join(form.format(folder, name, k) for k, (folder, name) in enumerate(pairs))


def written(tmp_path, text):
    file = tmp_path / "names.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return class_list(file)


OF_FOLDERS = {
    "tab": lines("{0}\t{1}"), "arrow": lines("{0} => {1}"), "thin arrow": lines("{0}->{1}"), "comma": lines("{0},{1}"),
    "semicolon": lines("{0};{1}"), "colon": lines("{0}: {1}"), "bar": lines("{0}|{1}"), "equals": lines("{0} = {1}"),
    "quotes": lines('{0},"{1}"'), "quoted folders": lines('"{0}"\t"{1}"'), "heading": "folder\tname\n" + lines("{0}\t{1}"),
    "comma heading": "id,name\n" + lines("{0},{1}"), "map": '{"owl": "barn owl", "newt": "wet newt", "fox": "red fox"}',
    "in another order": lines("{0} => {1}", PAIRS[::-1]), "comments": "# birds\n\n// and more\n" + lines("{0}\t{1}"),
}  # fmt: skip
IN_ORDER = {
    "lines": lines("{1}"), "Windows": lines("{1}").replace("\n", "\r\n"), "old Macintosh": lines("{1}").replace("\n", "\r"),
    "line separator": lines("{1}").replace("\n", "\u2028"), "mark": b"\xef\xbb\xbf" + lines("{1}").encode(),
    "UTF-16": lines("{1}").encode("utf-16"), "list": '["red fox", "barn owl", "wet newt"]', "quotes": lines('"{1}"'),
    "numbers": lines("{2} {1}"), "numbers with points": lines("{2}. {1}"), "numbers with colons": lines("{2}: {1}"),
    "numbers with commas": lines("{2},{1}"), "blanks": lines("   {1}\t"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_names_of_folders(tmp_path, name):
    found = written(tmp_path, OF_FOLDERS[name])
    assert found.of(FOLDERS) == NAMES
    assert found.folders is None or sorted(found.alone()) == sorted(NAMES)


@pytest.mark.parametrize("name", IN_ORDER)
def test_names_in_the_order_of_the_classes(tmp_path, name):
    found = written(tmp_path, IN_ORDER[name])
    assert (found.of(FOLDERS), found.alone()) == (NAMES, NAMES)


def test_numbers_are_labels_where_the_folders_are(tmp_path):
    twelve = [(str(k), f"name {k}") for k in range(12)]
    folders = sorted(folder for folder, _ in twelve)  # 0, 1, 10, 11, 2, ...
    for form in ("{0} {1}", "{0}: {1}", "{0},{1}", "{0}\t{1}"):
        assert written(tmp_path, lines(form, twelve)).of(folders) == tuple(f"name {folder}" for folder in folders)


@pytest.mark.parametrize("name", ["[red] fox", "C#", "red fox: vulpes", "a -b", "Star Wars 3", "it's", "747"])
def test_signs_of_names_stay(tmp_path, name):
    assert written(tmp_path, f"{name}\nowl\nnewt").alone() == (name, "owl", "newt")


REFUSED = {
    "YAML list": (lines("- {1}"), "line 1: '- red fox' is no class name"),
    "YAML map": ("names:\n" + lines("  {2}: {1}"), "line 1: 'names:' is no class name"),
    "HTML": ("<html>\nfox\nowl", "line 1: '<html>' is no class name"),
    "comment behind": ("fox\nowl # small\nnewt", "line 2: 'owl # small' is no class name"),
    "one line is no pair": ("fox\ta\nowl,b\nnewt\tc", "line 2: 'owl,b' has no folder"),
    "three fields": ("fox\ta\tx", "line 1: expected 'folder<TAB>name'"),
    "twice": ("fox\ta\nfox\tb\nowl\tc", "line 2: 'fox' is 'b' here and 'a' before"),
    "a key twice": ('{"fox": "a", "fox": "b", "owl": "c"}', "the key 'fox' stands twice in one object"),
    "cp1252": ("café".encode("cp1252"), "line 1 is not UTF-8 text; save the file as UTF-8"),
    "UTF-16 without mark": ("fox".encode("utf-16-le"), "zero bytes and is no text; save it as UTF-8"),
    "numbers in a list": ('["fox", 3]', "name 2: expected a name"),
    "nothing": ("# nothing\n\n", "no class name in it"),
    "pairs": (lines("{0}; {1}"), "line 1: 'fox; red fox' may be several names"),
    "several": ("fox, owl, newt", "line 1: 'fox, owl, newt' may be several names"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path, name):
    text, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        written(tmp_path, text).alone()
