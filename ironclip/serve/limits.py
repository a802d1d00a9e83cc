"""The limits of the service, and its refusals."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ironclip.core.options import check_number, check_whole


class Refusal(Exception):
    """A refused request: the status and one line that says what was expected, what came and what to do."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        super().__init__(self.text)
        self.status, self.headers = status, dict(headers or {})


class Busy(Refusal):
    """The service is busy; try again later."""

    def __init__(self, text: str) -> None:
        super().__init__(503, text, {"Retry-After": "1"})


@dataclass(frozen=True)
class Limits:
    """Bounds of the service; whatever goes beyond is refused with one line.

    Args:
        max_bytes: of one request.
        max_pixels: of one image, checked in its header before memory is taken; twice as many in one request.
        max_images: in one request.
        max_queue: images that may wait for the model or be in it, and requests that may wait to be decoded.
        max_large: requests with more than 4 million pixels that may wait to be decoded, one at a time.
        max_bodies: bodies of `max_bytes` for which there is memory; smaller ones share it.
        max_connections: connections that may be open, with or without a request.
        pace_bytes, pace_seconds: so many further bytes of a body must come in every so many seconds; a header whole.
        decode_seconds: of one request, once a decoder has it.
        max_batch: images the model sees at once; 1: one by one.
        max_wait: seconds the first image of a batch waits for others.
        seconds: from the arrival of a request to its answer.
        max_attacks: attacks that may run (one at a time) or wait.
        attack_seconds, attack_steps: of one attack.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 25_000_000
    max_images: int = 64
    max_queue: int = 256
    max_large: int = 8
    max_bodies: int = 16
    max_connections: int = 512
    pace_bytes: int = 20_000
    pace_seconds: float = 5.0
    decode_seconds: float = 10.0
    max_batch: int = 32
    max_wait: float = 0.002
    seconds: float = 30.0
    max_attacks: int = 3
    attack_seconds: float = 60.0
    attack_steps: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                check_whole(field.name, value, 1)
            else:
                check_number(field.name, value, 0, 3600, above=field.name != "max_wait")

    @property
    def request_pixels(self) -> int:
        """Pixels of all images of one request together."""
        return 2 * self.max_pixels
