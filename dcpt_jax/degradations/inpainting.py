"""Missing image regions, to be inpainted."""

from collections.abc import Iterator

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation

# These generators draw one shape per step into a mask, without end.


def _draw_lines(mask: np.ndarray, rng: np.random.Generator) -> Iterator[None]:
    """Lines between random points, 5 to 10 pixels thick in images of at least 80 pixels."""
    height, width = mask.shape
    thickness = max(round(min(rng.uniform(5.0, 10.0), min(height, width) / 8)), 1)
    while True:
        ends = (rng.random((2, 2)) * (width, height)).astype(int).tolist()
        cv2.line(mask, *ends, color=255, thickness=thickness)
        yield


def _draw_boxes(mask: np.ndarray, rng: np.random.Generator) -> Iterator[None]:
    """Axis-aligned rectangles with sides of 1/16 to 1/4 of the image's shorter side."""
    height, width = mask.shape
    while True:
        sides = rng.uniform(1 / 16, 1 / 4, 2) * min(height, width)
        corner = rng.random(2) * (width, height) - sides / 2
        opposite = np.maximum(corner + sides - 1, corner)
        ends = np.rint([corner, opposite]).astype(int).tolist()
        cv2.rectangle(mask, *ends, color=255, thickness=cv2.FILLED)
        yield


def _draw_strokes(mask: np.ndarray, rng: np.random.Generator) -> Iterator[None]:
    """Free-form strokes of a round brush that moves in zigzags."""
    height, width = mask.shape
    while True:
        thickness = max(round(rng.uniform(0.04, 0.12) * min(height, width)), 1)
        position = rng.random(2) * (width, height)
        heading = rng.uniform(0.0, 2.0 * np.pi)
        for stretch in range(rng.integers(4, 13)):
            # On alternating sides of the heading, so that a stroke covers a region.
            turn = rng.uniform(4 / 15, 8 / 15) * np.pi
            direction = heading + (turn if stretch % 2 else -turn)
            length = abs(rng.normal(1.0, 0.5)) * np.hypot(height, width) / 8
            step = length * np.array([np.cos(direction), np.sin(direction)])
            goal = np.clip(position + step, 0.0, (width - 1, height - 1))
            ends = np.rint([position, goal]).astype(int).tolist()
            cv2.line(mask, *ends, color=255, thickness=thickness)
            position = goal
            yield


_SHAPES = {"lines": _draw_lines, "boxes": _draw_boxes, "strokes": _draw_strokes}
_KINDS = ("lines", "lines", "boxes", "strokes")  # lines as often as both others


def draw_holes(
    height: int, width: int, share: float, kind: str, rng: np.random.Generator
) -> np.ndarray:
    """Draws a mask of "lines", "boxes" or "strokes" that covers a share of the pixels.

    The share, below 1, is exceeded at most by the last shape.

    Returns:
        uint8 [h, w], 255 where the image is missing and 0 elsewhere.
    """
    mask = np.zeros((height, width), np.uint8)
    drawing = _SHAPES[kind](mask, rng)
    while cv2.countNonZero(mask) < share * mask.size:
        next(drawing)
    return mask


def cut_holes(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Covers parts of the image with white or black (one colour per image).

    Half of the images get straight lines of 5 to 10 pixels, as in DCPT, whose 5 to 10 lines cover
    12 to 39 % of a 128x128 crop (central 95 %). The others get boxes or free-form strokes.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped.
        strength: percentage of the pixels that is covered, see `draw_holes`.
        rng: source of the kind, the holes and their colour.

    Returns:
        float32 [h, w, 3] in [0, 1]; unchanged outside the holes.

    References:
        DCPT (2025), lines; Pathak et al., Context Encoders (2016), boxes; Yu et al., Free-Form
        Image Inpainting with Gated Convolution (2019), strokes that turn to and fro.
    """
    degraded = np.clip(image, 0.0, 1.0)
    height, width = image.shape[:2]
    colour = np.float32(rng.integers(2))
    kind = _KINDS[rng.integers(len(_KINDS))]
    degraded[draw_holes(height, width, strength / 100.0, kind, rng) > 0] = colour
    return degraded


INPAINTING = Degradation(
    name="inpainting",
    apply=cut_holes,
    strength_range=(10.0, 40.0),
    largest=90.0,
    unit="percent of the pixels covered",
    clips=True,
    summary="Lines, boxes or free-form brush strokes in white or black.",
    source="DCPT (2025); Pathak et al. (2016); Yu et al. (2019).",
)
