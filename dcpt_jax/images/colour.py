"""ICC colour profiles of image files, and conversion to sRGB.

RGB and grey profiles made of curves (and a matrix) are converted with NumPy at the pixels' bit
depth, all others with Pillow's ImageCms (Little CMS) at 8 bits. The rendering intent is relative
colorimetric: colours outside sRGB are clipped to its nearest values.

NumPy and Pillow only; worker processes import this module, so it must stay free of jax.
"""

import functools
import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

# Primaries of sRGB as columns, in the profile connection space (XYZ under D50).
_SRGB_TO_XYZ = np.array(
    [
        [0.43606567, 0.38514709, 0.14307784],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)
_SPACES = {b"RGB ": "RGB", b"GRAY": "grey", b"CMYK": "CMYK", b"Lab ": "Lab"}
_GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B"})
_ROWS = 256  # rows converted at once, to bound the memory for large photos


class ProfileError(ValueError):
    """A colour profile that cannot be used; the message says why."""


@dataclass(frozen=True)
class _Curves:
    """The content of a curve-based profile: one curve per channel, and the primaries as columns."""

    curves: tuple[tuple[float, ...] | np.ndarray, ...]
    to_xyz: np.ndarray | None  # None: grey


def embedded_profile(image: Image.Image | None) -> tuple[str, bytes] | None:
    """Colour space and profile of a file's pixels; None if the file has none.

    Args:
        image: the opened file; None if it could not be opened.

    Returns:
        ("RGB", profile), likewise "grey" and "CMYK"; ("Lab", b"") for Lab pixels, which need no
        profile. Grey pixels may have an RGB profile.

    Raises:
        ProfileError: if the profile is damaged, or its space is not that of the pixels.
    """
    if image is None:
        return None
    if image.mode == "LAB":
        return "Lab", b""
    profile = image.info.get("icc_profile")
    if profile is None and "icc_profile" in image.info:
        raise ProfileError("the colour profile is damaged or incomplete")
    if not profile:
        return None
    space = space_of(profile)
    stored = {"RGB"}
    if image.mode == "CMYK":
        stored = {"CMYK"}
    elif image.mode in _GREY_MODES or _is_deep_grey_alpha(image):
        stored = {"grey", "RGB"}
    if space not in stored:
        raise ProfileError(f"the colour profile is for {space}, but the pixels are not")
    return space, profile


def _is_deep_grey_alpha(image: Image.Image) -> bool:
    """Whether a PNG is 16-bit grey with alpha, which Pillow opens as RGBA."""
    tiles = getattr(image, "tile", ())
    return image.format == "PNG" and bool(tiles) and tiles[0].args == "LA;16B"


@functools.lru_cache(maxsize=16)
def space_of(profile: bytes) -> str:
    """The colour space of a profile's pixels: "RGB", "grey", "CMYK", "Lab" or another name.

    Raises:
        ProfileError: if Little CMS cannot read the profile or convert pixels with it.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _SPACES.get(profile[16:20], profile[16:20].decode("ascii", "replace").strip())
        if mode := {"RGB": "RGB", "grey": "L", "CMYK": "CMYK"}.get(space):
            ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ProfileError(f"the colour profile is damaged ({error})") from error
    return space


def is_linear(profile: bytes) -> bool:
    """Whether the values of an RGB or grey profile are proportional to light (gamma 1.0)."""
    parsed = _curves_of(profile)
    if parsed is None:
        return False
    middle = np.array([0.25, 0.5, 0.75])
    return all(np.abs(_linear(middle, curve) - middle).max() < 0.02 for curve in parsed.curves)


def is_srgb(profile: bytes) -> bool:
    """Whether an RGB profile gives the colours of sRGB, within half an 8-bit level."""
    if profile[16:20] != b"RGB ":
        return False
    steps = np.linspace(0, 1, 9, dtype=np.float32)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
    return bool(np.abs(to_srgb(grid, profile) - grid).max() < 0.5 / 255)


@functools.cache
def srgb_profile() -> bytes:
    """The bytes of an sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def to_srgb(image: np.ndarray, profile: bytes) -> np.ndarray:
    """Converts an image with an RGB or grey profile to sRGB.

    Args:
        image: float [h, w, 3] in [0, 1], as stored; grey values repeated three times.
        profile: an ICC profile of RGB or grey.

    Returns:
        float32 [h, w, 3] in [0, 1]. Colours outside sRGB are clipped.

    Raises:
        ProfileError: if Little CMS cannot convert it.
    """
    parsed = _curves_of(profile)
    if parsed is None:
        return _converted_by_lcms(image, profile)
    result = np.empty(image.shape, np.float32)
    for start in range(0, len(image), _ROWS):
        rows = image[start : start + _ROWS]
        channels = [_linear(rows[..., i], curve) for i, curve in enumerate(parsed.curves)]
        if parsed.to_xyz is None:
            light = np.repeat(channels[0][..., None], 3, axis=2)
        else:
            matrix = np.linalg.solve(_SRGB_TO_XYZ, parsed.to_xyz)
            light = np.stack(channels, axis=-1) @ matrix.T
        result[start : start + _ROWS] = _srgb_encoded(np.clip(light, 0, 1))
    return result


def cmyk_to_srgb(image: Image.Image, profile: bytes) -> np.ndarray:
    """Converts Pillow's CMYK image to sRGB by its profile; uint8 [h, w, 3]."""
    return np.array(_by_lcms(image, profile))


def _converted_by_lcms(image: np.ndarray, profile: bytes) -> np.ndarray:
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if profile[16:20] == b"GRAY":
        pixels = np.ascontiguousarray(pixels[..., 0])
    return np.asarray(_by_lcms(Image.fromarray(pixels), profile), np.float32) / 255


def _by_lcms(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileError(f"the colour profile cannot be converted ({error})") from error


@functools.lru_cache(maxsize=16)
def _curves_of(profile: bytes) -> _Curves | None:
    """The curves and matrix of a profile; None if it is table-based or of another space."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = (
            struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 99))
        )
        tags = {name: profile[start : start + size] for name, start, size in entries}
        if b"A2B0" in tags or profile[20:24] != b"XYZ ":
            return None
        if profile[16:20] == b"GRAY":
            return _Curves((_curve(tags[b"kTRC"]),), None)
        if profile[16:20] != b"RGB ":
            return None
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        primaries = [
            struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")
        ]
        return _Curves(curves, np.array(primaries).T / 65536)
    except (KeyError, ProfileError, struct.error):
        return None


def _curve(tag: bytes) -> tuple[float, ...] | np.ndarray:
    """A curve from values to linear light: a table, or parameters (gamma, a, b, c, d, e, f).

    The parametric curve is (a x + b)^gamma + e for x >= d, and c x + f below.
    """
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        if count == 1:
            return (struct.unpack_from(">H", tag, 12)[0] / 256, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        return np.array(struct.unpack_from(f">{count}H", tag, 12)) / 65535
    if tag[:4] != b"para":
        raise ProfileError(f"unknown curve type {tag[:4]!r}")
    (kind,) = struct.unpack_from(">H", tag, 8)
    counts = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}
    if kind not in counts:
        raise ProfileError(f"unknown curve formula {kind}")
    values = [value / 65536 for value in struct.unpack_from(f">{counts[kind]}i", tag, 12)]
    if kind == 0:
        return (*values, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    if kind in (1, 2):
        gamma, a, b, *constant = values
        below = constant[0] if constant else 0.0
        return (gamma, a, b, 0.0, -b / a if a else 0.0, below, below)
    gamma, a, b, c, d, *constants = values
    e, f = constants or (0.0, 0.0)
    return (gamma, a, b, c, d, e, f)


def _linear(values: np.ndarray, curve: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """Applies a curve: values in [0, 1] to linear light in [0, 1], float64."""
    values = np.clip(np.asarray(values, np.float64), 0, 1)
    if isinstance(curve, np.ndarray):
        return np.interp(values, np.linspace(0, 1, len(curve)), curve)
    gamma, a, b, c, d, e, f = curve
    upper = np.maximum(a * values + b, 0) ** gamma + e
    return np.clip(np.where(values >= d, upper, c * values + f), 0, 1)


def _srgb_encoded(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
