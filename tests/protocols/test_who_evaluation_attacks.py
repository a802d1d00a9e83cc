"""Which classifier an attack of an evaluation is handed, for every word of docs/threat-models.md and every verb that attacks.

PGD's function is replaced by a recorder: it writes down the logits of what it is handed, and returns the images as they are.
The expected logits are put together here from backbone, adaptation and test-time method, without the rooms under test.
"""

import threading
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from ironclip import testtime
from ironclip.api import Model
from ironclip.api import evaluate as evaluate_model
from ironclip.attacks import PGD, Adaptive, build, default
from ironclip.backbones import assemble
from ironclip.backbones.loading import load
from ironclip.core.errors import UsageError
from ironclip.core.threat import Threat
from ironclip.core.types import Adaptation
from ironclip.data import EvalSet
from ironclip.grid.plan import plan
from ironclip.grid.work import run_cell
from ironclip.loops.evaluation import evaluate as evaluate_classifier
from ironclip.protocols.adversarial_images import write_adversarial
from ironclip.protocols.audit import audit
from ironclip.protocols.audit_target import open_target
from ironclip.protocols.experiment import open_experiment, with_test_time
from ironclip.protocols.few_shot import open_run
from ironclip.protocols.measure import evaluate_run
from ironclip.protocols.resolve import resolve
from ironclip.records.folder import RunFolder
from ironclip.records.learned import Learned
from ironclip.serve import attacking
from ironclip.serve.export import export
from ironclip.serve.exported import open_exported
from ironclip.serve.limits import Limits
from ironclip.serve.model import DEFENDED, UNDEFENDED, of_experiment

EPS, LIMIT, FAR = 4 / 255, 5, 0.2
ADAPTS = {"rtpt": {"views": 2}, "ttc": {"steps": 1}}
KNOWN = ("white-box", "adaptive", "static", "black-box")
FOREIGN = """
import torch
from ironclip.backbones import assemble
from ironclip.backbones.loading import load
from ironclip.core.types import Adaptation

def scaled(model, scale):
    class Scaled(torch.nn.Module):
        resolution = 64

        def forward(self, images):
            return scale * model(images)

    return Scaled()

def make(classes):
    plain = assemble(load("mini"), classes)
    target = scaled(plain, 0.5)
    target.surrogates = (scaled(plain, 0.3), scaled(plain, 0.2))
    target.base = scaled(plain, 0.1)
    return target

def alone(classes):
    return scaled(assemble(load("mini"), classes), 0.5)
"""


@pytest.fixture(scope="module")
def mini():
    return load("mini")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def seen(monkeypatch):
    """What PGD is handed from now on: a list of (images, logits)."""
    calls = []

    def recorder(self, function, images, labels, positions, **options):
        with torch.no_grad():
            calls.append((images.clone(), function(images).float()))
        return images.clone()

    monkeypatch.setattr(PGD, "perturb", recorder)
    monkeypatch.setattr(PGD, "gradients", False)  # the recorder asks for none
    return calls


def experiment_of(method, backbone, above=None):
    """A defence whose learned tensors lie far from their start, on images of `shapes`."""
    made = open_experiment(resolve(method, "shapes", given={"shots": 1}), backbone=backbone)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.defense.parameters():
            size = float(parameter.abs().mean())
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw) * (size or 0.2)
    return with_test_time(made, above, ADAPTS[above]) if above else made


def saved(experiment, folder):
    """Its run, as a training leaves it."""
    run = RunFolder.create(experiment.config.as_dict(), out=folder)
    with run.lock():
        run.save_environment("cpu")
        config, base = experiment.config, experiment.backbone.spec.sha256
        learned = experiment.defense.learned()
        run.save_learned(Learned(learned, base, config.method, dict(config.options), experiment.dataset.classes))
    experiment.defense.load_learned(learned)
    return run


def defended(experiment):
    classes = experiment.dataset.classes
    with torch.no_grad():
        return assemble(experiment.backbone, classes, experiment.defense.adaptation(experiment.backbone, classes))


def undefended(experiment):
    with torch.no_grad():
        return assemble(experiment.backbone, experiment.dataset.classes, Adaptation(templates=experiment.dataset.templates))


def named_in_the_docs(experiment, knowledge, above=None):
    """The classifiers that docs/threat-models.md names for this word, in their order."""
    base = top = defended(experiment)
    if above is None:
        others, instead = (), undefended(experiment)
    else:
        method = testtime.build(above, ADAPTS[above], dataset="shapes")
        method.prepare(base, experiment.source_batches())
        top = method(base)
        if above == "rtpt":  # it stands on words that it can tune, in place of the hand-written prompts
            words = replace(base.adaptation, templates=("a photo of a {}.",))
            base = assemble(experiment.backbone, experiment.dataset.classes, words)
        others, instead = (*method.surrogates(top), base), base
    adaptive = [top, *others, *experiment.defense.surrogates(base)]
    return {"white-box": [top], "black-box": [top], "static": [instead], "adaptive": adaptive}[knowledge]


def check(seen, expected):
    """Every recorded call gave the logits of the classifier that was expected there."""
    assert len(seen) == len(expected)
    for (images, logits), classifier in zip(seen, expected, strict=True):
        with torch.no_grad():
            assert_close(logits, classifier(images).float(), atol=2e-3, rtol=1e-3)


def pgd():
    return {"pgd": build("pgd", eps=EPS)}


@pytest.mark.parametrize(
    ("method", "knowledge"),
    [*product(("zero_shot", "advmask+apt"), KNOWN), ("advmask", "static"), ("advmask", "adaptive"), ("defeat", "adaptive")],
)
def test_a_run_is_attacked_as_its_threat_says(mini, seen, tmp_path, method, knowledge):
    experiment = experiment_of(method, mini)
    run = saved(experiment, tmp_path / "run")
    evaluate_run(run, experiment, pgd(), eps=EPS, knowledge=knowledge, limit=LIMIT)
    check(seen, named_in_the_docs(experiment, knowledge))
    if method != "zero_shot":
        images = seen[0][0]
        with torch.no_grad():
            gap = (defended(experiment)(images) - undefended(experiment)(images)).abs().amax(1)
        assert gap.min() > FAR  # else the line above could not fail


@pytest.mark.parametrize(("above", "knowledge"), [*product(["rtpt"], KNOWN), ("ttc", "white-box"), ("ttc", "adaptive")])
def test_a_test_time_method_is_attacked_as_its_threat_says(mini, seen, tmp_path, above, knowledge):
    experiment = experiment_of("advmask", mini, above)
    run = saved(experiment_of("advmask", mini), tmp_path / "run")
    experiment.defense.load_learned(run.load_learned(mini.spec.sha256).tensors)
    evaluate_run(run, experiment, pgd(), eps=EPS, knowledge=knowledge, limit=LIMIT)
    check(seen, named_in_the_docs(experiment, knowledge, above))
    images = seen[0][0]
    top, base, plain = named_in_the_docs(experiment, "white-box", above)[0], defended(experiment), undefended(experiment)
    with torch.no_grad():
        assert (top(images) - base(images)).abs().max() > 0.01
        assert (base(images) - plain(images)).abs().max() > FAR


def test_a_black_box_gives_scores_and_no_gradient(mini, monkeypatch, tmp_path):
    def asking(self, function, images, labels, positions, **options):
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]

    monkeypatch.setattr(PGD, "perturb", asking)
    monkeypatch.setattr(PGD, "gradients", False)  # it says that it asks for none, and does
    experiment = experiment_of("advmask", mini)
    with pytest.raises(UsageError, match="needs gradients, but the threat is black-box"):
        evaluate_run(saved(experiment, tmp_path / "run"), experiment, pgd(), eps=EPS, knowledge="black-box", limit=LIMIT)


def test_transfer_pictures_are_made_on_the_other_classifier_alone_and_scored_by_the_defended_one(mini, seen):
    experiment, other = experiment_of("apt", mini), assemble(load("mini-robust"), mini_classes())
    batches = [EvalSet(experiment.dataset, "test", resolution=64, limit=LIMIT).batch(slice(None))]
    classifier = defended(experiment)
    found = evaluate_classifier(classifier, pgd(), batches, Threat(eps=EPS, knowledge="transfer"), surrogates=[other])
    check(seen, [other])
    with torch.no_grad():
        answers = classifier(batches[0].images).argmax(1).tolist()
    assert [sample.clean for sample in found.samples] == answers
    with pytest.raises(UsageError, match="made on another classifier"):
        evaluate_classifier(classifier, pgd(), batches, Threat(eps=EPS, knowledge="transfer"))


def test_a_run_under_transfer_meets_pictures_of_the_source_that_was_named(mini, seen, tmp_path):
    experiment = experiment_of("apt", mini)
    run = saved(experiment, tmp_path / "run")
    evaluate_run(run, experiment, pgd(), eps=EPS, knowledge="transfer", source="mini-robust", limit=LIMIT)
    templates = Adaptation(templates=experiment.dataset.templates)
    check(seen, [assemble(load("mini-robust"), experiment.dataset.classes, templates)])


def test_the_transfer_attack_uses_the_names_of_the_classifier_and_nothing_else_of_it(mini, seen):
    experiment = experiment_of("apt", mini)
    batch = EvalSet(experiment.dataset, "test", resolution=64, limit=LIMIT).batch(slice(None))
    attack = build("transfer", eps=EPS, source="mini-robust", inner="pgd")
    attack(defended(experiment), batch.images, batch.labels)
    check(seen, [assemble(load("mini-robust"), mini_classes())])


def mini_classes():
    return open_experiment(resolve("zero_shot", "shapes", given={})).dataset.classes


@pytest.mark.parametrize("method", ["zero_shot", "advmask"])
def test_an_audit_of_a_run_attacks_it_and_all_its_surrogates(mini, seen, tmp_path, method):
    experiment = experiment_of(method, mini)
    run = saved(experiment, tmp_path / "run")
    target = open_target(str(run.path), None)
    report, _, _ = audit(target, (EPS,), names=("pgd",), diagnostics=0, limit=LIMIT, out=tmp_path / "audit")
    check(seen, named_in_the_docs(experiment, "adaptive"))
    assert report.record.threat.knowledge == ("white-box" if method == "zero_shot" else "adaptive")


def test_an_audit_of_a_test_time_method_attacks_it_its_surrogates_and_what_is_below(mini, seen, tmp_path):
    experiment = experiment_of("advmask", mini, "rtpt")
    run = RunFolder.create(experiment.config.as_dict(), out=tmp_path / "run")
    below = saved(experiment_of("advmask", mini), tmp_path / "below").load_learned(mini.spec.sha256)
    with run.lock():
        run.save_learned(replace(below, method="advmask+rtpt", options=dict(experiment.config.options)))
    experiment.defense.load_learned(below.tensors)
    audit(open_target(str(run.path), None), (EPS,), names=("pgd",), diagnostics=0, limit=LIMIT, out=tmp_path / "audit")
    check(seen, named_in_the_docs(experiment, "adaptive", "rtpt"))


@pytest.mark.parametrize(("name", "scales"), [("make", (0.5, 0.3, 0.2)), ("alone", (0.5,))])
def test_an_audit_of_somebody_elses_classifier_attacks_that_and_the_surrogates_it_names(mini, seen, tmp_path, name, scales):
    file = tmp_path / "theirs.py"
    file.write_text(FOREIGN)
    target = open_target(f"{file}:{name}", "shapes")
    report, _, _ = audit(target, (EPS,), names=("pgd",), diagnostics=0, limit=LIMIT, out=tmp_path / "audit")
    plain = assemble(mini, target.dataset.classes)
    check(seen, [lambda images, scale=scale: scale * plain(images) for scale in scales])
    assert report.record.threat.knowledge == ("adaptive" if len(scales) > 1 else "white-box")


def test_adversarial_pictures_are_made_on_the_defended_model(mini, seen, tmp_path):
    experiment = experiment_of("advmask", mini)
    write_adversarial(experiment, build("pgd", eps=EPS), Threat(eps=EPS), tmp_path / "adv", limit=LIMIT)
    check(seen, [defended(experiment)])


@pytest.mark.parametrize("knowledge", ["white-box", "adaptive", "static"])
def test_the_facade_attacks_what_it_is_told(mini, seen, tmp_path, knowledge):
    experiment = experiment_of("advmask", mini)
    model = Model(experiment, saved(experiment, tmp_path / "run"))
    evaluate_model(model, attack="pgd", knowledge=knowledge, limit=LIMIT, root=tmp_path)
    check(seen, named_in_the_docs(experiment, knowledge))


def test_the_facade_attacks_a_test_time_method_both_ways_by_itself(mini, seen, tmp_path):
    run = saved(experiment_of("advmask", mini), tmp_path / "run")
    experiment = experiment_of("advmask", mini, "rtpt")
    experiment.defense.load_learned(run.load_learned(mini.spec.sha256).tensors)
    evaluate_model(Model(experiment, run), attack="pgd", limit=LIMIT, root=tmp_path)
    check(seen, [*named_in_the_docs(experiment, "static", "rtpt"), *named_in_the_docs(experiment, "adaptive", "rtpt")])


GRID = """
name: who
defaults:
  {backbone: mini, dataset: shapes, eps: 4/255, augment: none,
   set: {epochs: 1, lr: 5, warmup_epochs: 0, length: 2}}
runs:
  - {method: apt, shots: 1, seed: 1}
evaluate:
  - {attacks: [pgd], eps: [4/255], limit: 5}
  - {attacks: [pgd], eps: [4/255], limit: 5, knowledge: static}
  - {attacks: [pgd], eps: [4/255], limit: 5, knowledge: adaptive, test_time: rtpt, set: {rtpt.views: 2}}
"""


def test_the_cells_of_a_grid_attack_what_their_measures_say(mini, seen, tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    (cell,) = plan(file).cells
    run = run_cell(cell, tmp_path / "out")
    experiment = open_run(run.path)[1]
    expected = [*named_in_the_docs(experiment, "white-box"), *named_in_the_docs(experiment, "static")]
    check(seen[1:], [*expected, *named_in_the_docs(experiment, "adaptive", "rtpt")])  # the first is that of the training


@pytest.mark.parametrize("name", [DEFENDED, UNDEFENDED])
def test_the_service_attacks_the_model_that_was_asked_for(mini, seen, name):
    experiment = experiment_of("advmask", mini)
    served = of_experiment(experiment)
    wanted = attacking.order(served, attack="pgd", eps="4/255", kind="linf", steps=2, target=name, label=None, seed=0)
    image = EvalSet(experiment.dataset, "test", resolution=64, limit=LIMIT).batch(slice(None)).images[0]
    ended = attacking.run(served.twin, image, wanted, Limits(), threading.Event(), lambda event: None)
    assert ended.how == "done", ended.last
    check(seen, [defended(experiment) if name == DEFENDED else undefended(experiment)])


def test_an_exported_file_is_a_black_box_with_the_answers_of_the_defence(mini, seen, tmp_path):
    experiment = experiment_of("apt", mini)
    export(experiment, tmp_path / "model.pt2")
    opened = open_exported(tmp_path / "model.pt2", trust=True)
    batches = [EvalSet(experiment.dataset, "test", resolution=64, limit=LIMIT).batch(slice(None))]
    evaluate_classifier(opened, pgd(), batches, Threat(eps=EPS, knowledge="black-box"))
    evaluate_classifier(opened, pgd(), batches, Threat(eps=EPS, knowledge="transfer"), surrogates=[undefended(experiment)])
    check(seen, [defended(experiment), undefended(experiment)])


@pytest.mark.parametrize(("knowledge", "judge"), [("adaptive", "top"), ("static", None)])
def test_an_attack_that_judges_asks_the_defended_classifier_if_the_threat_knows_it(mini, tmp_path, monkeypatch, knowledge, judge):
    seen = []

    def watched(self, function, images, labels, positions):
        seen.append((function, getattr(function, "judge", None)))
        return images

    monkeypatch.setattr(Adaptive, "perturb", watched)
    experiment = experiment_of("zero_shot", mini, "ttc")
    run = saved(experiment_of("zero_shot", mini), tmp_path / "run")
    record, _ = evaluate_run(run, experiment, {"adaptive": Adaptive(eps=EPS, steps=3)}, eps=EPS, knowledge=knowledge, limit=LIMIT)
    top = experiment.classifier
    judges = [asked for function, asked in seen if asked is not None]
    assert len(judges) == (len(seen) - 1 if judge else 0)
    assert all(type(asked) is type(top) for asked in judges)
    budget = {attack.name: attack.constants["derived"] for attack in record.attacks}
    names = ("", "/noise", "/gate", "/draws", "/base") if judge else ("/base",)
    assert set(budget) == {f"adaptive{name}" for name in names}
    assert budget["adaptive/base"]["backward_passes_at_most"] == 3 * 3


def test_nobody_names_an_attack():
    assert [default(known, test_time=above) for known, above in product(("adaptive", "static"), (True, False))] == [
        "adaptive", "standard-fast", "standard-fast", "standard-fast",
    ]  # fmt: skip
