"""Test-time methods, one file per method. A file `<name>.py` that sets METHOD is the method `<name>`; nothing else to register.

A method adapts inside the call, from a fresh start for every image, on top of any base: zero-shot or a trained defence. On the
command line it is written last: `zero_shot+rtpt`, or `rtpt` alone for the same. How to add one:

- subclass `_base.TestTimeMethod`: keyword-only options, checked at construction, always `seed`; write
  `logits(base, images, keys)`;
- `base` is the `AdaptedClassifier` below: its backbone, classes, adaptation, head and text features are borrowed, never changed;
- draw every random number from `tensors.generator(key, ...)` with the image's own key, which is made of the seed and the image
  itself. So the result depends neither on the batch nor on the order, and no state is left behind;
- stay differentiable with respect to the images (detach what was tuned): an attack on the classifier is then the adaptive
  attack with a stopped gradient. What else an attacker would differentiate goes into `surrogates`, which already holds the mean
  over `draws` of the whole adaptation;
- `passes` says how many passes of the image tower an image costs; batches are split by it so that memory stays bounded;
- a method that tunes context words is a `_tuning.TestTimePromptTuning` and names its `_parts.Parts`: views, selection, objective,
  vote. Nothing concrete is overridden.
"""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironclip.core.errors import UsageError, unknown
from ironclip.core.options import check_sizes, declared, made_of

if TYPE_CHECKING:
    from ironclip.core.types import TestTime
    from ironclip.testtime._base import AdaptingClassifier as AdaptingClassifier
    from ironclip.testtime._base import TestTimeMethod as TestTimeMethod
    from ironclip.testtime._base import surrogate as surrogate
    from ironclip.testtime._relevance import attention_map as attention_map

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))

__all__ = ["DOMAINS", "NAMES", "build", "called", "method", "options", "worded"]

CODE = ("generator",)
"""Options that are functions; a caller may write one as "module:function", a file may not."""

_HOME = {"AdaptingClassifier": "_base", "TestTimeMethod": "_base", "surrogate": "_base", "attention_map": "_relevance"}

DOMAINS = {
    "caltech101": "object", "dtd": "texture", "fgvc_aircraft": "aircraft", "oxford_flowers": "flower", "ucf101": "action",
    "stanford_cars": "car", "eurosat": "satellite-map", "oxford_pets": "pet",
}  # fmt: skip
"""Data set -> word of A-TPT's released prompt "a {word} photo of a" [code: SEU-VIPGroup/A-TPT]; others keep "a photo of a"."""


def method(name: str) -> "type[TestTime]":
    """The class behind a method's name.

    Raises:
        UsageError: no such method; names the nearest one.
    """
    if name not in NAMES:
        raise unknown("test-time method", name, NAMES)
    return importlib.import_module(f"ironclip.testtime.{name}").METHOD


def options(name: str) -> dict[str, Any]:
    """Every option of a method with its default."""
    return declared(method(name))


def called(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the caller meant them: "module:function" is imported where an option is a function.

    Only for options that the user typed or passed, never for options from a file: importing runs code.

    Raises:
        UsageError: there is no such function.
    """
    return {key: _function(key, value) if key in CODE and isinstance(value, str) else value for key, value in given.items()}


def worded(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a record writes them: a function is its "module:name"."""
    return {
        key: f"{value.__module__}:{value.__qualname__}" if inspect.isroutine(value) else repr(value) if callable(value) else value
        for key, value in given.items()
    }


def _function(option: str, name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        raise UsageError(f"{option} is a function as module:function; cannot find {name!r}") from None


def build(name: str, given: Mapping[str, Any] | None = None, *, dataset: str = "") -> "TestTime":
    """The method `name` with these options.

    Args:
        dataset: name of the data set, for the option prompt="domain": the prompt with the word of `DOMAINS`.

    Raises:
        UsageError: unknown method or option, or values the method refuses.
    """
    known = options(name)
    for key in given or {}:
        if key not in known:
            raise unknown(f"option of {name}", key, known)
    options_given = dict(given or {})
    if options_given.get("prompt") == "domain":
        word = DOMAINS.get(dataset)
        options_given["prompt"] = f"a {word} photo of a" if word else None
    check_sizes(options_given, known)
    with made_of(name, options_given):
        return method(name)(**options_given)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ironclip.testtime.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
