"""Progress in Python: a tqdm bar in a terminal or a notebook, unless a callback is given."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Callback = Callable[[dict[str, Any]], None]


@contextmanager
def watched(label: str, callback: Callback | None) -> Iterator[Callback | None]:
    """The callback; a bar in place of None where there is somebody to see it, closed at the end."""
    if callback is not None or not seen():
        yield callback
        return
    bar = Bar(label)
    try:
        yield bar
    finally:
        bar.close()


def seen() -> bool:
    """Whether somebody may look: in a terminal, and in a notebook, whose kernel is no terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or "IPKernelApp" in getattr(shell, "config", {})


class Bar:
    """Events of training and of evaluation as one bar. TQDM_DISABLE=1 hides it, as everywhere."""

    def __init__(self, label: str, *, hidden: bool = False) -> None:
        self.label, self.hidden = label, hidden
        self.bar: Any = None
        self.what = ""

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("what", self.what) != self.what:  # the next part of an audit
            self.close()
            self.bar, self.what = None, event["what"]
        if event["event"] == "step":
            before = (event["epoch"] - 1) * event["steps"]
            terms = {name: f"{value:.3f}" for name, value in event["terms"].items()}
            self.move(before + event["step"], event["epochs"] * event["steps"], terms, start=before)
        elif event["event"] == "batch":
            found = {name: f"{event[name]:.1%}" for name in ("clean", "robust")}
            self.move(event["done"], event["total"], found)
        elif event["event"] == "check":
            self.count(event["done"], event["total"])

    def count(self, done: int, total: int) -> None:
        self.move(done, total, {})

    def move(self, done: int, total: int, numbers: dict[str, str], start: int = 0) -> None:
        if self.bar is None:
            look = {"disable": True} if self.hidden else {}  # else as TQDM_DISABLE says
            self.bar = _tqdm()(total=total, desc=f"{self.label} {self.what}".rstrip(), initial=start, **look)
        self.bar.set_postfix(numbers, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _tqdm() -> Any:
    """The bar of the notebook or of the terminal; without ipywidgets a notebook gets that of the terminal, unasked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm
