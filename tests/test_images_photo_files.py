"""Photos with profile, metadata, alpha and 16 bits: reading and writing."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from dcpt_jax import images
from dcpt_jax.images import colour, colour_tags
from dcpt_jax.images.metadata import Metadata
from dcpt_jax.images.photo_files import on_white, read_photo, write_photo
from dcpt_jax.images.xmp import cleaned_xmp
from tests.profiles import P3, cmyk_profile, grey_profile, rgb_profile
from tests.test_images_codec import picture, png

P3_PROFILE = rgb_profile(P3, None)
LOSSLESS = (".png", ".tif", ".webp")
IPTC = b"\x1c\x02\x78\x00\x05words"  # a caption
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:source="here"/>'
    b"<xmp:Thumbnails>picture</xmp:Thumbnails></x:xmpmeta>"
)


def exif_block(orientation: int = 6) -> bytes:
    """EXIF with a camera, a place, an exposure and a thumbnail at its end."""
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "Maker"
    exif.get_ifd(0x8769)[33434] = 0.5  # exposure time
    exif.get_ifd(0x8825)[1] = "N"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    order = "<" if block[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, first)
    link = first + 2 + 12 * count
    thumbnail = b"\xff\xd8 the thumbnail \xff\xd9"
    block += b"\0" * (len(block) % 2)
    at = len(block)
    second = struct.pack(
        order + "HHHIIHHIII", 2, 0x201, 4, 1, at + 30, 0x202, 4, 1, len(thumbnail), 0
    )
    return block[:link] + struct.pack(order + "I", at) + block[link + 4 :] + second + thumbnail


def saved(path, image: Image.Image | None = None, **options):
    image = Image.fromarray(picture()) if image is None else image
    if path.suffix == ".webp":
        options |= {"lossless": True, "exact": True}
    if path.suffix == ".jpg":
        options |= {"quality": 100, "subsampling": 0}
    image.save(path, **options)
    return path


def opened(path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def as_shown(path) -> np.ndarray:
    """What a viewer on an sRGB screen shows; [h, w, 3] float."""
    image = opened(path)
    profile = image.info.get("icc_profile")
    if profile is None:
        return np.asarray(image.convert("RGB"), float)
    mode = image.mode if image.mode in ("L", "CMYK") else "RGB"
    return np.asarray(
        ImageCms.profileToProfile(
            image.convert(mode),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ),
        float,
    )


def copied(source, target):
    """Reads a photo and writes it unchanged; returns the remarks."""
    pixels, carried = read_photo(source)
    return [*carried.remarks, *write_photo(target, images.to_float(pixels), carried)]


# Colour


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
@pytest.mark.parametrize("target", [*LOSSLESS, ".jpg", ".bmp"])
def test_an_rgb_profile_is_kept_and_nothing_is_clipped(tmp_path, suffix, target):
    source = saved(tmp_path / f"a{suffix}", icc_profile=P3_PROFILE)
    result = tmp_path / f"b{target}"
    remarks = copied(source, result)
    assert np.abs(as_shown(result) - as_shown(source)).mean() < (2.5 if target == ".jpg" else 0.5)
    if target == ".bmp":
        assert remarks == ["converted to sRGB, as .bmp does not support colour profiles"]
        return
    assert remarks == []
    assert opened(result).info["icc_profile"] == P3_PROFILE
    if target != ".jpg" and suffix != ".jpg":
        np.testing.assert_array_equal(np.asarray(opened(result)), picture())


def png_chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def gama_and_chrm(gamma, *numbers):
    values = [round(number * 100_000) for number in (gamma, *numbers)]
    chunks = png_chunk(b"gAMA", struct.pack(">I", values[0]))
    return chunks + (png_chunk(b"cHRM", struct.pack(">8I", *values[1:])) if numbers else b"")


D65_AND_P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


@pytest.mark.parametrize(
    "chunks",
    [
        png_chunk(b"cICP", bytes((12, 13, 0, 1))),  # Display P3
        gama_and_chrm(0.45455, *D65_AND_P3),
    ],
)
def test_wide_colours_without_a_profile_get_one(tmp_path, chunks):
    whole = saved(tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:33] + chunks + whole[33:])
    saved(tmp_path / "p3.png", icc_profile=P3_PROFILE)
    assert copied(tmp_path / "a.png", tmp_path / "b.png") == []
    assert np.abs(as_shown(tmp_path / "b.png") - as_shown(tmp_path / "p3.png")).max() <= 1
    read = images.read_pixels(tmp_path / "a.png")  # as data for training
    assert np.abs(read - images.read_pixels(tmp_path / "p3.png").astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        (png_chunk(b"cICP", bytes((1, 13, 0, 1))), []),
        (png_chunk(b"sRGB", b"\0") + gama_and_chrm(0.45455), []),
        (gama_and_chrm(0.45455), []),
        (png_chunk(b"cICP", bytes((9, 16, 0, 1))), ["HDR (PQ) treated as sRGB"]),
        (gama_and_chrm(1.0), ["converted to sRGB from linear RGB"]),
    ],
)
def test_colour_spaces_stated_by_pngs(tmp_path, chunks, said):
    whole = saved(tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:33] + chunks + whole[33:])
    assert copied(tmp_path / "a.png", tmp_path / "b.png") == said
    is_same = opened(tmp_path / "b.png").tobytes() == opened(tmp_path / "a.png").tobytes()
    assert is_same == ("converted" not in "".join(said))


def test_code_points_of_heic_are_understood(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.from_pillow(Image.fromarray(picture()))
    options = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
    heif.save(tmp_path / "a.heic", quality=100, **options)
    assert copied(tmp_path / "a.heic", tmp_path / "b.png") == []
    profile = opened(tmp_path / "b.png").info["icc_profile"]
    grid = np.linspace(0, 1, 27, dtype=np.float32).reshape(3, 3, 3)
    expected = colour.to_srgb(grid, P3_PROFILE)
    np.testing.assert_allclose(colour.to_srgb(grid, profile), expected, atol=2e-3)


def test_adobe_rgb_of_a_camera_gets_its_profile(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    source = saved(tmp_path / "a.jpg", exif=exif)
    copied(source, tmp_path / "b.png")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(opened(tmp_path / "b.png").info["icc_profile"]))
    assert profile.profile.green_primary[1][:2] == pytest.approx((0.23, 0.70), abs=0.01)  # at D50
    numbers = images.read_pixels(source, colour="as_is").astype(int)
    assert np.abs(images.read_pixels(source) - numbers).max() > 8


@pytest.mark.parametrize("points", [(12, 13), (1, 13), (9, 16)])
def test_the_code_points_of_a_png_count_more_than_its_profile(tmp_path, points):
    whole = saved(tmp_path / "a.png", icc_profile=rgb_profile(P3, 1.8)).read_bytes()
    text = png_chunk(b"tEXt", b"Comment\0cICP\x01\x01, IDAT")
    chunks = text + png_chunk(b"cICP", bytes((*points, 0, 1)))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunks + whole[33:])
    copied(tmp_path / "a.png", tmp_path / "b.png")
    grid = np.linspace(0, 1, 27, dtype=np.float32).reshape(3, 3, 3)
    # HDR, which is not understood, falls back to the profile.
    stated = {12: P3_PROFILE, 9: rgb_profile(P3, 1.8)}.get(points[0])
    found = opened(tmp_path / "b.png").info.get("icc_profile")
    assert (found is None) == (stated is None)
    if stated:
        expected = colour.to_srgb(grid, stated)
        np.testing.assert_allclose(colour.to_srgb(grid, found), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("gamma", "numbers"),
    [
        *((0.45455, (0.0,) * 8), (0.45455, (0.3,) * 8)),
        (0.45455, (0.3127, 0, 0.64, 0.33, 0.3, 0.6, 0, 0)),
        (0.45455, (0.3127, 0.329, 20000, 0.33, 0.3, 0.6, 0.15, 0.06)),
        *((0.00001, ()), (0.00001, D65_AND_P3), (20000, ())),
    ],
)
def test_impossible_colour_spaces_are_ignored(tmp_path, gamma, numbers):
    whole = saved(tmp_path / "a.png").read_bytes()
    chunks = gama_and_chrm(gamma, *numbers)
    (tmp_path / "a.png").write_bytes(whole[:33] + chunks + whole[33:])
    assert copied(tmp_path / "a.png", tmp_path / "b.png") == []
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "a.png"), picture())


def test_possible_colour_spaces_fit_a_profile():
    rng = np.random.default_rng(0)
    count = 0
    while count < 1000:
        numbers = (*rng.uniform(0, 1, 6), *rng.uniform(0.2, 0.45, 2))
        if colour_tags._possible(numbers, 10):
            colour_tags.rgb_profile(numbers, 10)
            count += 1


def test_the_profile_in_a_bmp_is_kept(tmp_path):
    pixels = picture()[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, 36, 24, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<4I4s48x", 0xFF0000, 0xFF00, 0xFF, 0, b"DEBM")
    head += struct.pack("<4I", 4, 124 + len(pixels), len(P3_PROFILE), 0)
    start = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 124)
    (tmp_path / "a.bmp").write_bytes(start + head + pixels + P3_PROFILE)
    assert copied(tmp_path / "a.bmp", tmp_path / "b.png") == []
    assert opened(tmp_path / "b.png").info["icc_profile"] == P3_PROFILE
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b.png")), picture())


def test_data_behind_a_jpeg_are_reported(tmp_path):
    source = saved(tmp_path / "a.jpg")
    whole = source.read_bytes()
    source.write_bytes(whole + b"\0\0\0\x18ftypisom" + b"video" * 400)
    (said,) = copied(source, tmp_path / "b.png")
    assert said == "2,012 bytes after the image, such as a video, dropped"
    source.write_bytes(whole + bytes(5000))
    assert copied(source, tmp_path / "b.png") == []


def test_ten_bits_of_avif_are_reported(tmp_path):
    assert copied(saved(tmp_path / "a.avif"), tmp_path / "b.png") == []
    deep = picture().astype(np.uint16) * 4
    assert cv2.imwrite(str(tmp_path / "a.avif"), deep, [cv2.IMWRITE_AVIF_DEPTH, 10])
    assert copied(tmp_path / "a.avif", tmp_path / "b.png") == ["10 bits reduced to 8"]


def test_texts_outside_the_metadata_are_reported(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "me")
    saved(tmp_path / "a.png", pnginfo=texts)
    assert copied(tmp_path / "a.png", tmp_path / "b.png") == ["PNG texts (Author) dropped"]
    saved(tmp_path / "a.jpg", comment=b"by me")
    assert copied(tmp_path / "a.jpg", tmp_path / "b.png") == ["comment dropped"]


@pytest.mark.parametrize("gamma", [1.0, 1.02])
def test_linear_colours_become_srgb(tmp_path, gamma):
    source = saved(tmp_path / "a.png", icc_profile=rgb_profile(gamma=gamma))
    assert copied(source, tmp_path / "b.png") == ["converted to sRGB from linear RGB"]
    assert colour.is_srgb(opened(tmp_path / "b.png").info["icc_profile"])
    assert np.abs(as_shown(tmp_path / "b.png") - as_shown(source)).max() <= 2


def test_grey_and_lab_become_srgb(tmp_path):
    grey = Image.fromarray(picture()[..., 0])
    source = saved(tmp_path / "a.png", grey, icc_profile=grey_profile(1.5))
    assert copied(source, tmp_path / "b.png") == ["converted to sRGB from grey"]
    assert np.abs(as_shown(tmp_path / "b.png") - as_shown(source)).max() <= 2
    srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    image = ImageCms.profileToProfile(Image.fromarray(picture()), srgb, lab, outputMode="LAB")
    assert copied(saved(tmp_path / "c.tif", image), tmp_path / "c.png") == [
        "converted to sRGB from Lab"
    ]
    assert colour.is_srgb(opened(tmp_path / "c.png").info["icc_profile"])


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_srgb_by_its_profile(tmp_path, suffix):
    ink = np.zeros((8, 16, 4), np.uint8)
    ink[:, 8:, 1] = 255  # magenta
    image = Image.fromarray(ink, "CMYK")
    source = saved(tmp_path / f"a{suffix}", image, icc_profile=cmyk_profile())
    assert copied(source, tmp_path / "b.png") == ["converted to sRGB from CMYK"]
    np.testing.assert_allclose(as_shown(tmp_path / "b.png"), as_shown(source), atol=6)
    right = images.read_pixels(source)[4, 12].astype(int)
    assert right[0] > right[2] > right[1] + 50  # neither inverted nor the plain (255, 0, 255)
    assert colour.is_srgb(opened(tmp_path / "b.png").info["icc_profile"])


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
@pytest.mark.parametrize("end", [300, -30])
def test_a_truncated_profile_is_reported(tmp_path, suffix, end):
    source = saved(tmp_path / f"a{suffix}", icc_profile=P3_PROFILE[:end])
    (said,) = copied(source, tmp_path / "b.png")
    assert said.startswith("the colour profile is damaged") and said.endswith("ignored")
    assert "icc_profile" not in opened(tmp_path / "b.png").info


@pytest.mark.parametrize("parts", [[1], [1, 1], [2, 1]])
def test_a_profile_in_several_segments_of_a_jpeg(tmp_path, parts):
    middle = len(P3_PROFILE) // 2
    halves = {1: P3_PROFILE[:middle], 2: P3_PROFILE[middle:]}
    data = saved(tmp_path / "a.jpg").read_bytes()
    for number in parts[::-1]:
        block = b"ICC_PROFILE\0" + bytes((number, 2)) + halves[number]
        data = data[:20] + struct.pack(">BBH", 0xFF, 0xE2, len(block) + 2) + block + data[20:]
    (tmp_path / "a.jpg").write_bytes(data)
    remarks = copied(tmp_path / "a.jpg", tmp_path / "b.png")
    profile = opened(tmp_path / "b.png").info.get("icc_profile")
    if parts == [2, 1]:
        assert (remarks, profile) == ([], P3_PROFILE)
    else:
        assert remarks[0].startswith("the colour profile is damaged")
        assert profile is None


def test_damaged_blocks_of_a_png_leave_the_others_whole(tmp_path, capfd):
    source = saved(tmp_path / "a.png", rgba(), icc_profile=P3_PROFILE)
    data = source.read_bytes()
    damaged = png_chunk(b"tEXt", b"Author\0me")[:-4] + b"\0\0\0\0"
    source.write_bytes(data[:33] + damaged + data[33:])
    dropped = "damaged or too long PNG chunks dropped:"
    assert copied(source, tmp_path / "b.png") == [f"{dropped} tEXt"]
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b.png")), np.asarray(rgba()))
    assert opened(tmp_path / "b.png").info["icc_profile"] == P3_PROFILE
    long = zlib.compress(bytes(2_000_000))
    for chunks, names in (
        ([(b"zTXt", b"workflow\0\0" + long)], "zTXt"),  # as editors and generators write them
        ([(b"iTXt", b"workflow\0\1\0\0\0" + long)], "iTXt"),
        ([(b"pHYs", b"\0\0")], "pHYs"),
        ([(b"zTXt", b"a\0\0" + long), (b"pHYs", b"\0\0")], "zTXt, pHYs"),
    ):
        parts = b"".join(png_chunk(*chunk) for chunk in chunks)
        for at in (33, len(data) - 12):  # before and after the pixels
            changed = data[:at] + parts + data[at:]
            source.write_bytes(changed)
            assert copied(source, tmp_path / "b.png") == [f"{dropped} {names}"]
            result = opened(tmp_path / "b.png")
            np.testing.assert_array_equal(np.asarray(result), np.asarray(rgba()))
            assert result.info["icc_profile"] == P3_PROFILE
    source.write_bytes(data[:33] + png_chunk(b"iCCP", b"no zero") + data[33:])
    assert copied(source, tmp_path / "b.png") == [f"{dropped} iCCP"]
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b.png")), np.asarray(rgba()))
    assert capfd.readouterr() == ("", "")  # libpng prints warnings of such blocks


def test_an_unusable_profile_is_reported(tmp_path):
    source = saved(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    (said,) = copied(source, tmp_path / "b.png")
    assert said == "the colour profile is for grey, but the pixels are not; profile ignored"
    assert "icc_profile" not in opened(tmp_path / "b.png").info


# Metadata


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
@pytest.mark.parametrize("target", [*LOSSLESS, ".jpg"])
def test_metadata_are_kept_upright_and_without_thumbnail(tmp_path, suffix, target):
    source, result = tmp_path / f"a{suffix}", tmp_path / f"b{target}"
    metadata = Metadata(exif_block(), XMP, IPTC)
    pixels = images.to_float(picture())
    _, carried = read_photo(saved(source))
    write_photo(source, pixels, type(carried)(8, metadata=metadata))
    copied(source, result)
    image = opened(result)
    exif = image.getexif()
    orientation = 6 if suffix == ".tif" else 1  # this TIFF states it in XMP alone: not turned
    assert exif.get(274, 1) in (1, orientation) and exif[271] == "Maker"
    assert exif.get_ifd(0x8769)[33434] == 0.5
    assert exif.get_ifd(0x8825)[1] == "N"
    content = result.read_bytes()
    assert b"the thumbnail" not in content
    assert f'tiff:Orientation="{orientation}"'.encode() in content
    assert b"Thumbnails" not in content
    assert b'dc:source="here"' in content
    assert image.size == (24, 36) if suffix != ".tif" else (36, 24)
    _, again = read_photo(result)
    assert again.metadata.iptc == (None if ".webp" in (suffix, target) else IPTC)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_an_orientation_in_xmp_alone_is_neither_applied_nor_changed(tmp_path, suffix):
    carried = type(read_photo(saved(tmp_path / "a.png"))[1])(8, metadata=Metadata(xmp=XMP))
    write_photo(tmp_path / f"b{suffix}", images.to_float(picture()), carried)
    pixels, again = read_photo(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(pixels, picture())
    assert b'tiff:Orientation="6"' in again.metadata.xmp


GOOGLE = 'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"'
CONTAINER = (
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
)
GAIN_MAP = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"'


@pytest.mark.parametrize(
    ("attributes", "elements"),
    [
        (f'{GOOGLE} GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"', ""),
        (f"{GOOGLE} GCamera:MicroVideo='1'\n GCamera:MicroVideoOffset='4096'", ""),
        (GOOGLE.replace("GCamera", "Camera"), "<Camera:MotionPhoto>1</Camera:MotionPhoto>"),
        (
            CONTAINER,
            "<Container:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'><Container:Item "
            "Item:Semantic='MotionPhoto' Item:Length='4096'/></rdf:li></rdf:Seq>"
            "</Container:Directory>",
        ),
        (
            f'{GAIN_MAP} hdrgm:Version="1.0" hdrgm:GainMapMax="2.3"',
            "<hdrgm:Gamma><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></hdrgm:Gamma>",
        ),
        ('xmlns:note="http://ns.adobe.com/xmp/note/" note:HasExtendedXMP="0123"', ""),
        ("", "<xap:Thumbnails a='b'>MotionPhoto</xap:Thumbnails >"),
    ],
)
def test_xmp_forgets_the_parts_that_are_left_out(attributes, elements):
    xmp = (
        f'<rdf:Description tiff:Orientation="6" {attributes} GCamera:hdrp_makernote="x" '
        f'dc:source="a MotionPhoto">{elements}<dc:subject>Gamma</dc:subject></rdf:Description>'
    )
    found = cleaned_xmp(xmp, turned=True).decode()
    assert 'tiff:Orientation="1"' in found and 'GCamera:hdrp_makernote="x"' in found
    assert 'dc:source="a MotionPhoto"><dc:subject>Gamma</dc:subject></rdf:Description>' in found
    for word in ("MotionPhoto", "Micro", "Item:", "Container:", "hdrgm:", "Extended", "Thumb"):
        assert word not in found.replace("a MotionPhoto", "").replace(f"xmlns:{word}", "")


def test_xmp_that_cannot_forget_them_is_left_out(tmp_path):
    xmp = f'<rdf:Description {GAIN_MAP}><hdrgm:Gamma><rdf:Seq><hdrgm:Version="1'.encode()
    carried = type(read_photo(saved(tmp_path / "a.png"))[1])(8, metadata=Metadata(xmp=xmp))
    write_photo(tmp_path / "a.png", images.to_float(picture()), carried)
    assert copied(tmp_path / "a.png", tmp_path / "b.png") == ["damaged XMP dropped"]


@pytest.mark.parametrize(
    ("name", "block", "found"),
    [
        (b"exif", b"Exif\0\0" + exif_block(1), "EXIF"),
        (b"APP1", b"Exif\0\0" + exif_block(1), "EXIF"),
        (b"APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP, "XMP"),
        (b"xmp", XMP, "XMP"),
        (b"8bim", b"8BIM", "PNG texts (Raw profile type 8bim) dropped"),
        (b"exif", exif_block(6), "EXIF"),
        (b"APP1", b"Exif\0\0" + exif_block(6), "EXIF"),
    ],
)
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_metadata_in_texts_of_imagemagick(tmp_path, kind, name, block, found):
    whole = saved(tmp_path / "a.png").read_bytes()
    text = f"\n{name.decode()}\n{len(block):8}\n{block.hex()}\n".encode()
    text = text if kind == b"tEXt" else b"\0" + zlib.compress(text)
    chunk = png_chunk(kind, b"Raw profile type " + name + b"\0" + text)
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    pixels, carried = read_photo(tmp_path / "a.png")
    assert [*carried.metadata.names(), *carried.remarks] == [found]
    turned = exif_block(6) in block
    np.testing.assert_array_equal(pixels, np.rot90(picture(), -1) if turned else picture())


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_metadata_of_float_tiffs(tmp_path, big, order):
    values = images.to_float(picture())
    more = [(315, 2, 3, b"me\0", True), (700, 1, len(XMP), XMP, True)]
    options = {"photometric": "rgb", "bigtiff": big, "byteorder": order, "extratags": more}
    tifffile.imwrite(tmp_path / "a.tif", np.stack([values, values]), **options)
    assert copied(tmp_path / "a.tif", tmp_path / "b.jpg") == [
        "only the first of several images is used",
        "reduced to 8 bits, as .jpg does not support 16",
    ]
    assert opened(tmp_path / "b.jpg").getexif()[315] == "me"
    assert b'dc:source="here"' in opened(tmp_path / "b.jpg").info["xmp"]


@pytest.mark.parametrize("target", [".tif", ".png"])
def test_stars_titles_and_private_tags_go_to_tiff_and_back(tmp_path, target):
    exif = Image.Exif()
    exif[18246], exif[40091], exif[39424] = 4, "title".encode("utf-16-le"), "a phone"
    exif[33432] = "\u00a9 J\u00f6rg".encode()  # UTF-8, as cameras store it
    copied(saved(tmp_path / "a.jpg", exif=exif), tmp_path / "b.tif")
    assert copied(tmp_path / "b.tif", tmp_path / f"c{target}") == []
    found = opened(tmp_path / f"c{target}").getexif()
    assert (found[18246], found[40091]) == (4, "title".encode("utf-16-le"))
    assert found[39424] == "a phone"
    assert found[33432].encode("latin-1") == "\u00a9 J\u00f6rg".encode()


def test_metadata_unsupported_by_webp_and_bmp_are_reported(tmp_path):
    carried = read_photo(saved(tmp_path / "a.png"))[1]
    carried = type(carried)(16, metadata=Metadata(exif_block(), XMP, IPTC))
    image = images.to_float(picture())
    assert write_photo(tmp_path / "a.webp", image, carried) == [
        "reduced to 8 bits, as .webp does not support 16",
        "IPTC dropped, as .webp does not support it",
    ]
    assert write_photo(tmp_path / "a.bmp", image, carried)[1:] == [
        "EXIF, XMP, IPTC dropped, as .bmp does not support it"
    ]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
@pytest.mark.parametrize("target", [".jpg", ".png", ".tif", ".bmp"])
def test_print_resolution_is_kept(tmp_path, suffix, target):
    source = saved(tmp_path / f"a{suffix}", dpi=(300, 150))
    assert "resolution" not in " ".join(copied(source, tmp_path / f"b{target}"))
    assert opened(tmp_path / f"b{target}").info["dpi"] == pytest.approx((300, 150), rel=1e-3)


def test_print_resolution_turns_with_the_photo_and_is_not_made_up(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    copied(saved(tmp_path / "a.jpg", dpi=(300, 150), exif=exif), tmp_path / "b.png")
    assert opened(tmp_path / "b.png").info["dpi"] == pytest.approx((150, 300), rel=1e-3)
    for number, options in enumerate([{}, {"exif": exif}, {"dpi": (0, 0)}]):
        copied(saved(tmp_path / "a.jpg", **options), tmp_path / f"{number}.png")
        assert "dpi" not in opened(tmp_path / f"{number}.png").info, options


def test_print_resolution_goes_to_the_exif_of_webp(tmp_path):
    assert copied(saved(tmp_path / "a.jpg", dpi=(300, 150)), tmp_path / "b.webp") == []
    exif = opened(tmp_path / "b.webp").getexif()
    assert (exif[282], exif[283], exif[296]) == (300, 150, 2)


@pytest.mark.parametrize("exif", [b"", b"XX*\0\0\0\0\x08", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0"])
def test_broken_exif_is_left_out(tmp_path, exif):
    source = saved(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    remarks = ["unreadable EXIF dropped"] if exif else []
    assert copied(source, tmp_path / "b.png") == remarks
    assert "exif" not in opened(tmp_path / "b.png").info


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [(5, 1, 2**32 - 1), (5, 1, 10_000), (2, 2**31, 8), (99, 1, 0), (5, 2**32 - 1, 2**32 - 1)],
)
@pytest.mark.parametrize("stored", [(33434, 12, 1), (315, 2, 3), (0x8825, 4, 1), (2, 5, 3)])
def test_a_damaged_exif_tag_leaves_the_others_whole(tmp_path, stored, kind, count, value):
    tag = stored[0]
    exif = Image.Exif()
    exif[315], exif[18246], exif[305] = "me", 4, "editor"
    exif.get_ifd(0x8769)[33434], exif.get_ifd(0x8769)[42036] = 0.5, "lens"
    exif.get_ifd(0x8825)[2], exif.get_ifd(0x8825)[29] = (48.0, 1.0, 2.0), "2024:01:01"
    block = exif.tobytes()
    order = "<" if block[6:8] == b"II" else ">"
    start = block.index(struct.pack(order + "HHI", *stored))
    damaged = struct.pack(order + "HHII", tag, kind, count, value)
    source = saved(tmp_path / "a.jpg", exif=block[:start] + damaged + block[start + 12 :])
    target = tmp_path / "b.tif"
    assert copied(source, target) == [
        f"damaged EXIF tag {tag:#06x} dropped, as .tif does not support it"
    ]
    found = opened(target).getexif()
    found = {**found, **found.get_ifd(0x8769), **found.get_ifd(0x8825)}
    whole = {315: "me", 18246: 4, 305: "editor", 33434: 0.5, 42036: "lens"}
    whole |= {2: (48.0, 1.0, 2.0), 29: "2024:01:01"} if tag != 0x8825 else {}
    for name in whole.keys() - {tag}:
        assert found[name] == whole[name], name
    assert copied(target, tmp_path / "c.tif") == []
    data = target.read_bytes()  # the value of "editor" now lies beyond the end of the TIFF
    at = data.rindex(struct.pack(order + "HHI", 305, 2, 7)) + 8
    target.write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])
    assert copied(target, tmp_path / "c.png") == ["damaged EXIF tag 0x0131 dropped"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("tag", [270, 305, 315])
def test_a_damaged_text_in_a_tiff_costs_neither_profile_nor_alpha(tmp_path, tag, dtype):
    image = picture()[..., [0, 1, 2, 0]].astype(dtype)
    image = image / np.float32(255) if dtype == np.float32 else image
    texts = {270: {"description": "a description"}, 305: {"software": "an editor"}}.get(tag, {})
    texts |= {"extratags": [(315, 2, 9, "somebody", True)]} if tag == 315 else {}
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "iccprofile": P3_PROFILE}
    tifffile.imwrite(tmp_path / "a.tif", image, **options, **texts, metadata=None)
    pixels, carried = read_photo(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    at = data.rindex(struct.pack("<HH", tag, 2)) + 8
    (tmp_path / "a.tif").write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])
    again, damaged = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(again, pixels)
    np.testing.assert_array_equal(damaged.alpha, carried.alpha)
    assert damaged.profile == P3_PROFILE
    assert damaged.remarks == (f"damaged EXIF tag {tag:#06x} dropped",)


def test_exif_behind_the_pixels_of_a_png_turns_it_and_is_kept(tmp_path):
    path = saved(tmp_path / "a.png")
    data = path.read_bytes()
    path.write_bytes(data[:-12] + png((b"eXIf", exif_block()))[8:] + data[-12:])
    pixels, carried = read_photo(path)
    assert pixels.shape == (36, 24, 3)
    assert b"Maker" in carried.metadata.exif


def test_metadata_too_long_for_jpeg_are_reported(tmp_path):
    metadata = Metadata(xmp=b"x" * 70_000)
    carried = type(read_photo(saved(tmp_path / "a.png"))[1])(8, b"", metadata)
    assert write_photo(tmp_path / "a.jpg", images.to_float(picture()), carried) == [
        "XMP of over 64 KiB dropped, as .jpg does not support it"
    ]
    assert opened(tmp_path / "a.jpg").size == (36, 24)


# Alpha and depth


def rgba() -> Image.Image:
    alpha = np.arange(24 * 36, dtype=np.uint32).reshape(24, 36).astype(np.uint8)
    return Image.fromarray(np.dstack([picture(), alpha]))


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("target", LOSSLESS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_alpha_is_kept(tmp_path, suffix, target, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    source = saved(tmp_path / f"a{suffix}", rgba(), exif=exif)
    assert copied(source, tmp_path / f"b{target}") == []
    expected = np.asarray(rgba())
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / f"b{target}")), expected)


def test_alpha_is_dropped_where_the_format_has_none(tmp_path):
    source = saved(tmp_path / "a.png", rgba())
    assert copied(source, tmp_path / "b.jpg") == ["alpha dropped, as .jpg has none"]
    opaque = saved(tmp_path / "c.png", Image.fromarray(picture()).convert("RGBA"))
    assert copied(opaque, tmp_path / "c.jpg") == []


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_alpha_of_grey_and_palette(tmp_path, mode):
    options = {"transparency": 0} if mode == "P" else {}
    image = rgba() if mode == "LA" else Image.fromarray(picture())
    source = saved(tmp_path / "a.png", image.convert(mode), **options)
    assert copied(source, tmp_path / "b.png") == []
    np.testing.assert_array_equal(
        np.asarray(opened(tmp_path / "b.png")), np.asarray(opened(source).convert("RGBA"))
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_of_deep_pngs_with_one_transparent_colour(tmp_path, channels):
    pixels = np.repeat(picture().astype(np.uint16)[..., :1] * 257, channels, axis=2)
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels)
    level = int(pixels[3, 4, 0])
    chunk = b"tRNS" + level.to_bytes(2, "big") * channels
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    data = (tmp_path / "a.png").read_bytes()
    length = (2 * channels).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:33] + length + chunk + crc + data[33:])
    assert copied(tmp_path / "a.png", tmp_path / "b.png") == []
    result = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    expected = np.where(pixels[..., 0] == level, 0, 65535)
    np.testing.assert_array_equal(result[..., 3], expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_grey_of_a_png_of_few_bits(tmp_path, bits):
    header = b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    rows = bytes((0, (1 << (8 - bits)) + (0 << (8 - 2 * bits))))  # the values 1 and 0
    chunks = [header, (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png(*chunks))
    pixels, carried = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels[0, :, 0], [255 // (2**bits - 1), 0])
    np.testing.assert_array_equal(carried.alpha, [[0, 255]])


def test_extra_channels_of_a_tiff_are_named(tmp_path):
    values = np.dstack([picture(), picture()[..., :2]])
    for extra, remarks in (
        (["unspecified", "unspecified"], ["2 extra channels dropped"]),
        (["unassalpha", "unspecified"], ["1 extra channel dropped"]),
    ):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=extra)
        assert copied(tmp_path / "a.tif", tmp_path / "b.png") == remarks


def test_an_alpha_channel_of_zeros_in_a_bmp_is_ignored(tmp_path):
    pixels = np.dstack([picture()[..., ::-1], np.zeros((24, 36), np.uint8)])[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, 36, 24, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 0, 0, 0, 122) + head + pixels)
    assert copied(tmp_path / "a.bmp", tmp_path / "b.png") == []
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b.png")), picture())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_grey_with_alpha_and_a_grey_profile(tmp_path, suffix):
    values = np.dstack([picture()[..., 0]] * 2).astype(np.uint16) * 257
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        options = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
        tifffile.imwrite(path, values, iccprofile=grey_profile(1.5), **options)
    else:
        header = b"IHDR", struct.pack(">IIBBBBB", 36, 24, 16, 4, 0, 0, 0)
        rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
        profile = b"iCCP", b"x\0\0" + zlib.compress(grey_profile(1.5))
        path.write_bytes(png(header, profile, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    assert copied(path, tmp_path / "b.png") == ["converted to sRGB from grey"]
    grey = Image.fromarray(picture()[..., 0])
    expected = as_shown(saved(tmp_path / "c.png", grey, icc_profile=grey_profile(1.5)))
    np.testing.assert_allclose(images.read_image(tmp_path / "b.png") * 255, expected, atol=2.5)


def test_on_white():
    pixels = np.full((1, 3, 3), 100, np.uint8)
    found = on_white(pixels, np.array([[0, 51, 255]], np.uint8))
    np.testing.assert_array_equal(found[0, :, 0], [255, 224, 100])


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("target", [".png", ".tif"])
def test_16_bits_alpha_and_profile_are_kept_together(tmp_path, channels, suffix, target):
    values = np.random.default_rng(0).integers(0, 65536, (24, 36, channels)).astype(np.uint16)
    source, result = tmp_path / f"a{suffix}", tmp_path / f"b{target}"
    data = cv2.imencode(".png", values)[1].tobytes()
    chunk = b"iCCP", b"x\0\0" + zlib.compress(P3_PROFILE)
    source.write_bytes(data[:33] + png(chunk)[8:] + data[33:])
    if suffix == ".tif":
        copied(source, tmp_path / "c.tif")
        source = tmp_path / "c.tif"
    assert copied(source, result) == []
    np.testing.assert_array_equal(cv2.imread(str(result), cv2.IMREAD_UNCHANGED), values)
    assert opened(result).info["icc_profile"] == P3_PROFILE if target == ".png" else True
    assert read_photo(result)[1].profile == P3_PROFILE


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_of_deep_tiffs(tmp_path, dtype, extra, planar):
    largest = 65535 if dtype == np.uint16 else 1
    values = np.full((24, 36, 4), largest / 2).astype(dtype)
    values[:2, :, 3] = largest / 2
    if planar == "separate":
        values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    options = {"photometric": "rgb", "planarconfig": planar, "extrasamples": [extra]}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    remarks = ["1 extra channel dropped"] if extra == "unspecified" else []
    assert copied(tmp_path / "a.tif", tmp_path / "b.png") == remarks
    result = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    assert result.dtype == np.uint16
    assert result.shape[2] == (3 if extra == "unspecified" else 4)
    assert abs(int(result[0, 0, 0]) - (65535 if extra == "assocalpha" else 32768)) <= 1


def test_16_bits_with_alpha_become_8_in_webp(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (24, 36, 4)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", values)[1].tobytes())
    assert copied(tmp_path / "a.png", tmp_path / "b.webp") == [
        "reduced to 8 bits, as .webp does not support 16"
    ]
    found = np.asarray(opened(tmp_path / "b.webp"))[..., [2, 1, 0, 3]]
    assert np.abs(found - values / 257).max() <= 0.5


def test_further_pictures_are_reported(tmp_path):
    frames = [Image.fromarray(picture() // n) for n in (1, 2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert copied(tmp_path / "a.gif", tmp_path / "b.png") == [
        "only the first of several images is used"
    ]


@pytest.mark.parametrize("damage", [False, True])
def test_a_png_with_a_damaged_animation_is_read(tmp_path, damage):
    second = Image.fromarray(255 - np.asarray(rgba()))
    source = saved(tmp_path / "a.png", rgba(), save_all=True, append_images=[second])
    if damage:  # the frames after the first are lost
        data = source.read_bytes()
        source.write_bytes(data[: data.index(b"fdAT") - 4] + data[-12:])
    remark = "only the first of several images is used"
    assert copied(source, tmp_path / "b.png") == [remark]
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b.png")), np.asarray(rgba()))


def test_a_damaged_animation_of_16_bits_does_not_end_the_process(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (24, 36, 4)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    place = struct.pack(">4I", 36, 24, 0, 0) + bytes((0, 1, 0, 1, 0, 0))  # and duration
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 36, 24, 16, 6, 0, 0, 0))]
    chunks += [(b"acTL", struct.pack(">II", 2, 0)), (b"IDAT", zlib.compress(rows))]
    damaged = zlib.compress(b"\x09" * len(rows))  # with an unknown filter
    chunks += [(b"fcTL", bytes(4) + place), (b"fdAT", b"\0\0\0\1" + damaged), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png(*chunks))
    pixels, carried = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(np.dstack([pixels, carried.alpha]), values)


def test_a_large_tiff_has_several_strips(tmp_path):
    image = np.random.default_rng(0).random((700, 800, 3)).astype(np.float32)
    carried = type(read_photo(saved(tmp_path / "a.png"))[1])(16)
    write_photo(tmp_path / "a.tif", image, carried)
    np.testing.assert_array_equal(
        images.read_pixels(tmp_path / "a.tif"), np.rint(image.astype(np.float64) * 65535)
    )
