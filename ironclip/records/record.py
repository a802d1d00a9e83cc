"""The results of one evaluation: per image (`Sample`) and as a whole (`Record`). Imports no torch.

Accuracies are fractions. Robust accuracy is the share of all images that are right without an attack and under every attack
of the record: errors on clean images are failures.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ironclip.core.threat import Threat
from ironclip.records.bounds import mark, one_loss
from ironclip.records.looks import confidence
from ironclip.records.statistics import harmonic, wilson
from ironclip.records.usual import words

Quantise = Literal["none", "round", "floor"]


class Part(BaseModel):
    """A frozen piece of a record; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(Part):
    """The outcome of one image.

    Args:
        label: its class, from 0. index: position in the data set; keys the attack's randomness.
        clean: prediction without an attack.
        adversarial: prediction for the image of each attack that was run on this image.
        clean_margin: largest wrong logit minus the true one on the clean image; positive where misclassified.
        margin: the largest margin over all images scored, the clean one included.
        distance: largest norm of x' - x over the images scored; 0 if none was attacked.
        broken_by: "clean" if wrong without an attack, else the first attack that broke it, else None.
        steps: steps the breaking attack needed, where it tells.
        dead_gradient: the loss has an all-zero or non-finite gradient at the clean image; None: not looked at.
    """

    index: int
    label: int
    clean: int
    adversarial: dict[str, int] = {}
    clean_margin: float
    margin: float
    distance: float = 0.0
    broken_by: str | None = None
    steps: int | None = None
    dead_gradient: bool | None = None

    @property
    def right(self) -> bool:
        return self.clean == self.label

    @property
    def robust(self) -> bool:
        return self.broken_by is None


class Proportion(Part):
    """`count` of `of`, with the Wilson interval at 95 % (wider where several looks share these 95 %).

    Args:
        count: how many. of: of how many.
        value: the fraction. low: the lower end of its interval. high: the upper end.
    """

    count: int
    of: int
    value: float
    low: float
    high: float

    @classmethod
    def measured(cls, count: int, of: int, looks: int = 1) -> "Proportion":
        """With the interval at one of so many looks."""
        low, high = wilson(count, of, confidence(looks))
        return cls(count=count, of=of, value=count / of, low=low, high=high)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class BackboneFacts(Part):
    """The frozen model.

    Args:
        name: as it was asked for. sha256: of its weights.
    """

    name: str
    sha256: str = ""


class DataFacts(Part):
    """Which images were scored, and against which names.

    Args:
        name: of the data set. split: "test", "val" or "train".
        split_hash: of class names and lists; two equal hashes mean one benchmark.
        images_hash: of class names and the list of the measured split alone: the same where records are compared by image.
        classes: their names in the order of the logits.
        subset: which classes: "all", "base" or "new".
        suite: the list of data sets in which this one was measured.
        label_space: number of classes the classifier chooses from.
        available: images of the whole split, of which the record may cover fewer.
        preprocessing: identifier of resize, crop and colour conversion.
    """

    name: str
    split: str = "test"
    split_hash: str = ""
    images_hash: str = ""
    classes: tuple[str, ...] = ()
    subset: str = "all"
    label_space: int = 0
    suite: str = ""
    preprocessing: str = ""
    available: int = 0


class Cost(Part):
    """The cost of the defence; the same in every repetition.

    Args:
        trainable_parameters: how many parameters training changes. learned_bytes: bytes that a run stores.
        forward_passes, backward_passes: of the image tower for the answer to one image, counted on the first images of a
            test-time evaluation; 0: not counted.
    """

    trainable_parameters: int = 0
    learned_bytes: int = 0
    forward_passes: float = 0.0
    backward_passes: float = 0.0


class Timing(Part):
    """What a repetition may change; kept apart from the results.

    Args:
        train_seconds: of the whole training. evaluate_seconds: of the whole evaluation.
        peak_memory_bytes: the largest memory used.
        answer_seconds: for the answer to one image, without an attack; measured where passes are counted.
    """

    train_seconds: float = 0.0
    answer_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    peak_memory_bytes: int = 0


class AttackResult(Part):
    """One attack with all its constants.

    Args:
        name: as in `Sample.adversarial`; "pgd/surrogate1" was made on the first surrogate and scored on the classifier.
        constants: every option, and under "derived" what follows from them.
        attacked: images it was run on.
        broken: images right before any attack that this attack turns wrong (among those it was run on).
        survivors: images right under this and all earlier attacks.
    """

    name: str
    constants: dict[str, Any]
    attacked: int
    broken: int
    survivors: int


class ClassResult(Part):
    """How many images of one class are there, right, and robust.

    Args:
        name: of the class. images: how many there are. clean: right without an attack. robust: right under every attack, too.
    """

    name: str
    images: int
    clean: int
    robust: int


class Flag(Part):
    """A warning or a fact that the reader must know.

    Args:
        id: its short name. text: what it says.
        level: "fail": the number is not to be trusted; "warn": read it with care; "note": a fact.
    """

    id: str
    level: Literal["fail", "warn", "note"]
    text: str


class Looks(Part):
    """The rule that stops an evaluation: at the first look where the interval of robust accuracy is narrower than +- `points`.

    Args:
        points: half the width, in per cent.
        sizes: images at each look that can be needed: nested subsets, classes in proportion. All looks together hold at 95 %.
    """

    points: float
    sizes: tuple[int, ...]


class Setup(Part):
    """Everything known before the first image is attacked.

    Args:
        method: such as "nap" or "nap+advmask". options: all its options.
        backbone: the frozen model. data: the images and names. threat: what the attacker may do: norm, radius, knowledge.
        shots: training images per class. split_seed: draws them. seed: of the run, and in an audit of the attacks.
        training_attack: the inner attack of training with its constants. training_flags: such as "collapse".
        notes: what differs from what was asked for or is usual.
        quantise: how attacked images were rounded to 8 bits. precision: that of the search for them.
        stop_early: an image that one attack broke is not attacked by the next.
        config_hash: of the configuration. environment: versions and device. command: repeats this evaluation.
        cost: what the defence weighs.
        trained_on: name of the data set on which the defence was trained, where it is not the one that is scored.
        looks: the rule by which it is stopped early; None: all images are measured.
        learned_sha256: of the learned tensors (`learned.fingerprint`); "": nothing is learned, or not stated.
    """

    method: str
    options: dict[str, Any] = {}
    backbone: BackboneFacts
    data: DataFacts
    threat: Threat = Field(default_factory=Threat)
    shots: int | None = None
    split_seed: int | None = None
    seed: int | None = None
    trained_on: str = ""
    training_attack: dict[str, Any] | None = None
    training_flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quantise: Quantise = "none"
    precision: str = "float32"
    stop_early: bool = True
    config_hash: str = ""
    learned_sha256: str = ""
    looks: Looks | None = None
    cost: Cost = Cost()
    environment: dict[str, str] = {}
    command: str = ""


class Record(Setup):
    """One evaluation: the setup, the results, the flags.

    Args:
        format: version of this form. images: how many were scored.
        clean: right without an attack. robust: right without an attack and under every attack.
        attacks: each with all its constants. per_class: the same by class.
        samples_sha256: of the outcomes of all images. flags: what the reader must know.
        diagnostics: what was measured besides, such as distortion or targeted success. timing: what a repetition may change.
    """

    format: Literal[1] = 1
    images: int
    clean: Proportion
    robust: Proportion
    attacks: tuple[AttackResult, ...]
    per_class: tuple[ClassResult, ...] = ()
    samples_sha256: str
    flags: tuple[Flag, ...] = ()
    diagnostics: dict[str, Any] = {}
    timing: Timing = Timing()

    @property
    def harmonic(self) -> float:
        """H2: the harmonic mean of clean and robust accuracy."""
        return harmonic((self.clean.value, self.robust.value))

    @property
    def threat_words(self) -> str:
        """The threat model for captions; says where "adaptive" had no surrogate to attack."""
        return f"{self.threat}{'; no surrogate, so adaptive equals white-box here' if self.plainly_adaptive else ''}"

    @property
    def plainly_adaptive(self) -> bool:
        """Whether an adaptive threat was that of a white box: the defence names no surrogate."""
        return self.threat.knowledge == "adaptive" and not any("/" in attack.name for attack in self.attacks)

    @property
    def one_loss(self) -> bool:
        """Whether its attacks climb one loss alone: then its robust accuracy is an upper bound."""
        return self.threat.eps > 0 and one_loss(attack.constants for attack in self.attacks)

    @property
    def bound(self) -> str:
        """The mark before its robust accuracy: "≤ " for one loss alone, else nothing."""
        return mark(self.one_loss)

    def outcome(self) -> dict[str, Any]:
        """Everything but the times: equal for two repetitions of one evaluation, interrupted or not."""
        return self.model_dump(mode="json", exclude={"timing"})

    def __repr__(self) -> str:
        return f"Record({self.method} on {self.data.name}, {self.threat}, {self.images} images)"

    def __str__(self) -> str:
        names = ", ".join(words(attack.name, attack.constants) for attack in self.attacks) or "no attack"
        threat = f"{self.threat_words}; {names}; n={self.images}"
        method = f"{self.method} from {self.trained_on}" if self.trained_on else self.method
        split = "" if self.data.split == "test" else f" ({self.data.split} split)"
        return f"{method} on {self.data.name}{split}: clean {self.clean}, robust {self.bound}{self.robust} ({threat})"


def describe(attack: object) -> dict[str, Any]:
    """Any attack as JSON values: the name of its class or function, all its constants, and under "derived" what follows
    from them. For attacks of the catalogue this is what `attacks.describe` says."""
    if isinstance(attack, functools.partial):
        options = {key: _plain(value) for key, value in sorted(attack.keywords.items())}
        return {"attack": attack.func.__name__, **options, "derived": {}}
    name = getattr(attack, "__name__", type(attack).__name__.lower())
    fields = dataclasses.fields(attack) if dataclasses.is_dataclass(attack) else ()
    return {
        "attack": name,
        **{field.name: _plain(getattr(attack, field.name)) for field in fields},
        "derived": _plain(getattr(attack, "derived", {})),
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) or isinstance(value, functools.partial):
        return describe(value)
    return f"{value.__module__}:{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)


def digest(samples: Iterable[Sample]) -> str:
    """sha256 over all samples in the order of their indices."""
    lines = (sample.model_dump_json() for sample in sorted(samples, key=lambda sample: sample.index))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def canonical_hash(value: Any) -> str:
    """sha256 of JSON values, whatever the order of their keys.

    Raises:
        TypeError, ValueError: something JSON cannot hold, NaN included.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
