"""Synthetic degradations of clean photos: the registry, specs, and mixtures.

A spec names one or several degradations in the order of application, each with an optional
strength: `"noise:25"`, `"low_light+haze+rain"`, `"haze:0.5+rain"`. Without a strength, it is drawn
from the range of the class; a range, `"noise:1-50"`, or a choice, `"noise:15/25/50"`, replaces that
range. `"clean"` means no degradation and cannot be combined. A new built-in class is a module with
a `Degradation` constant and an entry in `_REGISTERED`; user-defined ones are added by `register`.

This package must not import JAX, because the worker processes of the data pipeline use it and must
not occupy an accelerator. It changes no global setting, so OpenCV keeps its own thread pool, which
slows down parallel processes; these should call `cv2.setNumThreads(0)` once, as the workers of the
data pipeline do.
"""

import math
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
from dcpt_jax.images import checked_image

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
    """Names of all degradations, in registry order (not class labels)."""
    return tuple(_BY_NAME)


def get(name: str) -> Degradation:
    """The degradation of that name; ValueError with the known names if there is none."""
    if name not in _BY_NAME:
        raise ValueError(f"unknown degradation {name!r}; known: {', '.join(names())}")
    return _BY_NAME[name]


def register(degradation: Degradation) -> Degradation:
    """Registers a user-defined degradation by its name; see docs/extending.md.

    Its `apply` must be a module-level function, since worker processes import it.

    Raises:
        ValueError: if the name is taken or not a lower-case word, or the strengths are not finite
            numbers in the order 0 <= low <= high <= `largest`.
    """
    name, (low, high) = degradation.name, degradation.strength_range
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"a degradation's name consists of lower-case letters, digits and '_', not {name!r}"
        )
    if not 0 <= low <= high <= degradation.largest < math.inf:
        raise ValueError(
            f"degradation {name!r}: its strengths must be 0 <= low <= high <= largest, not "
            f"strength_range={low, high} and largest={degradation.largest}"
        )
    if _BY_NAME.setdefault(name, degradation) != degradation:
        raise ValueError(f"there is another degradation {name!r}: choose a new name")
    return degradation


def parse(spec: str) -> tuple[tuple[Degradation, float | None], ...]:
    """Parses a spec such as `"haze:0.5+rain"`.

    Args:
        spec: names joined by `+` in the order of application, each with an optional `:strength`,
            `:low-high` or `:a/b/c`; spaces around the parts are ignored.

    Returns:
        For each part (degradation, strength), with None for a strength to be drawn from the range
        of that degradation.

    Raises:
        ValueError: for an empty spec or part, an unknown name (lists the known ones), an invalid
            strength (states the allowed range), or `clean` with a strength or other parts.
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
    *,
    clip: bool = False,
) -> np.ndarray:
    """Applies the degradations from `parse` in order, without checks.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; not modified.
        parts: result of `parse`; each strength that is None is drawn just before its degradation.
        rng: the only source of randomness.
        clip: whether to clip the result, which only matters if the last degradation does not.

    Returns:
        float32 [h, w, 3], a new array. In [0, 1] if clipped.
    """
    for degradation, strength in parts:
        if strength is None:
            strength = degradation.sample_strength(rng)
        image = degradation.apply(image, strength, rng)
    return np.clip(image, 0, 1) if clip else image


def degrade(image: np.ndarray, spec: str, *, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Degrades one image by one or several named degradations.

    `degrade(image, "a+b", seed=rng)` equals `degrade(degrade(image, "a", seed=rng), "b", seed=rng)`
    for one generator `rng` that both calls share.

    Args:
        image: float [h, w, 3], RGB, [0, 1], any size; not modified.
        spec: see `parse`.
        seed: an integer >= 0, which always gives the same result, or a NumPy Generator, which
            advances with every call.

    Returns:
        float32 [h, w, 3]. In [0, 1] if the last degradation of the spec clips (all do but noise).

    Raises:
        ValueError: for an invalid spec (see `parse`), image or seed.
    """
    parts = parse(spec)
    image = checked_image(image).astype(np.float32, copy=False)
    if not isinstance(seed, np.random.Generator):
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be an integer >= 0 or a NumPy Generator, not {seed!r}")
        seed = np.random.default_rng(int(seed))
    return apply_parts(image, parts, seed)
