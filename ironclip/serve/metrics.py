"""What the service counts, for Prometheus."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
prometheus_client.disable_created_metrics()


class Metrics:
    """Thread-safe counters of one service; `text` is what a scraper reads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "ironclip_requests", "Requests answered, by path and status.", ("path", "status"), registry=registry
        )
        self.images = Counter("ironclip_images", "Images the model classified.", registry=registry)
        self.batches = Counter("ironclip_batches", "Calls of the model.", registry=registry)
        self.batch_seconds = Counter("ironclip_batch_seconds", "Seconds spent in calls of the model.", registry=registry)
        self.attacks = Counter("ironclip_attacks", "Attacks by how they ended.", ("ended",), registry=registry)
        self.accepted = Counter("ironclip_accepted_images", "Images taken into the queue.", registry=registry)
        self.answered = Counter("ironclip_answered_images", "Images taken into the queue that got an answer.", registry=registry)
        self.queue = Gauge("ironclip_queue_images", "Images that wait for the model.", registry=registry)
        self.seconds = Histogram(
            "ironclip_request_seconds", "Seconds from the arrival of a classification to its answer.",
            registry=registry, buckets=BUCKETS,
        )  # fmt: skip

    def value(self, name: str) -> int:
        """A counter without labels, by its full name."""
        return int(self.registry.get_sample_value(name) or 0)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)
