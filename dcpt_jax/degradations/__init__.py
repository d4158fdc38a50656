"""Synthetic degradations of clean photos: the registry, specs, and mixtures.

A spec names one or several degradations in the order in which they happen, each with an optional
strength: `"noise:25"`, `"low_light+haze+rain"`, `"haze:0.5+rain"`. A strength that is left out is
drawn from the class's range; one that is a range, `"noise:1-50"`, or a choice, `"noise:15/25/50"`,
from that. `"clean"` means no degradation and stands alone. A new class is one module with a
`Degradation` constant and one entry in `_REGISTERED`; one of a user's own is registered by
`register`.

NumPy and OpenCV only: worker processes of the data pipeline import this package and must hold no
accelerator. Importing it changes no global setting, so OpenCV keeps its own thread pool, which
slows several workers down; a process that degrades patches in bulk should call
`cv2.setNumThreads(0)` once at its start, as the data pipeline's workers do.
"""

import numbers
import re

import numpy as np

from dcpt_jax.degradations import (
    blur,
    clean,
    defocus,
    inpainting,
    jpeg,
    low_light,
    mosaic,
    noise,
    real,
    snow,
    weather,
)
from dcpt_jax.degradations.base import Degradation

__all__ = ["Degradation", "apply_parts", "degrade", "get", "names", "parse", "register"]

_REGISTERED = (
    noise.NOISE,
    blur.MOTION_BLUR,
    weather.HAZE,
    weather.RAIN,
    low_light.LOW_LIGHT,
    defocus.DEFOCUS_BLUR,
    jpeg.JPEG,
    snow.SNOW,
    mosaic.MOSAIC,
    inpainting.INPAINTING,
    noise.POISSON_NOISE,
    real.REAL,
    clean.CLEAN,
)
_BY_NAME = {degradation.name: degradation for degradation in _REGISTERED}


def names() -> tuple[str, ...]:
    """Names of all degradations, in registry order (which is no class index)."""
    return tuple(_BY_NAME)


def get(name: str) -> Degradation:
    """The degradation of that name; ValueError with the known names if there is none."""
    if name not in _BY_NAME:
        raise ValueError(f"unknown degradation {name!r}; known: {', '.join(names())}")
    return _BY_NAME[name]


def register(degradation: Degradation) -> Degradation:
    """Makes a degradation of a user's own known by its name, as docs/extending.md shows.

    Its `apply` has to be a function of a module: worker processes import it from there.

    Raises:
        ValueError: if the name is another one's, or no lower-case word.
    """
    name = degradation.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"a degradation's name is made of lower-case letters, digits and '_', not {name!r}"
        )
    if _BY_NAME.setdefault(name, degradation) != degradation:
        raise ValueError(f"there is another degradation {name!r}: choose a new name")
    return degradation


def parse(spec: str) -> tuple[tuple[Degradation, float | None], ...]:
    """Reads a spec such as `"haze:0.5+rain"`.

    Args:
        spec: names joined by `+` in the order of application, each with an optional `:strength`,
            `:low-high` or `:a/b/c`; spaces around the parts do not matter.

    Returns:
        A pair per part: the degradation, and its strength or None (to be drawn); with a range
        or a choice, a degradation that draws from it.

    Raises:
        ValueError: empty spec or part, unknown name (lists the known ones), a strength that is no
            number, negative, NaN or too large (states the allowed range), or `clean` with a
            strength or with other parts.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ValueError(
            f"a degradation is text such as 'noise:25' or 'low_light+haze', not {spec!r}; "
            f"known: {', '.join(names())}"
        )
    parts = []
    for part in spec.split("+"):
        name, colon, strength = (piece.strip() for piece in part.partition(":"))
        if not name:
            raise ValueError(
                f"empty name in degradation {spec!r}: write names joined by single '+' signs; "
                f"known: {', '.join(names())}"
            )
        degradation = get(name)
        parts.append(degradation.with_strength(strength) if colon else (degradation, None))
    if len(parts) > 1 and any(degradation is clean.CLEAN for degradation, _ in parts):
        raise ValueError(
            f"degradation {spec!r}: 'clean' means no degradation, so it cannot be part of a "
            "mixture; leave it out, or write 'clean' alone"
        )
    return tuple(parts)


def apply_parts(
    image: np.ndarray,
    parts: tuple[tuple[Degradation, float | None], ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Applies what `parse` returned, in order, without checks: the pipeline's inner call.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; not modified.
        parts: as from `parse`; where a strength is None it is drawn right before it is used.
        rng: the only source of randomness.

    Returns:
        float32 [h, w, 3], a new array. In [0, 1] if the last degradation clips.
    """
    for degradation, strength in parts:
        if strength is None:
            strength = degradation.sample_strength(rng)
        image = degradation.apply(image, strength, rng)
    return image


def degrade(image: np.ndarray, spec: str, *, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Degrades one image by one or several named degradations.

    `degrade(image, "a+b", seed=rng)` equals `degrade(degrade(image, "a", seed=rng), "b", seed=rng)`
    for one generator `rng` that both calls share.

    Args:
        image: float [h, w, 3], RGB, [0, 1], any size; not modified.
        spec: see `parse`.
        seed: an integer >= 0, which always gives the same result, or a NumPy Generator, which
            moves on with every call.

    Returns:
        float32 [h, w, 3]. In [0, 1] if the last degradation of the spec clips (all do but noise).

    Raises:
        ValueError: a bad spec (see `parse`), image or seed.
    """
    parts = parse(spec)
    image = _checked_image(image)
    if not isinstance(seed, np.random.Generator):
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be an integer >= 0 or a NumPy Generator, not {seed!r}")
        seed = np.random.default_rng(int(seed))
    return apply_parts(image, parts, seed)


def _checked_image(image: np.ndarray) -> np.ndarray:
    """`image` as float32 [h, w, 3], or a ValueError that says what is expected."""
    image = np.asarray(image)
    expected = "a float image [height, width, 3], RGB, in [0, 1], is expected"
    if np.issubdtype(image.dtype, np.integer):
        divisor = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 255
        raise ValueError(
            f"{expected}, got {image.dtype}: divide by {divisor} "
            f"(image.astype(numpy.float32) / {divisor})"
        )
    if image.dtype.kind != "f":
        raise ValueError(f"{expected}, got dtype {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        hint = {2: "; repeat a gray image three times", 4: "; pass the images of a batch singly"}
        raise ValueError(f"{expected}, got shape {image.shape}{hint.get(image.ndim, '')}")
    image = image.astype(np.float32, copy=False)
    mean = float(image.mean())
    if not np.isfinite(mean):
        raise ValueError(f"{expected}, got one with NaN or infinite values")
    if mean > 2.0:  # not the maximum: unclipped noise from an earlier call goes far beyond 1
        raise ValueError(f"{expected}, got mean {mean:.1f}: divide by 255 if the range is 0 to 255")
    return image
