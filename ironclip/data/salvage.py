"""The same image without its metadata, for files with metadata that no decoder accepts.

Text, profiles and camera data are left out of PNG, JPEG and WebP files; what the pixels need stays (palette, transparency,
Adobe's mark of the colour transform). Pure: bytes to bytes.
"""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_APP0, _APP14, _APP15, _COMMENT, _SCAN, _END = 0xE0, 0xEE, 0xEF, 0xFE, 0xDA, 0xD9
_ADOBE = 14
"""Bytes of a whole Adobe mark with its length field; a shorter one says nothing of the colours."""


def without_metadata(content: bytes) -> bytes | None:
    """The file with its pixels alone; None where that is no other file."""
    if content.startswith(_PNG):
        bare = _png(content)
    elif content.startswith(b"\xff\xd8"):
        bare = _jpeg(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        bare = _webp(content)
    else:
        return None
    return None if bare == content else bare


def _png(content: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        size = 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] in _PNG_KEPT:
            kept.append(content[at : at + size])
        at += size
    return b"".join(kept)


def _jpeg(content: bytes) -> bytes:
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in (_SCAN, _END):
            break
        size = 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        describes = marker == _COMMENT or (_APP0 <= marker <= _APP15 and (marker != _APP14 or size < 2 + _ADOBE))
        if not describes:
            kept.append(content[at : at + size])
        at += size
    return b"".join([*kept, content[at:]])


def _webp(content: bytes) -> bytes:
    kept, at = [], 12
    while at + 8 <= len(content):
        size = 8 + int.from_bytes(content[at + 4 : at + 8], "little")
        name, chunk = content[at : at + 4], content[at : at + size + size % 2]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]  # no profile, Exif or XMP follows
        if name not in (b"ICCP", b"EXIF", b"XMP "):
            kept.append(chunk)
        at += size + size % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
