"""Metadata never spoils an image, and what is no image is named as what it is."""

import io
import zlib

import pytest
from PIL import Image

from ironclip.data.images import BadPicture, decode
from ironclip.data.salvage import without_metadata


def chunk(name, body):
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


def with_png_chunk(path, name, body):
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk(name, body) + content[33:])


def with_jpeg_segment(path, marker, body):
    content = path.read_bytes()
    path.write_bytes(content[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + content[2:])


BIG = zlib.compress(bytes(3_000_000))
EXIF = b"Exif\0\0"
PNG_CHUNKS = {
    "text": (b"zTXt", b"Comment\0\0" + BIG),
    "international text": (b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + BIG),
    "profile": (b"iCCP", b"p\0\0" + BIG),
    "damaged profile": (b"iCCP", b"p\0\0damaged"),
    "Exif that is none": (b"eXIf", b"nonsense"),
    "time": (b"tIME", b"x"),
    "resolution": (b"pHYs", b"x"),
    "gamma": (b"gAMA", b"x"),
}


@pytest.mark.parametrize("kind", PNG_CHUNKS)
def test_metadata_of_a_png_never_spoils_its_pixels(tmp_path, paint, kind):
    path = paint(tmp_path / "a.png")
    expected = decode(path).tobytes()
    with_png_chunk(path, *PNG_CHUNKS[kind])
    assert decode(path).tobytes() == expected


def tiff_exif(tag, kind, count, value):
    """An Exif block with one field."""
    entry = tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little") + value
    return EXIF + b"II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0" + b"300 dpi!"


JPEG_SEGMENTS = {
    "resolution as text": (0xE1, tiff_exif(282, 2, 8, (26).to_bytes(4, "little"))),
    "orientation as text": (0xE1, tiff_exif(274, 2, 8, (26).to_bytes(4, "little"))),
    "orientation of nine": (0xE1, tiff_exif(274, 3, 1, b"\x09\0\0\0")),
    "a field outside": (0xE1, tiff_exif(282, 5, 1, b"\xff\xff\xff\x7f")),
    "cut Exif": (0xE1, EXIF + b"II*\0\x08\0\0\0\xff\xff"),
    "Exif that is none": (0xE1, EXIF + b"nonsense"),
    "empty Exif": (0xE1, EXIF),
    "profile of one part in none": (0xE2, b"ICC_PROFILE\0\x01\0nonsense"),
    "short profile": (0xE2, b"ICC_PROFILE\0"),
    "several images": (0xE2, b"MPF\0nonsense"),
    "Photoshop": (0xED, b"Photoshop 3.0\0" + b"8BIM\xff\xff"),
    "comment": (0xFE, bytes(1000)),
    "short resolution": (0xE0, b"JFIF\0"),
    "short Adobe mark": (0xEE, b"Adobe"),
}


@pytest.mark.parametrize("kind", JPEG_SEGMENTS)
def test_metadata_of_a_jpeg_never_spoils_its_pixels(tmp_path, paint, kind):
    path = paint(tmp_path / "a.jpg")
    expected = decode(path).tobytes()
    with_jpeg_segment(path, *JPEG_SEGMENTS[kind])
    assert decode(path).tobytes() == expected


def test_without_metadata_only_the_pixels_are_left(tmp_path, paint):
    for suffix, options in (("png", {}), ("jpg", {"quality": 90}), ("webp", {"lossless": True})):
        image = Image.open(paint(tmp_path / "plain.png"))
        exif = Image.Exif()
        exif[270] = "a description"
        path = tmp_path / f"a.{suffix}"
        image.save(path, exif=exif, icc_profile=b"profile" * 10, **options)
        bare = without_metadata(path.read_bytes())
        assert len(bare) < path.stat().st_size
        assert b"a description" not in bare
        again = Image.open(io.BytesIO(bare))
        assert again.convert("RGB").tobytes() == Image.open(path).convert("RGB").tobytes()
        assert "icc_profile" not in again.info
        assert without_metadata(bare) is None
    assert without_metadata(b"GIF89a") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer, not the image itself"),
        (b"<!DOCTYPE html><html>404</html>", "an HTML page, not an image"),
        (b"\n  <html>\n", "an HTML page"),
        (b"<svg xmlns='x'/>", "an XML or SVG file"),
        (b"%PDF-1.7", "a PDF; save it as PNG or JPEG"),
        (b"PK\x03\x04....", "an archive"),
        (b"\xff\x0a....", "a JPEG XL image"),
        (b"\0\0\0\x18ftypmp42....", "a video"),
        (b"../.git/annex/objects/Xk/0p/MD5E-s3--0.png", "a git-annex pointer, not the image itself"),
        (b'{"error": "rate limited"}', 'not an image but text that starts \'{"error": "rate limited"}\'; fetch it again'),
        (b"../../pictures/fox.png\n", "not an image but text that starts '../../pictures/fox.png'"),
        (b"iVBORw0KGgo" + b"A" * 600, "not an image but text that starts 'iVBORw0KGgo"),
        (bytes(600), "not an image, or of an unknown format"),
    ],
)
def test_what_a_file_is_instead_of_a_picture_is_named(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadPicture) as problem:
        decode(tmp_path / "a.jpg")
    assert problem.value.reason.startswith(reason)


def test_heic_under_another_name_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("ironclip.data.kinds.has_heif", lambda: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic....")
    with pytest.raises(BadPicture, match=r'a HEIC image, whatever its name says; .* pip install "ironclip\[heif\]"'):
        decode(tmp_path / "a.jpg")
