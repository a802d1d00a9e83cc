"""More than a hundred inputs that nobody should send: one line each, no traceback, nothing written, and the service goes on."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serve.conftest import png

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient

from ironclip.serve.app import create_app
from ironclip.serve.limits import Limits

MARK = "boundary7"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG header that promises this many pixels, and a few kilobytes that unfold to `rows` rows."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((width // 8 + 1) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 24), **options) -> bytes:
    stream = io.BytesIO()
    drawn = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(drawn).convert(mode).save(stream, format=kind, **options)
    return stream.getvalue()


def tiff_of_floats(value: float) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, dtype=np.float32)).save(stream, format="TIFF")
    return stream.getvalue()


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../etc/passwd", data)
    return stream.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>alert(1)</script></svg>'
WHOLE = {kind: saved(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
FILES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x89",
    "zeros": bytes(5000),
    "text": b"this is no image\n" * 50,
    "html": b"<html><script>alert(1)</script></html>",
    "svg": SVG,
    "svgz": gzip.compress(SVG),
    "zip": zipped(png()),
    "zip bomb": zipped(bytes(3_000_000)),
    "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch /tmp/x) (w) file\nshowpage\n",
    "elf": b"\x7fELF" + bytes(200),
    "pickle": b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}" + bytes(16),
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "pcx": saved("PCX"),
    "ico": saved("ICO"),
    "json": json.dumps({"images": "x" * 1000}).encode(),
    "png bomb 20000": bomb(20_000, 20_000, rows=20_000),
    "png bomb without data": bomb(20_000, 20_000),
    "png of 2^31 pixels a side": bomb(2**31 - 1, 2**31 - 1),
    "png of no width": bomb(0, 10),
    "png strip": bomb(1, 30_000_000),
    "png promising rows": bomb(5000, 4000, rows=1),
    "png header alone": png()[:33],
    "png with a wrong checksum": png()[:40] + bytes([png()[40] ^ 255]) + png()[41:],
    "png with a giant chunk": png()[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + bytes(40),
    "png text bomb": png()[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(90_000_000), 9)) + png()[33:],
    "bmp bomb": WHOLE["BMP"][:18] + struct.pack("<ii", 20_000, 20_000) + WHOLE["BMP"][26:],
    "bmp of negative width": WHOLE["BMP"][:18] + struct.pack("<ii", -5, 5) + WHOLE["BMP"][26:],
    "gif bomb": WHOLE["GIF"][:6] + struct.pack("<HH", 65535, 65535) + WHOLE["GIF"][10:],
    "jpeg soi alone": b"\xff\xd8\xff",
    "jpeg markers alone": b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1000,
    "tiff loop": b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 8) + struct.pack("<I", 8),
    "tiff of NaN": tiff_of_floats(float("nan")),
    "tiff of infinity": tiff_of_floats(float("inf")),
    "tiff of floats": tiff_of_floats(0.5),
    "webp riff alone": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(30),
    "avif brand": b"\x00\x00\x00\x20ftypavif" + bytes(64),
    **{f"{kind} cut at {part}": data[: len(data) * part // 100] for kind, data in WHOLE.items() for part in (5, 30, 60, 90)},
    **{
        f"{kind} after {seed}": bytes(np.random.default_rng(seed).integers(0, 256, 300, dtype=np.uint8))
        for kind in ("noise",)
        for seed in range(12)
    },
}  # fmt: skip
FINE = ("GIF cut at 90", "TIFF cut at 90", "TIFF cut at 60", "png promising rows")
"""Damage beyond what a decoder reads: any answer will do, as long as it is one."""


def part(headers: str, data: bytes) -> bytes:
    return f"--{MARK}\r\n{headers}\r\n\r\n".encode("utf-8", "surrogateescape") + data + b"\r\n"


END = f"--{MARK}--\r\n".encode()
NAMED = 'Content-Disposition: form-data; name="images"; filename="a.png"'
FORM = f"multipart/form-data; boundary={MARK}"
BODIES: dict[str, tuple[str, bytes]] = {
    "nothing": ("", b""),
    "no body": (FORM, b""),
    "no parts": (FORM, END),
    "no boundary": ("multipart/form-data", part(NAMED, png()) + END),
    "empty boundary": ("multipart/form-data; boundary=", part(NAMED, png()) + END),
    "endless boundary": ("multipart/form-data; boundary=" + "x" * 5000, part(NAMED, png()) + END),
    "another boundary": ("multipart/form-data; boundary=other", part(NAMED, png()) + END),
    "no end": (FORM, part(NAMED, png())[:-50]),
    "no name": (FORM, part("Content-Disposition: form-data", png()) + END),
    "no headers": (FORM, part("", png()) + END),
    "broken header": (FORM, part("Content-Disposition", png()) + END),
    "header of control characters": (FORM, part("Content-\x00Disposition: form-data\x01", png()) + END),
    "a field of another name": (FORM, part('Content-Disposition: form-data; name="file"; filename="a"', png()) + END),
    "a field besides": (FORM, part(NAMED, png()) + part('Content-Disposition: form-data; name="top"', b"3") + END),
    "text in place of a file": (FORM, part('Content-Disposition: form-data; name="images"', png()[:60]) + END),
    "a long text": (FORM, part('Content-Disposition: form-data; name="images"', b"x" * 90_000) + END),
    "many texts": (FORM, part('Content-Disposition: form-data; name="images"', b"x") * 100 + END),
    "too many files": (FORM, part(NAMED, png()) * 9 + END),
    "one bad among good": (FORM, part(NAMED, png()) + part(NAMED, b"bad") + END),
    "too many bytes": (FORM, part(NAMED, bytes(400_000)) + END),
    "json": ("application/json", b'{"images": ["aGVsbG8="]}'),
    "huge json": ("application/json", b"[" * 400_000),
    "deep json in the form's name": (FORM, b"[" * 100_000),
    "json of NaN": ("application/json", b'{"images": NaN}'),
    "xml": ("application/xml", b'<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>'),
    "an image alone": ("image/png", png()),
    "urlencoded": ("application/x-www-form-urlencoded", b"images=../../etc/passwd"),
    "text": ("text/plain", b"hello"),
    "a type of nonsense": ("\x7f/;;;", b"hello"),
    "graphql": ("application/graphql", b"{a}"),
}
NAMES = (
    "../../etc/passwd", "/etc/passwd",
    "..\\..\\windows\\win.ini", "a\x00b.png", "C:\\x.png", "file:///etc/passwd", "~/.ssh/id_rsa",
    "x" * 5000, "%2e%2e%2f", "a;rm -rf .png", "$(reboot).png", "<script>.png", "\u202egnp.exe", "con", ".", "a\tb\x1b[31m.png",
)  # fmt: skip
QUERIES = (
    "top=0", "top=-1", "top=NaN",
    "top=1e9", "top=999999999999999999999", "top=", "top=1;drop", "top=../..", "top=0x10", "compare=maybe",
    "tops=3", "top=1&top=2", "batch=4", "Top=3",
)  # fmt: skip
ATTACKS = (
    "eps=NaN", "eps=inf", "eps=-1/255", "eps=4", "eps=4/0", "eps=1e999", "eps=4/255;", "eps=1000/255",
    "attack=../pgd", "attack=transfer",
    "attack=", "steps=0", "steps=-5", "steps=100000000", "steps=NaN", "steps=1.5", "target=both", "label=nothing", "seed=-1",
    "seed=99999999999999999999", "attack=pgd&attack=pdg", "eps=1/255&eps=8/255",
    "targeted=true", "step=5", "step_size=0.1", "norm=l1", "norm=", "norm=L2", "epsilon=8/255", "=1", "a%0Ab=1",
    "norm=linf&eps=999/255", "eps=0/255", "mode=compact",
)  # fmt: skip
PATHS = (
    "/../etc/passwd", "/classify/../../x", "/%2e%2e/%2e%2e/etc/passwd", "/static/x", "/.git/config", "/" + "a" * 3000, "/model/",
)  # fmt: skip


@pytest.fixture(scope="module")
def http(model, tmp_path_factory):
    limits = Limits(max_bytes=300_000, max_pixels=20_000_000, max_images=8)
    with pytest.MonkeyPatch.context() as patch:
        empty = tmp_path_factory.mktemp("empty")
        patch.chdir(empty)
        patch.setattr("tempfile.tempdir", str(empty))
        with TestClient(create_app(model, limits), base_url="http://127.0.0.1", raise_server_exceptions=True) as client:
            yield client
            assert client.post("/classify", files={"images": png()}).status_code == 200, "the service goes on"
        assert not list(Path(empty).iterdir()), "nothing was written"


def refused(answer) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    (error,) = answer.json().values()
    assert error.strip()
    assert len(error) < 400
    assert "\n" not in error
    assert "Traceback" not in error
    assert error.isprintable()


def test_there_are_more_than_a_hundred() -> None:
    assert len(FILES) + len(BODIES) + len(NAMES) + len(QUERIES) + len(ATTACKS) + len(PATHS) > 150


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_pictures(http, name: str) -> None:
    answer = http.post("/classify", files={"images": ("a.png", FILES[name], "image/png")})
    if not (name in FINE and answer.status_code == 200):
        refused(answer)


@pytest.mark.parametrize("name", ["text", "svg", "png bomb 20000", "tiff of NaN", "JPEG cut at 30"])
def test_an_attack_takes_no_such_files_either(http, name: str) -> None:
    refused(http.post("/attack", files={"images": ("a.png", FILES[name], "image/png")}))


@pytest.mark.parametrize("path", ["/classify", "/attack"])
@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_forms(http, name: str, path: str) -> None:
    kind, body = BODIES[name]
    refused(http.post(path, content=body, headers={"Content-Type": kind} if kind else {}))


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_words_in_an_answer_and_nothing_else(http, name: str) -> None:
    header = f'Content-Disposition: form-data; name="images"; filename="{name}"'
    answer = http.post("/classify", content=part(header, png()) + END, headers={"Content-Type": FORM})
    if answer.status_code == 200:
        shown = answer.json()["results"][0]["image"]
        assert len(shown) <= 100
        assert shown.isprintable()
    else:
        refused(answer)
    refused(http.post("/classify", content=part(header, b"bad") + END, headers={"Content-Type": FORM}))


@pytest.mark.parametrize("query", QUERIES)
def test_options_of_a_classification(http, query: str) -> None:
    refused(http.post(f"/classify?{query}", files={"images": png()}))


@pytest.mark.parametrize("query", ATTACKS)
def test_options_of_an_attack(http, query: str) -> None:
    refused(http.post(f"/attack?{query}", files={"images": png()}))


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_not_there(http, path: str) -> None:
    answer = http.get(path, follow_redirects=False)
    if answer.status_code != 307:
        refused(answer)


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_other_methods(http, method: str) -> None:
    answer = getattr(http, method)("/classify")
    refused(answer)
    assert answer.headers["allow"] == "POST"


def test_a_bomb_takes_no_memory(http) -> None:
    """20,000 x 20,000 pixels would be 1.2 GB; the header is enough to refuse them."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = http.post("/classify", files={"images": ("a.png", FILES["png bomb 20000"], "image/png")})
    assert answer.status_code == 413
    assert "20000 x 20000 pixels" in answer.json()["error"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
