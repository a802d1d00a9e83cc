"""Members of a tar archive, read in place: a stranger's archive is listed, never unpacked."""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ironclip.core.errors import DataError
from ironclip.data.lists import path_of, shown
from ironclip.data.records import bounded

LONGEST_HEADER = 1_000_000
"""Bytes that are read at once while an archive is listed; a long name or its extended header takes a few hundred."""


@dataclass(frozen=True, slots=True)
class TarSource:
    """An image inside an archive, at this offset and of this length in bytes; named by the archive and its path there."""

    archive: Path
    name: str
    offset: int
    length: int

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.content(self.size())))

    def size(self) -> int:
        """Bytes of the image."""
        return bounded(self.length)

    def content(self, limit: int) -> bytes:
        """The first bytes of the image."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(min(limit, self.length))

    def stamp(self) -> str:
        try:
            status = self.archive.stat()
        except OSError:
            return "missing"
        return f"{self.offset}:{self.length}:{status.st_size}:{status.st_mtime_ns}"


def members(archive: Path) -> Iterator[tuple[str, int, int]]:
    """(path, offset, length) of each file in an archive that is not compressed, in its order.

    Raises:
        DataError: no such archive, cut off or damaged; a link, a device or a file with holes; a path that leads out.
    """
    if not archive.is_file():  # a pipe would be waited for
        raise DataError(f"cannot read the archive {archive}: it is no regular file")
    end = 0
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=_Headers(raw), mode="r:") as tar:  # type: ignore[call-overload]
            whole = os.fstat(raw.fileno()).st_size
            while (member := tar.next()) is not None:
                tar.members.clear()  # a set of a million images would stay in memory
                end = member.offset_data + max(0, member.size)
                if member.size < 0 or end > whole:
                    raise tarfile.ReadError("it is cut off")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{archive}: {shown(member.name)} is no plain file but a link, a device or a file with holes; "
                        "pack the images themselves"
                    )
                yield _safe(member.name, archive), member.offset_data, member.size
            start = raw.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"neither a header nor the end at byte {start}, so it is damaged or cut off")
    except tarfile.TarError as problem:
        raise DataError(f"{archive}: not a whole tar archive without compression ({problem}); copy it again") from None


def _safe(name: str, archive: Path) -> str:
    path = path_of(name, str(archive)).removeprefix("./")
    if path.startswith("/") or ".." in path.split("/"):
        raise DataError(f"{archive}: the path {shown(name)} leads out of the archive; pack it with paths below one folder")
    return path


class _Headers:
    """A file for `tarfile`, which reads a long name or an extended header in one piece, however long the archive says it is."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self.seek, self.tell, self.close, self._raw = raw.seek, raw.tell, raw.close, raw

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._raw.read(size)
