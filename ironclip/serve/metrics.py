"""Counters in the text format of Prometheus, written by hand: there are few of them."""

import threading
from collections import Counter

PREFIX = "ironclip_"
HELP = {
    "requests_total": ("counter", "Requests answered, by path and status."),
    "images_total": ("counter", "Images the model classified."),
    "batches_total": ("counter", "Calls of the model."),
    "batch_seconds_total": ("counter", "Seconds spent in calls of the model."),
    "attacks_total": ("counter", "Attacks by how they ended."),
    "accepted_images_total": ("counter", "Images taken into the queue."),
    "answered_images_total": ("counter", "Images taken into the queue that got an answer."),
    "queue_images": ("gauge", "Images that wait for the model."),
    "request_seconds": ("histogram", "Seconds from the arrival of a classification to its answer."),
}
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Thread-safe counters; `text` is what a scraper reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        with self._lock:
            self._values[name, _labels(labels)] += value  # type: ignore[assignment]

    def observe(self, name: str, seconds: float) -> None:
        """One more value of a histogram."""
        with self._lock:
            for bound in BUCKETS:
                self._values[f"{name}_bucket", _labels({"le": bound})] += seconds <= bound
            self._values[f"{name}_bucket", _labels({"le": "+Inf"})] += 1
            self._values[f"{name}_sum", ""] += seconds  # type: ignore[assignment]
            self._values[f"{name}_count", ""] += 1

    def get(self, name: str, **labels: object) -> float:
        with self._lock:
            return self._values[name, _labels(labels)]

    def text(self, **gauges: float) -> str:
        with self._lock:
            values = dict(self._values)
        values |= {(name, ""): value for name, value in gauges.items()}  # type: ignore[misc]
        lines = []
        for name, (kind, what) in HELP.items():
            family = (name, *(f"{name}_{part}" for part in ("bucket", "sum", "count"))) if kind == "histogram" else (name,)
            lines += [f"# HELP {PREFIX}{name} {what}", f"# TYPE {PREFIX}{name} {kind}"]
            lines += [f"{PREFIX}{key}{labels} {value:g}" for (key, labels), value in values.items() if key in family]
        return "\n".join(lines) + "\n"


def _labels(labels: dict[str, object]) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
