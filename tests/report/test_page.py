"""The page is well-formed, loads nothing, says what it must, and survives odd names and missing parts."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from reporting import CLASSES, check, log, panel, record, store, views

from ironclip.core.errors import UsageError
from ironclip.records.folder import RunFolder
from ironclip.records.pictures import Example, save_examples
from ironclip.records.record import BackboneFacts, Flag
from ironclip.report import RunView, curve, page, panels, read
from ironclip.report.page import names
from ironclip.report.pictures import data_uri, difference
from ironclip.report.words import headline, limits, remarks, summary


def test_the_page_is_well_formed_and_complete():
    found = check(page(views(), title="Robustness of nap"))
    for text in ("Robustness of nap", "41.0", "[31.9, 50.8]", "What this does not show", "97.3\N{NO-BREAK SPACE}%", "change ×30"):
        assert text in found.text
    assert found.tags.count("svg") == 2
    assert found.tags.count("img") == 2 * 4 * 3
    assert "ironclip train nap --data shapes --backbone mini --shots 16 --eps 4/255 --seed 1" in found.text
    assert "ab" * 32 in found.text


def test_the_page_loads_nothing():
    html = page(views())
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    found = check(html)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert all(value.startswith("data:image/png;base64,") for _, name, value in found.attributes if name in ("src", "href"))


def test_pictures_have_alternative_texts_and_tables_have_heads():
    found = check(page(views()))
    assert [value for tag, name, value in found.attributes if tag == "img" and name == "alt"].count("") == 0
    assert all(value in ("col", "row") for tag, name, value in found.attributes if tag == "th" and name == "scope")
    assert sum(tag == "th" and name == "scope" for tag, name, _ in found.attributes) == found.tags.count("th")


def test_names_of_classes_and_commands_are_never_markup():
    odd = record(command='ironclip train nap --data "<script>alert(1)</script> & more"')
    found = check(page([RunView(odd, panels=[panel(label="<b>bold</b>", before="a & b", after="<img src=x>")])]))
    assert all(part in found.text for part in (*CLASSES, "<img src=x>"))
    assert "<script>alert(1)</script> & more" in found.text
    assert "script" not in found.tags


def test_a_page_needs_something_to_show():
    with pytest.raises(UsageError, match="no finished evaluation"):
        page([])


def test_a_view_without_log_pictures_classes_or_attacks_makes_a_page():
    found = check(page([RunView(record(per_class=(), attacks=()))]))
    assert "svg" not in found.tags
    assert "None was run" in found.text


def test_few_trainings_stand_beside_the_curve_and_many_in_their_sections():
    few = page(views())
    many = page([RunView(record(method), log(3)) for method in ("nap", "apt", "fap")])
    assert few.index("Training</strong>") < few.index("Images before and after")
    assert "Training</strong>" not in many
    assert many.count("<h3>Training</h3>") == 3


def test_the_worst_classes_come_first_and_the_rest_is_folded():
    html = page([RunView(record(classes=tuple(f"class-{i:02}" for i in range(25)), images=250))])
    shown, folded = (
        re.findall(r'<th scope="row"><bdi>class-(\d\d)</bdi></th>', part) for part in html.split("The other 15 classes")
    )
    assert "The 10 worst of 25 classes" in html
    assert shown == [f"{place}" for place in range(10, 20)]
    assert folded == [*(f"{place}" for place in range(20, 25)), *(f"{place:02}" for place in range(9, -1, -1))]


def test_the_summary_tells_both_models_and_the_attacker():
    text = summary([view.record for view in views()])
    assert "changed every pixel by at most 4/255 of full brightness" in text
    assert "knows the model and its defence completely" in text
    assert "Without a defence, mini is right on 82.0 % of the clean images and on at most 2.0 % under attack." in text
    assert "it is right on 76.0 % of the clean images and on at most 41.0 % under attack." in text
    assert text.endswith("do not overlap: the gain is more than chance.")


def test_overlapping_intervals_are_called_chance():
    assert summary([record("zero_shot", 80, 38), record("nap", 80, 40)]).endswith("the difference may be chance.")
    assert "worse" in summary([record("zero_shot", 80, 60), record("nap", 80, 10)])


def test_a_static_or_failed_number_is_never_the_headline():
    bare, static = record("zero_shot", knowledge="static"), record("nap", 80, 79, knowledge="static")
    assert headline([bare, static]) is None
    assert "static-only" in summary([static])
    assert any("overstate" in text for _, text in limits([static]))
    failed = record("nap", 80, 79, flags=(Flag(id="x", level="fail", text="broken"),))
    assert headline([record("zero_shot"), failed]) is None
    found = headline([record("zero_shot", 80, 2), failed, record("apt", 80, 30)])
    assert found is not None
    assert found.after.method == "apt"


def test_the_headline_names_what_another_model_reaches_without_a_defence():
    robust = BackboneFacts(name="mini-robust", sha256="ef" * 32)
    other = record("zero_shot", 70, 47, backbone=robust)
    elsewhere = record("zero_shot", 70, 60, eps=1 / 255, backbone=robust)
    found = headline([record("zero_shot", 80, 2), record("nap", 80, 30), other, elsewhere])
    assert found.beside == (other,)
    text = check(page([RunView(each) for each in (record("zero_shot", 80, 2), record("nap", 80, 30), other)])).text
    assert "mini-robust as it is, nothing trained: ≤ 47.0" in text
    assert "mini-robust, without a defence and without training, is right on" in text


def test_remarks_name_flags_collapses_and_rising_curves_gravest_first():
    rising = curve([record("nap", 80, 20, eps=1 / 255), record("nap", 80, 60, eps=2 / 255)])
    flag = Flag(id="x", level="fail", text="no attack changed a single image")
    found = remarks([RunView(record(flags=(flag,)), log(9, collapse=4), (), rising)], ["nap"])
    assert [remark.title for remark in found] == ["Do not trust", "Warning", "Warning"]
    assert found[0].text == "No attack changed a single image."
    assert "collapsed" in found[1].text
    assert "rises from radius 1/255 to 2/255" in found[2].text


def test_views_are_named_by_what_tells_them_apart():
    assert names([RunView(record("zero_shot")), RunView(record("nap"))]) == ["zero_shot", "nap"]
    shots = [RunView(record("nap", shots=count, seed=seed)) for count, seed in ((4, 1), (16, 2))]
    assert names(shots) == ["nap (4 shots, seed 1)", "nap (16 shots, seed 2)"]


def test_a_picture_survives_the_data_uri():
    image = np.arange(3 * 4 * 5).reshape(3, 4, 5) / 255
    uri = data_uri(torch.from_numpy(image))
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert (back == np.arange(60).reshape(3, 4, 5).transpose(1, 2, 0)).all()


def test_the_gain_is_the_largest_round_one_that_cuts_nothing_off():
    clean = np.full((3, 2, 2), 0.5)
    shown, gain = difference(clean, clean + 4 / 255)
    assert gain == 30
    assert shown == pytest.approx(np.full((3, 2, 2), 0.5 + 30 * 4 / 255))
    assert difference(clean, clean)[1] == 500
    assert difference(clean, clean + 0.5)[1] == 1


def test_only_small_pictures_are_pixelated():
    assert 'class="pixelated"' in page([RunView(record(), panels=[panel(size=64)])])
    assert 'class="pixelated"' not in page([RunView(record(), panels=[panel(size=224)])])


def test_a_run_folder_becomes_views(tmp_path):
    config = {"method": "nap", "dataset": "shapes", "backbone": "mini", "shots": 16, "seed": 1}
    run = RunFolder.create(config, out=tmp_path / "run")
    assert read(run) == ()
    for eps, robust in ((4, 40), (1, 70), (8, 9)):
        place = run.evaluation({"eps": eps})
        store(place, record("nap", 80, robust, eps=eps / 255))
    static = run.evaluation({"knowledge": "static"})
    store(static, record("nap", 80, 75, knowledge="static"))
    for entry in log(2):
        run.log(entry)
    example = Example(3, 1, torch.zeros(3, 8, 8), torch.ones(3, 8, 8), 1, 9, "pgd")
    save_examples(run.path / "examples.safetensors", [example])
    first, second = read(run)
    assert first.record.robust.count == 40
    assert [point.robust.count for point in first.curve] == [80, 70, 40, 9]
    assert len(first.log) == 2
    assert (first.panels[0].label, first.panels[0].after) == ("blue square", "class 9")
    assert second.record.threat.knowledge == "static"
    assert second.log == ()
    check(page([first, second]))


def test_probabilities_are_shown_where_the_examples_carry_them():
    example = Example(0, 0, torch.zeros(3, 8, 8), torch.ones(3, 8, 8), 0, 1, "pgd")
    (bare,) = panels([example], CLASSES)
    assert bare.before_probability is None
    object.__setattr__(example, "clean_probability", 0.9)
    object.__setattr__(example, "probability", 0.25)
    (told,) = panels([example], CLASSES)
    assert "blue square, 25.0\N{NO-BREAK SPACE}%" in check(page([RunView(record(), panels=[told])])).text
