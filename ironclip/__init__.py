"""ironclip: adapt CLIP-like models from a few images, make them robust against adversarial images, prove what was reached."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ironclip.core.version import __version__ as __version__

if TYPE_CHECKING:
    from ironclip.api import Audit as Audit
    from ironclip.api import Data as Data
    from ironclip.api import Model as Model
    from ironclip.api import Result as Result
    from ironclip.api import VisionLanguageClassifier as VisionLanguageClassifier
    from ironclip.api import dataset as dataset
    from ironclip.api import evaluate as evaluate
    from ironclip.api import fit as fit
    from ironclip.api import load as load
    from ironclip.api import load_classifier as load_classifier
    from ironclip.api import run_audit as run_audit
    from ironclip.api import test_time as test_time
    from ironclip.api import zero_shot as zero_shot

_MAKERS = ("dataset", "evaluate", "fit", "load", "load_classifier", "run_audit", "test_time", "zero_shot")
_API = ("Audit", "Data", "Model", "Result", "VisionLanguageClassifier", *_MAKERS)
"""Loaded on first use, so that `import ironclip` costs nothing and `ironclip --help` imports no torch."""


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("ironclip.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
