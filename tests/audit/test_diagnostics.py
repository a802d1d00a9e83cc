"""Masked classifiers are flagged by the check made for their mask; a plain one raises no alarm."""

from pathlib import Path

import masked
import pytest
import torch
from masked import lab

from ironclip.attacks.eot import EOT
from ironclip.audit import diagnose as diagnose_module
from ironclip.audit.diagnose import CHECKS, diagnose
from ironclip.core.types import Classifier

QUICK = {"steps": 10, "many": 24}


def test_a_plain_classifier_raises_no_alarm():
    bench = lab(masked.Plain(), **QUICK)
    verdicts = diagnose(bench)
    assert [verdict.id for verdict in verdicts] == [f"D{number}" for number in range(1, len(CHECKS) + 1)]
    assert {verdict.level for verdict in verdicts} <= {"pass", "not applicable"}, [str(verdict) for verdict in verdicts]
    assert {verdict.id for verdict in verdicts if verdict.level == "not applicable"} <= {"D10", "D16", "D17"}


def test_a_diagnostic_is_found_by_its_file_and_its_number_is_its_own(monkeypatch):
    files = {path.stem for path in (Path(diagnose_module.__file__).parent / "checks").glob("[!_]*.py")}
    assert {check.measure.__name__ for check in CHECKS.values()} == files
    assert [*CHECKS][-1] == "D15", "the budget is checked over the images of all others"
    monkeypatch.setattr("ironclip.audit.checks.noise.CHECK", CHECKS["D9"])
    with pytest.raises(ValueError, match="a number of its own"):
        diagnose_module.found()


MASKED = {
    "QuantisedActivations": {"D13": "fail", "D1": "pass"},
    "RoundedPixels": {"D1": "fail", "D6": "fail", "D13": "fail"},
    "TinyScale": {"D13": "fail"},
    "HugeScale": {"D1": "fail", "D6": "fail", "D12": "warn"},
    "DetachedBranch": {"D6": "fail", "D13": "fail"},
    "RandomCrop": {"D3": "warn", "D4": "pass"},
    "Probabilities": {"D2": "fail"},
    "BatchStatistics": {"D4": "warn", "D3": "pass"},
    "GradientInside": {"D4": "warn", "D3": "pass"},
}


@pytest.mark.parametrize(("name", "expected"), MASKED.items(), ids=list(MASKED))
def test_a_mask_is_flagged_by_its_check(name, expected):
    bench = lab(getattr(masked, name)(), **QUICK)
    found = {check: CHECKS[check](bench) for check in expected}
    assert {check: verdict.level for check, verdict in found.items()} == expected, [str(verdict) for verdict in found.values()]
    for verdict in found.values():
        assert verdict.text
        assert verdict.threshold
        assert "\n" not in verdict.text


def test_scores_break_what_a_straight_through_gradient_does_not():
    bench = lab(masked.QuantisedActivations(), steps=20, many=40)
    assert CHECKS["D8"](bench).level == "fail"


def test_a_rule_that_reads_the_label_off_an_attack_on_its_base_is_found():
    rule = masked.LabelReader()
    bench = lab(rule, eps=0.15, steps=10, many=40, mislabel=3, sources=(rule.base,))
    verdict = CHECKS["D9"](bench)
    assert verdict.level == "fail"
    assert verdict.numbers["true label, static"] > verdict.numbers["predicted label, static"]
    fair = masked.Plain()
    assert CHECKS["D9"](lab(fair, eps=0.15, steps=10, many=40, mislabel=3, sources=(masked.Plain(),))).level == "pass"


def test_transfer_that_beats_the_white_box_is_an_alarm():
    subject = masked.DetachedBranch()
    bench = lab(subject, eps=0.05, sources=(masked.Plain().eval(),), **QUICK)
    verdict = CHECKS["D8"](bench)
    assert verdict.level == "fail"
    assert verdict.numbers["transfer 1"] > 0.1


def test_an_attack_weaker_than_noise_is_found():
    assert CHECKS["D10"](lab(masked.RoundedPixels(), steps=5, many=40)).level == "fail"


def test_an_attack_that_has_not_converged_is_found():
    assert CHECKS["D11"](lab(masked.RandomCrop(), **QUICK)).level == "warn"


def test_a_stronger_attack_that_breaks_less_is_found():
    assert CHECKS["D7"](lab(masked.BatchStatistics(), steps=20, many=100)).level == "fail"
    few = CHECKS["D7"](lab(masked.BatchStatistics(), steps=20, many=40))
    assert few.level == "warn", "three images of forty may be chance"
    assert few.text.startswith("fgsm breaks more than the stronger pgd-10, on 3 images against 0: ")


def test_few_classes_mean_fewer_targets():
    verdict = CHECKS["D5"](lab(masked.Plain(), **QUICK))
    assert verdict.level == "pass"
    assert "4 targets instead of 9" in verdict.text


def test_unperturbed_pictures_and_an_attack_without_the_defence_are_said():
    assert CHECKS["D14"](lab(masked.Plain(), **QUICK)).level == "pass"
    assert CHECKS["D14"](lab(masked.Plain(), knowledge="static", **QUICK)).level == "warn"
    assert CHECKS["D14"](lab(masked.RoundedPixels(), **QUICK)).level == "fail"


def test_pictures_outside_the_ball_are_found():
    bench = lab(masked.Plain(), **QUICK)
    bench.pgd()
    assert CHECKS["D15"](bench).level == "pass"
    bench.eps = bench.eps / 2
    bench.attack_these("pgd", (bench.images, bench.labels, bench.indices), eps=0.03, steps=2)
    assert CHECKS["D15"](bench).level == "pass"
    bench._inspect(bench.pgd(eps=0.05).adv, bench.images, 0.03)
    assert CHECKS["D15"](bench).level == "fail"


def test_an_attacked_object_other_than_the_reported_one_is_found():
    bench = lab(masked.Plain(), mislabel=4, **QUICK)
    labels = torch.cat([bench.labels, bench.wrong[1]])
    bench.reported = bench.logits(torch.cat([bench.images, bench.wrong[0]])).argmax(1)
    assert CHECKS["D16"](bench).level == "pass"
    bench.reported = labels
    assert CHECKS["D16"](bench).level == "fail"


def test_what_a_test_time_defence_gains_and_costs():
    class Slow(masked.Plain):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return sum(self.net(images) for _ in range(8)) / 8

    base: Classifier = masked.Plain().eval()
    verdict = CHECKS["D17"](lab(Slow(), base=base, **QUICK))
    assert verdict.level == "warn"  # it gains nothing
    assert verdict.numbers["cost factor"] > 1.5
    assert abs(verdict.value) < 1e-9


def test_a_random_classifier_is_attacked_through_its_mean():
    subject = masked.RandomCrop().eval()
    single, averaged = lab(subject, **QUICK), lab(subject, attacked=EOT(subject, 10), draws=10, **QUICK)
    assert CHECKS["D13"](averaged).level == "not applicable"
    many = EOT(subject, 50)
    left = [(many(bench.pgd().adv).argmax(1) == bench.labels).sum() for bench in (single, averaged)]
    assert left[1] <= left[0]
