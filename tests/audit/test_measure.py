"""The curve of an audit: monotone, resumable, and what broke what; requirements and the export."""

from dataclasses import replace

import pytest
import torch
from masked import NAMES, Plain
from toys import pictures, predicted

from ironclip.attacks import PGD, build, describe
from ironclip.audit.export import FREE, PUBLISHED, robustbench_info
from ironclip.audit.measure import measure
from ironclip.audit.results import AuditReport, Requirement, Verdict
from ironclip.core.errors import UsageError
from ironclip.core.tensors import evaluating
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.records.folder import RunFolder
from ironclip.records.record import AttackResult, BackboneFacts, DataFacts, Flag, Proportion, Setup
from ironclip.report.audit_page import audit_page
from ironclip.report.views import panels

RADII = (0.02, 0.01, 0.05)


class Pictures:
    def __init__(self, count=30):
        self.images = pictures(count)
        self.labels = predicted(Plain().eval(), self.images)
        self.labels[::7] = (self.labels[::7] + 1) % 5
        self.indices = torch.arange(100, 100 + count)

    def __len__(self):
        return len(self.labels)

    def batch(self, rows):
        rows = torch.tensor(list(rows))
        return Batch(self.images[rows], self.labels[rows], self.indices[rows], NAMES)


def folder(path):
    return RunFolder.create({"method": "m", "dataset": "d", "backbone": "b", "shots": None, "seed": 0}, out=path)


def setup():
    data = DataFacts(name="toy", classes=NAMES, label_space=5, available=30)
    return Setup(method="m", backbone=BackboneFacts(name="b"), data=data, threat=Threat(eps=0.05))


def two(eps):
    return {"pgd": PGD(eps, steps=3), "square": build("square", eps=eps, queries=20)}


def run(path, attacks=two, classifier=None, **options):
    classifier = classifier or Plain().eval()
    with evaluating(classifier):
        return measure(folder(path), setup(), classifier, attacks, Pictures(), RADII, batch_size=8, **options)


def test_robust_accuracy_never_rises_and_every_image_is_accounted_for(tmp_path):
    curve = run(tmp_path / "a")
    assert [radius.eps for radius in curve.radii] == sorted(RADII)
    robust = [radius.robust.count for radius in curve.radii]
    clean = curve.records[0].clean.count
    assert clean == 25
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < robust[0]
    before = clean
    for radius in curve.radii:
        pgd, square = radius.attacks
        assert pgd.attacked == before == clean - radius.carried
        assert square.attacked == pgd.survivors
        assert square.survivors == radius.robust.count
        assert pgd.survivors == pgd.attacked - pgd.broken
        before = radius.robust.count


def test_the_curve_is_not_above_that_of_each_attack_alone(tmp_path):
    both = run(tmp_path / "both")
    for name in ("pgd", "square"):
        alone = run(tmp_path / name, lambda eps, name=name: {name: two(eps)[name]})
        for radius, single in zip(both.radii, alone.radii, strict=True):
            assert radius.robust.count <= single.robust.count


def test_a_killed_audit_goes_on_to_the_same_records(tmp_path):
    whole = run(tmp_path / "whole")
    calls = 0

    class Killed(BaseException):
        pass

    def dying(eps):
        def attack(function, images, labels, *, indices=None, loss=None):
            nonlocal calls
            calls += 1
            if calls == 6:
                raise Killed
            return two(eps)["pgd"](function, images, labels, indices=indices)

        attack.__name__ = "pgd"
        return {"pgd": attack, "square": two(eps)["square"]}

    # The same settings in the folder as an attack of the catalogue, which is what a killed process leaves.
    with pytest.raises(Killed):
        run(tmp_path / "cut", dying)
    again = run(tmp_path / "cut", dying)
    assert [record.outcome()["samples_sha256"] for record in again.records] == [
        record.outcome()["samples_sha256"] for record in whole.records
    ]
    counted = calls
    assert run(tmp_path / "cut", dying).radii == again.radii
    assert calls == counted


def test_pictures_of_small_radii_come_first(tmp_path):
    curve = run(tmp_path / "a", keep_examples=2)
    radii = [eps for eps, _ in curve.examples]
    assert radii == sorted(radii)
    for eps, example in curve.examples:
        assert (example.adversarial - example.clean).abs().max() <= eps + 1e-6
        assert example.prediction != example.label


def report(tmp_path, **changes):
    curve = run(tmp_path / "a")
    verdicts = (
        Verdict(id="D1", title="dead gradients", level="fail", value=0.5, threshold="any", text="half <are> dead"),
        Verdict(id="D2", title="output type", level="pass", text="logits"),
    )
    whole = AuditReport(
        target="somebody:model", clean=curve.records[0].clean, radii=curve.radii, verdicts=verdicts, record=curve.records[-1]
    )
    return whole.model_copy(update=changes), curve


@pytest.mark.parametrize(
    "text", ["robust>0.4@4/255", "robust>=0.4", "robust>=40@4/255", "clean>=0.4@1/255", "speed>=1", "robust>=x@1"]
)
def test_requirements_that_cannot_be_read_are_refused(text):
    with pytest.raises(UsageError, match=r"a requirement is 'robust>=0.4@4/255'"):
        Requirement.parse(text)


def test_requirements_compare_with_what_was_measured(tmp_path):
    whole, _ = report(tmp_path)
    robust = whole.radii[1].robust.value
    met = Requirement.parse(f"robust>={robust}@0.02").among(RADII).check(whole.clean, whole.radii)
    missed = Requirement.parse(f"robust >= {robust + 0.01} @ 0.02").among(RADII).check(whole.clean, whole.radii)
    assert (met.met, met.measured) == (True, robust)
    assert not missed.met
    assert "NOT MET" in str(missed)
    assert Requirement.parse("clean>=0.8").check(whole.clean, whole.radii).met
    with pytest.raises(UsageError, match="not audited"):
        Requirement.parse("robust>=0.1@8/255").among(RADII)


MEMBERS = build("autoattack", eps=0.05).members
OTHER = {
    "steps": 99, "queries": 4999, "restarts": 2, "rho": 0.7, "targets": 8, "loss": "margin", "first_loss": "best", "eot": 20,
    "search_dtype": "bfloat16", "alpha_max": 0.2, "eta": 1.0, "beta": 0.8, "p_init": 0.3, "norm": "l2", "eps": 0.04,
    "attack": "pgd",
}  # fmt: skip
CASES = [(name, key) for name, member in MEMBERS.items() for key in describe(member) if key in OTHER]


def under_autoattack(whole, before=(), **changes):
    """The report with AutoAttack at its largest radius, where each member breaks one image; `changes`: of members' constants."""
    right, made = whole.clean.count, list(before)
    right -= sum(attack.broken for attack in before)
    for name, member in MEMBERS.items():
        constants = describe(member) | changes.get(name, {})
        made.append(AttackResult(name=name, constants=constants, attacked=right, broken=1, survivors=right - 1))
        right -= 1
    last = whole.radii[-1].model_copy(update={"attacks": tuple(made), "robust": Proportion.measured(right, 30)})
    return whole.model_copy(update={"radii": (*whole.radii[:-1], last)})


def test_the_export_has_threat_size_and_both_accuracies(tmp_path):
    whole, _ = report(tmp_path)
    info = robustbench_info(whole)
    assert info["autoattack_acc"] == ""
    assert "was not measured: use --attack autoattack" in info["footnote"]
    assert info["external"] == f"{100 * whole.radii[-1].robust.value:.2f}"
    assert (info["clean_acc"], info["n"], info["norm"], info["unreliable"]) == ("83.33", 30, "Linf", True)
    with pytest.raises(UsageError, match="no radius"):
        robustbench_info(whole, eps=0.3)
    full = robustbench_info(under_autoattack(whole))
    assert full["autoattack_acc"] == full["external"] == "70.00"  # 25 right, 4 broken, of 30


def test_the_accuracy_of_autoattack_is_its_own_and_not_that_of_all_attacks(tmp_path):
    whole, _ = report(tmp_path)
    first = AttackResult(name="pgd", constants={}, attacked=25, broken=3, survivors=22)
    before = robustbench_info(under_autoattack(whole, [first]))
    assert (before["autoattack_acc"], before["external"]) == ("", "60.00")  # it never met the three
    full = under_autoattack(whole)
    *others, last = full.radii
    behind = AttackResult(name="pgd", constants={}, attacked=21, broken=6, survivors=15)
    last = last.model_copy(update={"attacks": (*last.attacks, behind), "robust": Proportion.measured(15, 30)})
    after = robustbench_info(full.model_copy(update={"radii": (*others, last)}))
    assert (after["autoattack_acc"], after["external"]) == ("70.00", "50.00")


@pytest.mark.parametrize(("member", "key"), CASES, ids=lambda part: part)
def test_one_constant_that_is_not_published_is_no_autoattack(member, key, whole_report):
    assert robustbench_info(under_autoattack(whole_report))["autoattack_acc"]
    assert robustbench_info(under_autoattack(whole_report, **{member: {key: OTHER[key]}}))["autoattack_acc"] == ""


def test_every_constant_of_autoattack_is_compared(whole_report):
    for name, member in MEMBERS.items():
        assert set(describe(member)) == {*PUBLISHED[name], *FREE, "eps", "norm"}
    changed = under_autoattack(whole_report, square={"draws": 20})
    assert robustbench_info(changed)["autoattack_acc"] == ""
    fewer = under_autoattack(whole_report)
    last = fewer.radii[-1]
    for missing in range(4):
        kept = tuple(attack for number, attack in enumerate(last.attacks) if number != missing)
        cut = fewer.model_copy(update={"radii": (last.model_copy(update={"attacks": kept}),)})
        assert robustbench_info(cut)["autoattack_acc"] == ""


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory):
    return report(tmp_path_factory.mktemp("audit"))[0]


def test_nothing_is_said_to_be_reliable_that_was_not_looked_at(whole_report):
    unreliable = lambda **changes: robustbench_info(whole_report.model_copy(update=changes))["unreliable"]  # noqa: E731
    good = Verdict(id="D1", title="t", level="pass", text="x")
    gone = Verdict(id="D6", title="t", level="not applicable", text="x", missing=True)
    broken = Flag(id="nothing_perturbed", level="fail", text="no attack changed a single image")
    assert unreliable(verdicts=()) is None
    assert unreliable(verdicts=(good,)) is False
    assert unreliable(verdicts=(good, gone)) is None
    assert unreliable(verdicts=(), flags=(broken,)) is True
    assert unreliable(verdicts=(good,), gradients=False) is None


def test_flags_and_missing_checks_are_drawn_on_the_page(whole_report):
    broken = Flag(id="nothing_broken", level="warn", text="no attack broke a single <image>")
    gone = Verdict(id="D6", title="radius sweep", level="not applicable", text="missing", missing=True)
    page = audit_page(whole_report.model_copy(update={"flags": (broken,), "verdicts": (gone,), "gradients": False}))
    assert "no attack broke a single &lt;image&gt;" in page
    assert "score attacks only: the target gives no gradients" in page
    assert "are missing: D6" in page
    assert "Read the warnings first: nothing_broken." in page


def test_the_page_shows_curve_verdicts_and_pictures_and_loads_nothing(tmp_path):
    whole, curve = report(tmp_path)
    shown = [(eps, panels([example], NAMES)[0]) for eps, example in curve.examples]
    page = audit_page(whole, shown)
    assert "Do not trust this number: D1 failed." in page
    assert "half &lt;are&gt; dead" in page
    assert page.count('<article class="picture">') == len(shown) > 0
    assert "<svg" in page
    for word in ('src="http', "href=", "<script"):
        assert word not in page
    quiet = replace_verdicts(whole, "pass")
    assert "No diagnostic raised an alarm." in audit_page(quiet)
    assert "Read the warnings first: D1." in audit_page(replace_verdicts(whole, "warn"))


def replace_verdicts(whole, level):
    return whole.model_copy(update={"verdicts": (whole.verdicts[0].model_copy(update={"level": level}), whole.verdicts[1])})


def test_threats_differ_in_the_radius_only(tmp_path):
    curve = run(tmp_path / "a")
    assert {replace(record.threat, eps=0) for record in curve.records} == {Threat(eps=0, resolution=4)}
