import io
import logging
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as T

from ironclip.core.errors import UsageError
from ironclip.data.images import BadPicture, bound, decode, fit
from ironclip.data.records import FileSource, ZipSource


def grey16(path, values):
    Image.fromarray(np.asarray(values, np.uint16)).save(path)
    return path


def giant_png(path, width, height):
    """A valid header that promises width x height pixels and holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert pixels(decode(tmp_path / "a.tif"))[0, 0].tolist() == [255, 0, 0]
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(decode(tmp_path / "a.jpg"))[8, 8].astype(int) - [255, 0, 0]).max() < 10


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    image = decode(grey16(tmp_path / "a.png", [[0, 257, 32896, 65535]]))
    assert pixels(image)[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]
    assert pixels(decode(grey16(tmp_path / "a.tif", [[0, 65535]])))[0, :, 0].tolist() == [0, 255]


def test_brightness_without_a_fixed_white_is_refused(tmp_path):
    Image.fromarray(np.float32([[0.5]])).save(tmp_path / "a.tif")
    with pytest.raises(BadPicture, match="floating-point pixels"):
        decode(tmp_path / "a.tif")
    Image.fromarray(np.int32([[-5, 100000]])).save(tmp_path / "b.tif")
    with pytest.raises(BadPicture, match="grey values from -5 to 100000"):
        decode(tmp_path / "b.tif")


def test_transparency_lies_on_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert pixels(decode(tmp_path / "p.png"))[0].tolist() == [[255] * 3, [200, 0, 0]]
    Image.new("RGBA", (1, 1), (0, 0, 0, 51)).save(tmp_path / "a.png")
    assert pixels(decode(tmp_path / "a.png"))[0, 0].tolist() == [204] * 3
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "l.png")
    assert pixels(decode(tmp_path / "l.png"))[0, 0].tolist() == [255] * 3
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "t.png", transparency=(9, 9, 9))
    assert pixels(decode(tmp_path / "t.png"))[0, 0].tolist() == [255] * 3


def test_palettes_and_bitmaps_become_rgb(tmp_path):
    palette = Image.new("P", (1, 1))
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "p.png")
    assert pixels(decode(tmp_path / "p.png"))[0, 0].tolist() == [10, 20, 30]
    Image.new("1", (1, 1), 1).save(tmp_path / "b.png")
    assert pixels(decode(tmp_path / "b.png"))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert pixels(decode(tmp_path / f"a.{suffix}"))[4, 4].tolist() == [255, 0, 0]


def test_the_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    turned = decode(tmp_path / "a.png")
    assert turned.size == (4, 6)
    assert turned.getpixel((3, 0)) == (255, 255, 255)


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert pixels(fit(decode(tmp_path / "a.png"), 8)).reshape(-1, 3).tolist() == [[1, 2, 3]] * 64


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_truncated_pictures_are_named_with_a_reason(tmp_path, paint, suffix):
    path = paint(tmp_path / "owl" / f"a.{suffix}", size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadPicture) as problem:
        decode(FileSource(tmp_path, f"owl/a.{suffix}"))
    assert problem.value.name == f"owl/a.{suffix}"
    assert str(problem.value).startswith(f"owl/a.{suffix}: ")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP", b"GIF89a"]
)
def test_what_is_no_picture_is_named_with_a_reason(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadPicture, match=r"a\.jpg: (not an image|an empty file|damaged|unreadable)"):
        decode(tmp_path / "a.jpg")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_raise_anything_else(tmp_path, seed):
    rng = np.random.default_rng(seed)
    kind = ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"][seed % 6]
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for position in rng.integers(0, min(len(content), 120), 12):
        content[position] = rng.integers(256)
    (tmp_path / "a").write_bytes(content)
    try:
        assert decode(tmp_path / "a").mode == "RGB"
    except BadPicture as problem:
        assert "\n" not in str(problem)  # noqa: PT017


def test_missing_files_and_members_are_named(tmp_path, paint):
    with pytest.raises(BadPicture, match=r"gone\.png: no such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(BadPicture, match="unreadable: "):
        decode(FileSource(tmp_path, "."))
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(paint(tmp_path / "a.png"), "a.png")
    assert decode(ZipSource(tmp_path / "a.zip", "a.png")).size == (20, 16)
    with pytest.raises(BadPicture, match=r"b\.png: not in the archive"):
        decode(ZipSource(tmp_path / "a.zip", "b.png"))


def test_a_giant_is_refused_from_its_header(tmp_path):
    giant = giant_png(tmp_path / "a.png", 20_000, 20_000)
    with pytest.raises(BadPicture, match="20000 x 20000 pixels are more than the limit of 100 million"):
        decode(giant)
    with pytest.raises(BadPicture, match=r"damaged|unreadable"):  # within a raised limit the bytes are read
        decode(giant_png(tmp_path / "b.png", 3000, 1), max_pixels=3000)


def test_the_limit_is_ours_and_pillow_keeps_its_own(tmp_path, paint):
    path = paint(tmp_path / "a.png", size=(30, 30))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadPicture, match="30 x 30"):
        decode(path, max_pixels=899)
    assert decode(path, max_pixels=900).size == (30, 30)
    Image.MAX_IMAGE_PIXELS = 100  # Pillow alone would refuse
    try:
        assert decode(path).size == (30, 30)
        assert Image.MAX_IMAGE_PIXELS == 100
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_decoding_warns_about_nothing(tmp_path):
    image = Image.new("P", (2, 2))
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(100, 64), (64, 100), (37, 53), (224, 224), (500, 375), (10, 300)])
@pytest.mark.parametrize("resolution", [64, 33])
def test_fit_is_torchvisions_test_transform(size, resolution):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    bicubic = T.InterpolationMode.BICUBIC
    expected = T.Compose([T.Resize(resolution, bicubic), T.CenterCrop(resolution)])(image)
    assert np.array_equal(fit(image, resolution), expected)
    expected = T.Resize((resolution, resolution), bicubic)(image)
    assert np.array_equal(fit(image, resolution, "squash"), expected)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 5000)])
def test_a_strip_stays_small(size):
    image = fit(Image.new("RGB", size, (5, 6, 7)), 64)
    assert image.size == (64, 64)
    assert image.getpixel((32, 32)) == (5, 6, 7)


def test_fit_refuses_wrong_options():
    image = Image.new("RGB", (4, 4))
    with pytest.raises(UsageError, match="at least 1; got 0"):
        fit(image, 0)
    with pytest.raises(UsageError, match="did you mean 'crop'"):
        fit(image, 4, "crops")


def test_bound_only_shrinks():
    image = Image.new("RGB", (300, 200))
    assert bound(image, 100).size == (150, 100)
    assert bound(image, 400) is image
    assert bound(image, None) is image


def test_what_the_decoder_logs_about_a_damaged_picture_is_not_printed(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    place = content.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples per pixel
    (tmp_path / "a.tif").write_bytes(content[:place] + struct.pack("<H", 768) + content[place + 2 :])
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(BadPicture):
        decode(tmp_path / "a.tif")
    assert capsys.readouterr().err == ""
