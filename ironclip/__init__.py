"""ironclip: adapt CLIP-like models from a few images, make them robust against adversarial images, prove what was reached."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ironclip")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
