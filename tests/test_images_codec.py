"""Reading and writing of image files: awkward files are read correctly or refused."""

import concurrent.futures
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms, ImageOps

from dcpt_jax import images
from dcpt_jax.images import ImageError, colour
from tests.profiles import grey_profile, rgb_profile


def picture(height: int = 24, width: int = 36) -> np.ndarray:
    """A colourful uint8 picture without symmetry."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 200 // width, y * 250 // height, (x + 2 * y) % 64 * 3)
    return np.stack(channels, axis=-1).astype(np.uint8)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, with right checksums."""
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    return data


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


# --- the shared folder of awkward files, each with what must happen -----------------------------

SAME_AS_OK = ((128, 192, 3), np.uint8, 0.002)
AWKWARD = {
    # name: (shape, dtype, largest mean difference from ok_plain.png) or a part of the error
    "-starts-with-dash.png": SAME_AS_OK,
    ".hidden.png": SAME_AS_OK,
    "10.png": SAME_AS_OK,
    "9.png": ((91, 127, 3), np.uint8, None),
    "UPPER.JPEG": ((128, 192, 3), np.uint8, 0.05),
    "UPPER.PNG": SAME_AS_OK,
    "a_folder.png": "is a folder",
    "all_black.png": ((64, 64, 3), np.uint8, None),
    "animated.gif": ((64, 96, 3), np.uint8, None),
    "animated.webp": ((64, 96, 3), np.uint8, None),
    "bad_exif.jpg": ((128, 192, 3), np.uint8, 0.05),
    "bilevel_1bit.png": ((128, 192, 3), np.uint8, None),
    "bomb_header_60000x60000.png": "max_pixels = 100,000,000",
    "bomb_real_12000x12000.png": "144,000,000 pixels exceed the limit",
    "cmyk.jpg": ((128, 192, 3), np.uint8, 0.06),
    "corrupt_crc.png": "checksum",
    "exif_orientation_6.jpg": ((192, 128, 3), np.uint8, None),
    "flat_grey.png": ((64, 64, 3), np.uint8, None),
    "float32_gray.tif": ((128, 192, 3), np.uint16, None),
    "gray.jpg": ((128, 192, 3), np.uint8, None),
    "gray_16bit.png": ((128, 192, 3), np.uint16, None),
    "gray_8bit.png": ((128, 192, 3), np.uint8, None),
    "gray_alpha.png": ((128, 192, 3), np.uint8, None),
    "jpeg_named.png": ((128, 192, 3), np.uint8, 0.05),
    "multipage.tif": ((64, 96, 3), np.uint8, None),
    "name with spaces.png": SAME_AS_OK,
    "no_extension": SAME_AS_OK,
    "notes.txt": "not an image of a supported format",
    "odd_127x91.png": ((91, 127, 3), np.uint8, None),
    "ok_plain.jpg": ((128, 192, 3), np.uint8, 0.05),
    "ok_plain.png": ((128, 192, 3), np.uint8, 0.0),
    "ok_progressive.jpg": ((128, 192, 3), np.uint8, 0.05),
    "one_pixel.png": ((1, 1, 3), np.uint8, None),
    "palette.png": ((128, 192, 3), np.uint8, 0.06),
    "palette_transparent.png": ((128, 192, 3), np.uint8, 0.06),
    "plain.bmp": SAME_AS_OK,
    "plain.tif": SAME_AS_OK,
    "plain.webp": SAME_AS_OK,
    "README.md": "not an image of a supported format",
    "rgb_16bit.png": ((128, 192, 3), np.uint16, 0.0),
    "rgba_transparent.png": SAME_AS_OK,
    "tall_3x5000.png": ((5000, 3, 3), np.uint8, None),
    "text_file.png": "not an image of a supported format",
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
    "two.dots.in.name.png": SAME_AS_OK,
    "wide_5000x3.png": ((3, 5000, 3), np.uint8, None),
    "zero_byte.png": "empty",
    "ünïcode_фото_写真.png": SAME_AS_OK,
}
GREY = ("gray.jpg", "gray_16bit.png", "gray_8bit.png", "gray_alpha.png", "float32_gray.tif")


def test_every_awkward_file_has_its_expectation(shared):
    assert {path.name for path in (shared / "awkward").iterdir()} == set(AWKWARD)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_file(shared, name):
    path = shared / "awkward" / name
    expected = AWKWARD[name]
    if isinstance(expected, str):
        with pytest.raises(ImageError, match=re.escape(expected)) as caught:
            images.read_pixels(path)
        assert name in str(caught.value)
        return
    shape, dtype, difference = expected
    pixels = images.read_pixels(path)
    assert (pixels.shape, pixels.dtype) == (shape, dtype)
    image = images.to_float(pixels)
    if difference is not None:
        plain = images.read_image(shared / "awkward" / "ok_plain.png")
        assert np.abs(image - plain).mean() <= difference
    if name in GREY:
        assert np.ptp(image, axis=-1).max() == 0
        assert image.mean() == pytest.approx(0.290, abs=0.001)
    if name == "bilevel_1bit.png":
        assert set(np.unique(pixels)) == {0, 255}
    if name == "exif_orientation_6.jpg":
        plain = images.read_image(shared / "awkward" / "ok_plain.png")
        assert np.abs(image - np.rot90(plain, -1)).mean() < 0.05
    if name.startswith("animated") or name == "multipage.tif":
        with Image.open(path) as frames:
            assert np.abs(pixels - np.asarray(frames.convert("RGB"), int)).max() == 0


@pytest.mark.parametrize("name", [n for n, e in AWKWARD.items() if e != "checksum"])
def test_check_without_decoding_agrees(shared, name):
    path = shared / "awkward" / name
    if isinstance(AWKWARD[name], str):
        with pytest.raises(ImageError, match=re.escape(name)):
            images.check_image(path)
    else:
        found = images.check_image(path)
        assert sorted((found.height, found.width)) == sorted(AWKWARD[name][0][:2])


def test_larger_limit_reads_the_large_picture(tmp_path):
    path = tmp_path / "a.png"
    images.write_image(path, np.zeros((20, 30, 3)))
    with pytest.raises(ImageError, match=r"30x20 = 600 pixels .* limit max_pixels = 599"):
        images.read_pixels(path, max_pixels=599)
    assert images.read_pixels(path, max_pixels=600).shape == (20, 30, 3)


# --- files made here ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.97])
def test_cut_off_file_is_refused(tmp_path, suffix, kept):
    whole = tmp_path / f"whole{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[: int(kept * whole.stat().st_size)])
    with pytest.raises(ImageError, match=f"cut{re.escape(suffix)}: "):
        images.read_pixels(path)


def test_jpeg_with_data_behind_its_end_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, quality=95)
    expected = images.read_pixels(path)
    path.write_bytes(path.read_bytes() + b"maker data of a camera")
    images.check_image(path)
    np.testing.assert_array_equal(images.read_pixels(path), expected)


def test_cut_off_jpeg_with_whole_thumbnail_is_refused(tmp_path):
    thumbnail = tmp_path / "thumbnail.jpg"
    Image.fromarray(picture(8, 8)).save(thumbnail)
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, exif=b"Exif\0\0" + thumbnail.read_bytes())
    assert images.read_pixels(path).shape == (24, 36, 3)
    path.write_bytes(path.read_bytes()[:-9])
    for function in (images.check_image, images.read_pixels):
        with pytest.raises(ImageError, match=r"a\.jpg: truncated"):
            function(path)


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.8])
def test_cut_off_jpeg_with_its_end_put_back_is_refused(tmp_path, subsampling, kept):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(128, 192)).save(path, subsampling=subsampling)
    data, start = path.read_bytes(), images.check_image(path).data_start
    path.write_bytes(data[: start + int(kept * (len(data) - start))] + b"\xff\xd9")
    with pytest.raises(ImageError, match=r"a\.jpg: damaged: the JPEG data end before"):
        images.read_pixels(path)


JPEGS = {
    "420": {},
    "444": {"subsampling": 0},
    "own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("rest", ["cut", "zeros", "ones"])
@pytest.mark.parametrize("kept", [0.2, 0.5])
def test_a_jpeg_without_its_second_part_is_refused(tmp_path, kind, rest, kept):
    """Like interrupted copies with preallocated files, or tools that repair the end."""
    options = dict(JPEGS[kind])
    image = Image.fromarray(picture(256, 384)).convert(options.pop("mode", "RGB"))
    path = tmp_path / "a.jpg"
    image.save(path, quality=95, **options)
    images.read_pixels(path)
    data, start = path.read_bytes(), images.check_image(path).data_start
    stop = start + int(kept * (len(data) - start))
    missing = len(data) - stop - 2
    filling = {"cut": b"", "zeros": bytes(missing), "ones": b"\xff" * missing}[rest]
    path.write_bytes(data[:stop] + filling + b"\xff\xd9")
    with pytest.raises(ImageError, match=r"a\.jpg: damaged: "):
        images.read_pixels(path)


@pytest.mark.parametrize(("photo", "rows", "kept"), [("astronaut", 384, 0.8), ("rocket", 427, 0.6)])
def test_zeros_that_decode_to_something_smooth_are_found(tmp_path, photo, rows, kept):
    pixels = getattr(skimage.data, photo)()[:rows]
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=90, optimize=True)
    data = path.read_bytes()
    start = data.index(b"\xff\xda")
    stop = start + int(kept * (len(data) - start))
    path.write_bytes(data[:stop] + bytes(len(data) - stop - 2) + b"\xff\xd9")
    with pytest.raises(ImageError, match="JPEG data is zeros"):
        images.read_pixels(path)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_with_a_large_flat_part_is_read(tmp_path, kind):
    options = dict(JPEGS[kind])
    pixels = np.full((1200, 1200, 3), 90, np.uint8)
    pixels[:24, :36] = picture()
    image = Image.fromarray(pixels).convert(options.pop("mode", "RGB"))
    image.save(tmp_path / "a.jpg", **options)
    with (tmp_path / "a.jpg").open("ab") as file:  # a film behind the photo
        file.write(np.random.default_rng(0).bytes(200_000))
    assert images.read_pixels(tmp_path / "a.jpg").shape == (1200, 1200, 3)


@pytest.mark.parametrize("rows", [1, 9, 40, 128])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_jpeg_that_ends_in_grey_is_read(tmp_path, rows, optimize):
    pixels = picture(128, 192)
    pixels[-rows:] = 128
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("L")):
        image.save(tmp_path / "a.jpg", optimize=optimize)
        assert images.read_pixels(tmp_path / "a.jpg").shape == (128, 192, 3)


def test_wrong_png_checksum_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png: damaged: wrong checksum of the PNG chunk IDAT"):
        images.read_pixels(path)


def test_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(header(50_000, 50_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
    for function in (images.check_image, images.read_pixels):
        with pytest.raises(ImageError, match=r"bomb\.png: 50000x50000 = 2,500,000,000 pixels"):
            function(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_file_with_gigabytes_behind_its_header_is_not_read(tmp_path, kind):
    path = tmp_path / "a"
    Image.fromarray(picture()).save(path, kind)
    os.truncate(path, 17_000_000)
    for function in (images.check_image, images.read_pixels):
        with pytest.raises(
            ImageError, match=r"17,000,000 bytes are more than .* can have, 16,006,912; "
        ):
            function(path, max_pixels=864)
    assert images.read_pixels(path, max_pixels=864_000).shape == (24, 36, 3)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP"])
def test_size_limit_holds_for_other_kinds(tmp_path, kind):
    path = tmp_path / "a"
    Image.fromarray(picture()).save(path, kind)
    with pytest.raises(ImageError, match="36x24 = 864 pixels"):
        images.read_pixels(path, max_pixels=863)


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"x"]
)
def test_fragments_are_refused(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for function in (images.check_image, images.read_pixels):
        with pytest.raises(ImageError, match=r"a\.png"):
            function(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: cannot be opened"):
        images.read_pixels(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    Image.fromarray(picture()).save(path, exif=exif, **options.get(suffix, {}))
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored), int)
    pixels = images.read_pixels(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 2
    assert pixels.shape == ((24, 36, 3) if orientation < 5 else (36, 24, 3))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0XX*\0\0\0\0\x08",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0",
    ],
)
def test_broken_exif_is_ignored(tmp_path, exif):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, exif=exif)
    assert images.read_pixels(path).shape == (24, 36, 3)


def test_avif_is_read(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.avif"
    Image.fromarray(picture()).save(path, quality=100, subsampling="4:4:4", exif=exif)
    assert images.check_image(path).kind == "AVIF"
    pixels = images.read_pixels(path)
    assert pixels.shape == (36, 24, 3)
    assert np.abs(pixels - np.rot90(picture(), -1).astype(int)).mean() < 2
    with pytest.raises(ImageError, match="864 pixels exceed the limit"):
        images.check_image(path, max_pixels=863)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"a\.avif: "):
        images.read_pixels(path)


def test_heic_is_read_where_its_reader_is_installed(tmp_path, monkeypatch):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(ImageError, match=r"a\.heic: .*pip install pillow-heif"):
            images.read_pixels(path)
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.from_pillow(Image.fromarray(picture()))
    heif.save(path, quality=100)
    assert images.check_image(path).kind == "HEIC"
    assert np.abs(images.read_pixels(path) - picture().astype(int)).mean() < 4


JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"


def jxl_header(height: int, width: int) -> bytes:
    """The first bytes of a JPEG XL picture, both sides written with 30 bits."""
    bits = 0 | 3 << 1 | height - 1 << 3 | 0 << 33 | 3 << 36 | width - 1 << 38
    return b"\xff\x0a" + bits.to_bytes(12, "little")


@pytest.mark.parametrize("boxed", [False, True])
def test_jpeg_xl_is_read_where_its_reader_is_installed(tmp_path, monkeypatch, boxed):
    path = tmp_path / "a.jxl"
    bomb = jxl_header(60_000, 60_000)
    if boxed:
        bomb = JXL_BOX + b"\0\0\0\x08ftyp" + b"\0\0\0\0jxlp\0\0\0\0" + bomb
    path.write_bytes(bomb)
    with pytest.raises(ImageError, match="60000x60000"):  # before the reader decodes it
        images.check_image(path)
    path.write_bytes(jxl_header(24, 36))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pillow_jxl.JpegXLImagePlugin", None)
        with pytest.raises(ImageError, match=r"a\.jxl: .*pip install pillow-jxl-plugin"):
            images.read_pixels(path)
    pytest.importorskip("pillow_jxl")
    with pytest.raises(ImageError, match=r"a\.jxl: damaged"):
        images.read_pixels(path)
    exif = Image.Exif()
    exif[274] = 6  # means nothing here: the picture itself says how it is turned
    block = exif.tobytes() if boxed else None
    for pixels in (picture(), picture(32, 48), picture(40, 40), picture(513, 300)):
        Image.fromarray(pixels).save(path, lossless=True, use_container=boxed, exif=block)
        assert images.check_image(path).size == pixels.shape[:2]
        np.testing.assert_array_equal(images.read_pixels(path), pixels)


@pytest.mark.parametrize("tag", [{"t254": 1}, {"t50706": 1}])
def test_raw_files_and_previews_are_refused(tmp_path, tag):
    path = tmp_path / "a.dng"
    path.write_bytes(tiff(np.ones((4, 6), np.uint8), **tag))
    for function in (images.check_image, images.read_pixels):
        with pytest.raises(ImageError, match=r"a\.dng: is a camera raw file, or"):
            function(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_modes_become_rgb(tmp_path, mode, suffix):
    if (mode, suffix) == ("CMYK", ".png"):
        suffix = ".jpg"
    image = Image.fromarray(picture())
    image.putalpha(Image.fromarray(np.arange(24 * 36).reshape(24, 36).astype(np.uint8)))
    image = (image if mode in ("LA", "RGBA") else image.convert("RGB")).convert(mode)
    path = tmp_path / f"a{suffix}"
    image.save(path)
    pixels = images.read_pixels(path)
    assert (pixels.shape, pixels.dtype) == ((24, 36, 3), np.uint8)
    # Alpha is dropped and not blended: what lies below stays whole.
    plain = {"LA": "L", "RGBA": "RGB"}.get(mode, mode)
    expected = np.asarray(image.convert(plain).convert("RGB"), int)
    assert np.abs(pixels - expected).mean() <= (8 if suffix == ".jpg" else 0)


def test_transparent_colour_of_a_palette_is_kept(tmp_path):
    image = Image.fromarray(picture()).convert("P")
    image.save(tmp_path / "a.png", transparency=image.getpixel((5, 5)))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_kept(tmp_path, suffix, channels):
    pixels = picture().astype(np.uint16) * 256 + 7
    stored = {1: pixels[..., 0], 3: pixels[..., ::-1]}.get(channels)
    if channels == 4:
        stored = np.dstack([pixels[..., ::-1], pixels[..., 0]])
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), stored)
    expected = np.repeat(pixels[..., :1], 3, axis=2) if channels == 1 else pixels
    found = images.read_pixels(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A little-endian, uncompressed grey TIFF of one strip."""
    height, width = values.shape
    entries = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 1}
    entries |= {273: 8, 277: 1, 278: height, 279: values.nbytes}
    entries |= {int(tag.lstrip("t")): value for tag, value in tags.items()}
    data = b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes()
    data += struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        data += struct.pack("<HHII", tag, 3 if value < 65536 else 4, 1, value)
    return data + struct.pack("<I", 0)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_16_bit_tiff_is_upright(tmp_path, orientation):
    values = np.arange(6 * 4, dtype=np.uint16).reshape(4, 6) * 1000
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, t274=orientation))
    upright = Image.fromarray(values.astype(np.int32))
    upright.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    np.testing.assert_array_equal(images.read_pixels(path)[..., 1], expected)


def test_16_bit_tiff_with_white_as_zero_is_not_inverted(tmp_path):
    values = np.arange(24, dtype=np.uint16).reshape(4, 6)
    (tmp_path / "a.tif").write_bytes(tiff(values, t262=0))
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a.tif")[..., 0], 65535 - values)


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, t339=3))
    np.testing.assert_allclose(images.read_image(path)[..., 2], values, atol=1 / 65535)
    for bad, shown in ((values * 255, r"\[0, 255\]"), (values * np.nan, "NaN")):
        path.write_bytes(tiff(bad, t339=3))
        with pytest.raises(ImageError, match=rf"a\.tif: float pixels must be in \[0, 1\].*{shown}"):
            images.read_pixels(path)


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_tiff_of_three_samples(tmp_path, photometric, planar, dtype):
    values = picture().astype(dtype) if dtype == np.uint8 else picture().astype(dtype) * 257
    values = values / np.array(65535, dtype) if values.dtype.kind == "f" else values
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.ascontiguousarray(stored), photometric=photometric, planarconfig=planar
    )
    assert images.check_image(path).size == (24, 36)
    np.testing.assert_allclose(images.read_image(path), picture() / 255, atol=1e-4)


@pytest.mark.parametrize("compression", [1, 5, 8])  # none, LZW, deflate
@pytest.mark.parametrize("predictor", [1, 3])
def test_float_tiffs_as_editors_compress_them(tmp_path, compression, predictor):
    path = tmp_path / "a.tif"
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    floats = np.ascontiguousarray(picture()[..., ::-1], np.float32) / 255
    assert cv2.imwrite(str(path), floats, options if compression > 1 else options[:2])
    np.testing.assert_allclose(images.read_image(path), picture() / 255, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("big", [False, True])
def test_grey_tiff_with_alpha(tmp_path, dtype, big):
    largest = 65535 if dtype == np.uint16 else 1
    grey = np.linspace(0, largest, 24).astype(dtype).reshape(4, 6)
    values = np.dstack([grey, np.full_like(grey, largest)])
    path = tmp_path / "a.tif"
    options = {"planarconfig": "contig", "extrasamples": ["unassalpha"], "bigtiff": big}
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    np.testing.assert_allclose(images.read_image(path)[..., 1], grey / largest, atol=1e-4)


def test_floats_with_rounding_errors_are_read(tmp_path):
    values = images.to_float(picture())
    values[0, 0] = (1 + 1e-6, -1e-7, 1)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    np.testing.assert_allclose(
        images.read_image(tmp_path / "a.tif"), np.clip(values, 0, 1), atol=1e-5
    )
    tifffile.imwrite(tmp_path / "b.tif", values * 1.01, photometric="rgb")
    with pytest.raises(ImageError, match=r"must be in \[0, 1\], not \[.*1\.01\]; rescale or clip"):
        images.read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("bits", [2, 4])
def test_tiffs_of_few_bits_are_as_bright_as_others(tmp_path, bits, monkeypatch):
    values = picture() >> (8 - bits)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values[..., 0], t258=bits, t262=2, t277=3))
    with pytest.raises(ImageError, match="imagecodecs"):
        images.read_pixels(path)
    # With that package, tifffile returns the stored values.
    monkeypatch.setattr("dcpt_jax.images.tiff._by_tifffile", lambda *_: values)
    np.testing.assert_array_equal(images.read_pixels(path), np.rint(values * (255 / (2**bits - 1))))


def test_tiffs_with_a_damaged_text_are_read_in_threads(tmp_path):
    """Python's warning filters are shared by all threads, and tell of the damage."""
    data = tiff(np.full((4, 6), 7, np.uint8), t270=1)
    at = data.index(struct.pack("<H", 270))
    data = data[:at] + struct.pack("<HHII", 270, 2, 50, 10**6) + data[at + 12 :]
    (tmp_path / "a.tif").write_bytes(data)
    filters = list(warnings.filters)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            read = list(pool.map(images.read_pixels, [tmp_path / "a.tif"] * 100))
    finally:
        sys.setswitchinterval(interval)
    assert all((pixels == 7).all() for pixels in read) and warnings.filters == filters


def test_float_tiff_with_white_as_zero(tmp_path):
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_allclose(images.read_image(tmp_path / "a.tif")[..., 0], 1 - values, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_multiplied_by_alpha_are_divided(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    values = np.full((4, 6, 4), largest // 2, dtype)
    values[..., :3] //= 4
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(images.read_image(tmp_path / "a.tif") - 0.25).max() < 0.01


def test_an_unsupported_tiff_is_refused_with_advice(tmp_path):
    path = tmp_path / "a.tif"
    values = np.zeros((4, 6, 5), np.uint8)
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=r"a\.tif: TIFF with 5 samples .* save it as RGB or grey"):
        images.read_pixels(path)
    tifffile.imwrite(path, values[..., :4].astype(np.uint16), photometric="separated")
    with pytest.raises(ImageError, match=r"a\.tif: TIFF with 4 samples per pixel \(CMYK\) is not"):
        images.read_pixels(path)
    tifffile.imwrite(path, np.full((4, 6, 3), 2, np.float32), photometric="rgb")
    with pytest.raises(ImageError, match=r"a\.tif: float pixels must be in \[0, 1\]"):
        images.read_pixels(path)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_signed_tiff_is_refused(tmp_path, dtype):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.ones((4, 6), dtype), t339=2))
    with pytest.raises(ImageError, match=r"a\.tif: signed integer"):
        images.read_pixels(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_raise_nothing_but_image_errors(tmp_path):
    """Bytes changed at random positions in files of every kind; some only alter the picture."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        Image.fromarray(picture(16, 16)).save(path, kind)
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            try:
                images.read_pixels(path, max_pixels=10_000)
            except ImageError:
                refused += 1
    assert refused > 40


# --- scaling and writing ----------------------------------------------------------------


def test_scaling():
    levels = np.arange(256, dtype=np.uint8)
    assert images.to_float(levels).dtype == np.float32
    np.testing.assert_array_equal(images.to_uint8(images.to_float(levels)), levels)
    deep = images.to_float(levels.astype(np.uint16) * 257)
    np.testing.assert_array_equal(deep, images.to_float(levels))
    with pytest.raises(TypeError, match="int64"):
        images.to_float(np.arange(3))
    values = np.array([-1, 0.4 / 255, 0.6 / 255, 254.6 / 255, 2, np.inf, -np.inf])
    np.testing.assert_array_equal(images.to_uint8(values), [0, 0, 1, 255, 255, 255, 0])
    with pytest.raises(ValueError, match="1 of 2 values are not a number"):
        images.to_uint8(np.array([0.5, np.nan]))
    with pytest.raises(TypeError, match=r"floats in .*, not uint8"):  # they would become white
        images.to_uint8(levels)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".bmp", ".tif", ".tiff"])
def test_written_image_reads_back(tmp_path, suffix):
    path = tmp_path / "new" / "folder" / f"-a ü写.b{suffix}"
    images.write_image(path, images.to_float(picture()))
    np.testing.assert_array_equal(images.read_pixels(path), picture())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_written_jpeg_is_close(tmp_path):
    smooth = np.full((16, 16, 3), (0.9, 0.5, 0.1))
    images.write_image(tmp_path / "a.jpg", smooth)
    assert np.abs(images.read_image(tmp_path / "a.jpg") - smooth).max() < 0.02


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    images.write_image(path, np.zeros((2, 2, 3)))
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        images.write_image(path, np.ones((2, 2, 3)))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_write_errors(tmp_path):
    with pytest.raises(ImageError, match=r"cannot write '\.xyz' files; use one of .*\.png"):
        images.write_image(tmp_path / "a.xyz", np.zeros((2, 2, 3)))
    for shape in ((2, 2), (2, 2, 4), (0, 2, 3)):
        with pytest.raises(ValueError, match=r"expected one floating-point RGB image \[h, w, 3\]"):
            images.write_image(tmp_path / "a.png", np.zeros(shape))
    for white in (picture(), picture().astype(np.float32)):  # as it would become without a check
        with pytest.raises(ValueError, match="divide"):
            images.write_image(tmp_path / "a.png", white)
    with pytest.raises(ValueError, match="bits is 12, but must be 8 or 16"):
        images.write_image(tmp_path / "a.png", np.zeros((2, 2, 3)), bits=12)
    assert not list(tmp_path.iterdir())


def test_import_does_not_load_jax():
    code = (
        "import sys, dcpt_jax.images, dcpt_jax.data.pipeline, dcpt_jax.data.photos, "
        "dcpt_jax.data.tasks; "
        "print({'jax', 'flax', 'grain', 'skimage', 'sklearn', 'torch'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


def test_16_bits_are_kept_where_the_format_can(tmp_path):
    image = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    for suffix in images.SUFFIXES_OF_16_BITS:
        images.write_image(tmp_path / f"x{suffix}", image, bits=16)
        pixels = images.read_pixels(tmp_path / f"x{suffix}")
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, np.rint(image.astype(np.float64) * 65535))
    with pytest.raises(images.ImageError, match="16 bits"):
        images.write_image(tmp_path / "x.jpg", image, bits=16)


def test_an_image_too_large_for_its_format_is_refused_by_name(tmp_path):
    wide = np.zeros((1, 70_000, 3), np.float32)
    with pytest.raises(images.ImageError, match=r"wide\.jpg.*70000x1 pixels are too large"):
        images.write_image(tmp_path / "wide.jpg", wide)
    assert not list(tmp_path.iterdir())


# --- colour profiles ------------------------------------------------------------------------------


def with_profile(path: Path, image: Image.Image, profile: bytes) -> Path:
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    image.save(path, icc_profile=profile, **options.get(path.suffix, {}))
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profiles_are_converted_to_srgb_unless_left_as_they_are(tmp_path, suffix):
    profile = rgb_profile()
    path = with_profile(tmp_path / f"a{suffix}", Image.fromarray(picture()), profile)
    expected = colour.to_srgb(picture() / 255, profile) * 255
    assert np.abs(expected - picture()).mean() > 3
    assert np.abs(images.read_pixels(path) - expected).mean() < 1
    as_is = images.read_pixels(path, colour="as_is")
    assert np.abs(as_is - picture().astype(int)).max() <= (3 if suffix == ".jpg" else 0)
    with pytest.raises(ValueError, match="'p3', but must be one of srgb, as_is"):
        images.read_pixels(path, colour="p3")


def test_16_bits_with_a_profile_stay_16_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 6, 3)).astype(np.uint16)
    path = tmp_path / "a.png"
    chunk = b"iCCP", b"x\0\0" + zlib.compress(rgb_profile(gamma=1.0))
    data = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    path.write_bytes(data[:33] + png(chunk)[8:] + data[33:])
    pixels = images.read_pixels(path)
    assert pixels.dtype == np.uint16
    expected = colour.to_srgb(values / 65535, rgb_profile(gamma=1.0)) * 65535
    assert np.abs(pixels - expected).max() < 1


def test_pixels_with_an_srgb_profile_are_left_alone(tmp_path):
    path = with_profile(tmp_path / "a.png", Image.fromarray(picture()), colour.srgb_profile())
    np.testing.assert_array_equal(images.read_pixels(path), picture())


def test_lab_and_grey_are_converted(tmp_path):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    path = with_profile(tmp_path / "a.png", grey, grey_profile(1.0))
    assert images.read_pixels(path)[8, 0, 0] == 188  # half of the light
    srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    ImageCms.profileToProfile(Image.fromarray(picture()), srgb, lab, outputMode="LAB").save(
        tmp_path / "lab.tif"
    )
    assert np.abs(images.read_pixels(tmp_path / "lab.tif") - picture().astype(int)).mean() < 3


@pytest.mark.parametrize("profile", [b"damaged", grey_profile(1.0)])
def test_a_profile_that_cannot_belong_to_the_pixels_is_ignored(tmp_path, profile):
    path = with_profile(tmp_path / "a.png", Image.fromarray(picture()), profile)
    np.testing.assert_array_equal(images.read_pixels(path), picture())


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that fails when it is read")
@pytest.mark.parametrize("read", [images.check_image, images.read_pixels])
def test_a_disk_that_fails_is_reported(read):
    with pytest.raises(images.ImageError, match=r"^/proc/self/mem: cannot be read \(.+\)$"):
        read("/proc/self/mem")
