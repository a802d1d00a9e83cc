"""The part of an evaluation that one process does: every n-th batch of its images. Pure.

A shard takes whole batches, because the last bits of logits depend on the other images of a batch. So merged shards equal the
undivided evaluation to the last byte.
"""

import re
from dataclasses import dataclass

from ironclip.core.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """The batches number, number + of, number + 2 of, ..., counted from 1."""

    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.of}"

    def rows(self, images: int, size: int) -> list[range]:
        """The rows of each of its batches, where so many images are scored in batches of this size."""
        starts = range((self.number - 1) * size, images, self.of * size)
        return [range(start, min(start + size, images)) for start in starts]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class Share:
    """Which shards one process does: one of them, or (number None) each that is neither finished nor held by others."""

    number: int | None
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Of "3/8" or "any/8"; UsageError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6}|any)/([0-9]{1,6})", text.strip())
        number = None if found is None or found[1] == "any" else int(found[1])
        of = 0 if found is None else int(found[2])
        if of < 1 or (number is not None and not 1 <= number <= of):
            raise UsageError(
                "--shard is k/n with k from 1 to n, such as 3/8, or any/8 for all that nobody does, and n at most 999,999; "
                f"got {text!r}"
            )
        return cls(number, of)

    def shards(self, batches: int, begun: int | None) -> tuple[Shard, ...]:
        """The shards to do of an evaluation of so many batches, of which `begun` shards are there already (None: none).

        Raises:
            UsageError: more shards than batches, or another number than was begun with.
        """
        if self.number is None:
            of = begun or min(self.of, batches)
            return tuple(Shard(number, of) for number in range(1, of + 1))
        if self.of > batches:
            are = "is 1 batch" if batches == 1 else f"are {batches} batches"
            raise UsageError(
                f"--shard {self.number}/{self.of}: a shard takes whole batches, and there {are} of images; take at most "
                f"{batches}, or a smaller --batch-size"
            )
        if begun not in (None, self.of):
            raise UsageError(
                f"--shard {self.number}/{self.of}: this evaluation was begun in {begun} shards; go on with k/{begun}, or remove "
                "its folder shards"
            )
        return (Shard(self.number, self.of),)
