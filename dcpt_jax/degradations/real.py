"""Degradations of photos from phones and the web: a random chain of mild ones."""

import dataclasses
import math
import statistics

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation

_Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Pass:
    """Ranges (low, high) and probabilities of one pass through the chain, at strength 1."""

    blur_chance: float  # probability of a blur
    sigma: _Range  # standard deviation of the blur along each axis, in pixels
    scale_chances: tuple[float, float, float]  # probabilities of scaling (down, up, not)
    shrink: _Range  # scaling down by the factor 1 / (1 + shrink)
    stretch: _Range  # scaling up by the factor 1 + stretch
    gaussian: _Range  # standard deviation of Gaussian noise, in 1/255
    poisson: _Range  # standard deviation of Poisson noise at white, in 1/255
    loss: _Range  # 100 minus the quality of the JPEG compression


# Probabilities as published (options of Real-ESRGAN x4plus); ranges about half as large, since the
# published ones are for inputs of a quarter of the size, where much of the damage is not visible.
PASSES = (
    Pass(
        blur_chance=1.0,
        sigma=(0.1, 1.5),  # published: 0.2 to 3
        scale_chances=(0.7, 0.2, 0.1),
        shrink=(0.0, 1.0),  # factor 0.5 to 1; published: 0.15 to 1
        stretch=(0.0, 0.5),  # as published
        gaussian=(1.0, 15.0),  # published: 1 to 30
        poisson=(0.8, 24.0),  # published: 0.8 to 48
        loss=(5.0, 50.0),  # quality 50 to 95; published: 30 to 95
    ),
    Pass(
        blur_chance=0.8,
        sigma=(0.1, 0.8),  # published: 0.2 to 1.5
        scale_chances=(0.4, 0.3, 0.3),
        shrink=(0.0, 0.6),  # factor 0.62 to 1; published: 0.3 to 1
        stretch=(0.0, 0.2),  # as published
        gaussian=(1.0, 10.0),  # published: 1 to 25
        poisson=(0.8, 16.0),  # published: 0.8 to 40
        loss=(5.0, 50.0),  # as in the first pass, also published
    ),
)
_GREY_CHANCE = 0.4  # probability of equal noise in all channels
_SINC_CHANCE, _FINAL_SINC_CHANCE = 0.1, 0.8  # sinc filter instead of a blur; at the end
_KINDS = ("gaussian", "generalised", "plateau")
# Probabilities of these kinds with equal axes, then with unequal ones.
_KIND_CHANCES = (0.45, 0.12, 0.12, 0.25, 0.03, 0.03)
_ANY_KIND = np.cumsum(_KIND_CHANCES) / np.sum(_KIND_CHANCES)
_FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_LARGEST_RADIUS = 15  # pixels, of blur kernels at any strength
_SINC_RADII = (3, 5)  # smallest and largest; published: 3 to 10


def _bessel_table() -> tuple[np.ndarray, np.ndarray]:
    """Points from 0 to 24, and the Bessel function J1 at these, by Bessel's integral."""
    points, angles = np.linspace(0.0, 24.0, 769), 2 * np.pi * np.arange(64) / 64
    return points, np.cos(angles - points[:, None] * np.sin(angles)).mean(axis=1)


def _normal_table() -> np.ndarray:
    """float32 [4096]: quantiles of the normal distribution, with mean 0 and standard deviation 1.

    Drawing from this table is five times as fast as `standard_normal`, and fine enough for 8-bit
    images.
    """
    inverse = statistics.NormalDist().inv_cdf
    half = np.array([inverse((i + 0.5) / 4096) for i in range(2048)])
    values = np.concatenate([half, -half[::-1]])
    return (values / values.std()).astype(np.float32)


_J1, _NORMAL = _bessel_table(), _normal_table()


def blur_kernel(
    sigmas: _Range, angle: float, *, kind: str = "gaussian", shape: float = 1.0
) -> np.ndarray:
    """A kernel with elliptical contours.

    With q the squared distance from the centre in units of `sigmas`: exp(-q / 2) for "gaussian",
    exp(-q^shape / 2) for "generalised", 1 / (1 + q^shape) for "plateau".

    Args:
        sigmas: standard deviations along both axes (of the Gaussian), in pixels, > 0.
        angle: angle of the first axis, in radians.
        kind: one of the three.
        shape: exponent; larger values give a flatter top and steeper sides.

    Returns:
        float32 [side, side], side odd and at most 31, non-negative, sum 1, point-symmetric.
    """
    radius = min(math.ceil(2.5 * max(sigmas)), _LARGEST_RADIUS)
    steps = np.arange(-radius, radius + 1, dtype=np.float32)
    cosine, sine = math.cos(angle), math.sin(angle)
    along = (cosine * steps + sine * steps[:, None]) / np.float32(sigmas[0])
    across = (cosine * steps[:, None] - sine * steps) / np.float32(sigmas[1])
    q = along * along + across * across
    if kind == "plateau":
        kernel = 1 / (1 + q ** np.float32(shape))
    else:
        kernel = np.exp(-0.5 * (q if kind == "gaussian" else q ** np.float32(shape)))
    return kernel / kernel.sum()


def sinc_kernel(cutoff: float, radius: int) -> np.ndarray:
    """A truncated ideal low-pass filter, which causes ringing at edges like sharpening.

    Args:
        cutoff: cutoff frequency in radians per pixel, in (0, pi].
        radius: in pixels, up to 5.

    Returns:
        float32 [2 radius + 1, 2 radius + 1], sum 1, symmetric, partly negative.
    """
    steps = np.arange(-radius, radius + 1)
    distance = np.hypot(steps, steps[:, None])
    distance[radius, radius] = 1.0
    kernel = cutoff * np.interp(cutoff * distance, *_J1) / (2 * np.pi * distance)
    kernel[radius, radius] = cutoff**2 / (4 * np.pi)
    return (kernel / kernel.sum()).astype(np.float32)


def degrade_as_in_reality(
    image: np.ndarray, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Applies random blur, scaling, noise and JPEG compression, twice.

    The second-order degradation process of Real-ESRGAN, with output of the size of the input. Each
    of the two passes consists of these steps, in random order (as in BSRGAN; Real-ESRGAN: in this
    one):

    * blur: a Gaussian, generalised Gaussian (exponent 0.5 to 4) or plateau-shaped kernel (1 to 2)
      with equal or unequal axes, or with probability 0.1 a sinc filter; the second pass has a blur
      with probability 0.8;
    * scaling down or up, with area, bilinear or bicubic interpolation, aligned at the image corners
      so that nothing is displaced. The factor is relative to the original size;
    * Gaussian or Poisson noise, with probability 0.4 equal in all channels. Poisson noise is
      approximated by Gaussian noise of the same variance;
    * JPEG compression with a random offset of the 8x8 grid, as in a cropped photo.

    In the second pass, compression comes last, and scaling back to the original size, followed by
    a sinc filter (probability 0.8), comes right before or after it. At strength 1 (`PASSES`):

    ===========================  ===============  ================
    range                        first pass       second pass
    ===========================  ===============  ================
    blur, sigma in pixels        0.1 to 1.5       0.1 to 0.8
    scaling down (probability)   0.5 to 1 (0.7)   0.62 to 1 (0.4)
    scaling up (probability)     1 to 1.5 (0.2)   1 to 1.2 (0.3)
    Gaussian noise, in 1/255     1 to 15          1 to 10
    Poisson noise, white, 1/255  0.8 to 24        0.8 to 16
    JPEG quality                 50 to 95         50 to 95
    ===========================  ===============  ================

    Args:
        image: float32 [h, w, 3], RGB, [0, 1], h and w up to 20,000; values beyond are clipped
            first.
        strength: multiplies all ranges (of scaling: 1 / factor - 1 down, factor - 1 up; of JPEG:
            100 - quality, up to 95); 0 = unchanged. The cutoff of sinc filters is
            pi / (1 + u strength), with u uniform from 0 to 1.
        rng: source of all random choices.

    Returns:
        float32 [h, w, 3] in [0, 1], not displaced against `image`.

    References:
        Wang et al., Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
        Data (ICCVW 2021), sections 3.1 to 3.4; Zhang et al., BSRGAN (ICCV 2021), the random order.
    """
    image = np.ascontiguousarray(np.clip(image, 0.0, 1.0))
    if strength == 0.0:
        return image
    size = image.shape[:2]
    first, second = PASSES
    for step in rng.permutation(4):
        image = (_blur, _scale, _add_noise, _compress)[step](image, first, size, strength, rng)
    for step in rng.permutation(3):
        image = (_blur, _scale, _add_noise)[step](image, second, size, strength, rng)
    for step in rng.permutation(2):
        image = (_scale_back, _compress)[step](image, second, size, strength, rng)
    return np.clip(image, 0.0, 1.0, out=image)


# The steps of the chain: (current image, ranges of the pass, original size, strength, rng) ->
# image.
_Size = tuple[int, int]


def _drawn(ends: _Range, strength: float, rng: np.random.Generator) -> float:
    return strength * (ends[0] + (ends[1] - ends[0]) * rng.random())


def _blur(
    image: np.ndarray, ranges: Pass, size: _Size, strength: float, rng: np.random.Generator
) -> np.ndarray:
    if rng.random() >= ranges.blur_chance:
        return image
    if rng.random() < _SINC_CHANCE:
        return _filter_by_sinc(image, strength, rng)
    kind = int(np.searchsorted(_ANY_KIND, rng.random()))
    sigmas = [max(_drawn(ranges.sigma, strength, rng), 0.01) for _ in range(2)]
    angle = np.pi * rng.random()
    if kind < len(_KINDS):
        sigmas[1] = sigmas[0]
    kind = _KINDS[kind % len(_KINDS)]
    shape = 1 + rng.random()
    if kind == "generalised":  # below and above 1 with equal probability
        shape = 0.5 + 0.5 * rng.random() if rng.random() < 0.5 else 1 + 3 * rng.random()
    kernel = blur_kernel(tuple(sigmas), angle, kind=kind, shape=shape)
    return cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)


def _filter_by_sinc(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    cutoff = np.pi / (1 + strength * rng.random())
    kernel = sinc_kernel(cutoff, int(rng.integers(*_SINC_RADII, endpoint=True)))
    return cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)


def _scale(
    image: np.ndarray, ranges: Pass, size: _Size, strength: float, rng: np.random.Generator
) -> np.ndarray:
    down, up, _ = ranges.scale_chances
    choice = rng.random()
    if choice < down:
        factor = 1 / (1 + _drawn(ranges.shrink, strength, rng))
    elif choice < down + up:
        factor = 1 + _drawn(ranges.stretch, strength, rng)
    else:
        return image
    return _resized(image, tuple(max(1, round(factor * side)) for side in size), rng)


def _resized(image: np.ndarray, size: _Size, rng: np.random.Generator) -> np.ndarray:
    """The image resized to (height, width) `size` by a random interpolation."""
    filtering = _FILTERS[rng.integers(len(_FILTERS))]
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=filtering)


def _add_noise(
    image: np.ndarray, ranges: Pass, size: _Size, strength: float, rng: np.random.Generator
) -> np.ndarray:
    is_gaussian, is_grey = rng.random() < 0.5, rng.random() < _GREY_CHANCE
    deviation = _drawn(ranges.gaussian if is_gaussian else ranges.poisson, strength, rng)
    shape = image.shape[:2] if is_grey else image.shape
    draws = np.frombuffer(rng.bytes(2 * math.prod(shape)), np.uint16) & 4095
    noise = (_NORMAL * np.float32(deviation / 255.0)).take(draws).reshape(shape)
    if not is_gaussian:
        light = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if is_grey else image
        noise *= np.sqrt(np.maximum(light, 0.0))
    if is_grey:
        noise = cv2.merge([noise] * 3)
    noise += image
    return np.clip(noise, 0.0, 1.0, out=noise)


def _compress(
    image: np.ndarray, ranges: Pass, size: _Size, strength: float, rng: np.random.Generator
) -> np.ndarray:
    quality = round(100 - min(_drawn(ranges.loss, strength, rng), 95.0))
    top, left = rng.integers(8, size=2)
    pixels = cv2.convertScaleAbs(np.maximum(image, 0.0), alpha=255.0)  # rounds, clips above
    pixels = cv2.copyMakeBorder(pixels, top, 0, left, 0, cv2.BORDER_REPLICATE)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return np.multiply(pixels[top:, left:], np.float32(1 / 255), dtype=np.float32)


def _scale_back(
    image: np.ndarray, ranges: Pass, size: _Size, strength: float, rng: np.random.Generator
) -> np.ndarray:
    image = _resized(image, size, rng)
    return _filter_by_sinc(image, strength, rng) if rng.random() < _FINAL_SINC_CHANCE else image


REAL = Degradation(
    name="real",
    apply=degrade_as_in_reality,
    strength_range=(0.5, 1.5),
    largest=4.0,
    unit="factor of the ranges of the chain",
    clips=True,
    summary="Blur, scaling, noise and JPEG compression in random order, twice.",
    source="Wang et al., Real-ESRGAN (2021); Zhang et al., BSRGAN (2021).",
)
