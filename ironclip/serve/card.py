"""The model card: written from the records alone; no number in it is typed by hand."""

import json
from collections.abc import Sequence

from ironclip.backbones.registry import ROBUST, license_of
from ironclip.core.escapes import code, markdown
from ironclip.core.shown import number_of, plain
from ironclip.records.record import Record
from ironclip.report.formats.markdown import markdown as table
from ironclip.report.tables import rows
from ironclip.report.words import limits
from ironclip.serve.facts import Facts, Training, names

OTHER_NORMS = {
    "linf": "Only changes bounded for every pixel (l-infinity) were measured, no l2, l1 or l0 ones.",
    "l2": "Only changes bounded in Euclidean length (l2) were measured, no l-infinity, l1 or l0 ones.",
    "l1": "Only changes bounded in their sum over all pixels (l1) were measured, no l-infinity, l2 or l0 ones.",
    "patch": "Only a patch in one place was measured, no small change of the whole image.",
    "text": "Only words painted on the image were measured, no small change of the whole image.",
}
ADAPTIVE = ("An attacker who knows the defence.", "No adaptive attack on its surrogates was run.")


def hub_of(backbone: str) -> str:
    """The hub repository of a backbone's weights; "" where they have none: embedded, in a local file, or at another address."""
    if backbone.startswith("hf-hub:"):
        return backbone.removeprefix("hf-hub:")
    known = ROBUST.get(backbone)
    if known is not None and known.hub:
        return known.hub
    from open_clip.pretrained import get_pretrained_cfg

    architecture, _, tag = (known.base if known is not None else backbone).partition("/")
    found = get_pretrained_cfg(architecture, tag) if tag else {}
    return str(found.get("hf_hub") or "").rpartition("/")[0]


def card(facts: Facts, records: Sequence[Record], name: str) -> str:
    """The card in Markdown, with the hub's head.

    Args:
        name: hub id or folder under which it can be loaded.
    """
    backbone, licence, load = facts.backbone.name, license_of(facts.backbone.name), f"load_classifier({json.dumps(name)})"
    parts = [
        _head(facts),
        f"# {markdown(name.rpartition('/')[2])}\n",
        f"{markdown(facts.method)} on the frozen backbone {markdown(backbone)}, a classifier of "
        f"{facts.resolution} x {facts.resolution} images into {len(facts.classes)} classes: "
        f"{markdown(names(facts.classes, 20))}.\n",
        "## Use\n",
        f'```python\nimport ironclip\n\nmodel = ironclip.{load}\nprint(model.classify("picture.jpg"))\n```\n',
        "Only learned tensors are stored here. They fit the frozen weights "
        f"{code(backbone)} (sha256 {code(facts.backbone.sha256 or 'not known')}) and are refused on any others.\n",
        "## Training\n",
        _training(facts.training),
        "## What was measured\n",
        _measured(records),
        "## What it was not tested against\n",
        "\n".join(f"- **{markdown(what)}** {markdown(text)}" for what, text in not_tested(records)) + "\n",
        "## Verify\n",
        _verify(facts, name),
        "## Licence\n",
        f"Weights of the backbone: {markdown(licence)}. The learned tensors fall under whatever the training "
        "images allow; the person who publishes them states that.\n",
    ]
    return "\n".join(parts)


def not_tested(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What no record covers: a few words, and a sentence."""
    if not records:
        return [("Anything.", "No evaluation was recorded before this was saved, so nothing is known about its robustness.")]
    found = limits(records)
    if not any(record.threat.knowledge == "adaptive" for record in records):
        found.append(ADAPTIVE)
    ran = {attack.name.split("/")[0] for record in records for attack in record.attacks}
    missing = [member for member in ("apgd-ce", "apgd-t", "fab-t", "square") if member not in ran]
    if missing:
        found.append(("AutoAttack as a whole.", f"Not run: {', '.join(missing)}."))
    norms = {record.threat.norm for record in records}
    if len(norms) == 1:
        found.append(("Other norms.", OTHER_NORMS[norms.pop()]))
    return found


def _head(facts: Facts) -> str:
    """The hub's YAML; strings as JSON, which is YAML."""
    tags = ["ironclip", "adversarial-robustness", "clip", *facts.method.split("+")]
    lines = ["library_name: ironclip", "pipeline_tag: image-classification", f"tags: {json.dumps(tags)}"]
    if hub := hub_of(facts.backbone.name):
        lines += [f"base_model: {json.dumps(hub)}", "base_model_relation: adapter"]
    return "\n".join(["---", *lines, "---", ""])


def _training(training: Training | None) -> str:
    if training is None:
        return "Nothing was learned: zero-shot classification by prompts.\n"
    shots = "all training images" if training.shots is None else f"{number_of(training.shots, 'image')} a class"
    constants = {
        key: value for key, value in training.attack.items() if key not in ("attack", "derived", "eps") and value is not None
    }
    shown = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in constants.items()]
    attack = f"{training.attack.get('attack')} at eps {training.eps} ({', '.join(shown)})"
    return (
        f"- data: {markdown(training.data)}, {shots} (drawn with seed {training.split_seed})\n"
        f"- adversarial examples: {markdown(attack)}\n"
        f"- seed {training.seed}; {training.parameters:,} learned numbers\n"
    )


def _measured(records: Sequence[Record]) -> str:
    if not records:
        return "Nothing yet.\n"
    threats = dict.fromkeys(record.threat_words for record in records)
    flags = dict.fromkeys(f"- {flag.level}: {markdown(flag.text)}" for record in records for flag in record.flags)
    return "\n".join([f"Threat model: {markdown('; '.join(threats))}.\n", table(rows(records)), *flags, ""])


def _verify(facts: Facts, name: str) -> str:
    commands = list(dict.fromkeys(measured.command for measured in facts.measured if measured.command))
    lines = [
        "On the images above, or on your own with the same class names:\n",
        f"```python\nimport ironclip\n\nmodel = ironclip.load_classifier({json.dumps(name)})",
        'print(ironclip.evaluate(model, data="path/to/images", attack="apgd", eps="4/255").table())\n```\n',
    ]
    if commands:
        lines += ["The records were made, where the run lies, with:\n", "```bash", *map(plain, commands), "```\n"]
    return "\n".join(lines)
