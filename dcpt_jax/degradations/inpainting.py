"""Parts of the image that are lost, to be filled in."""

from collections.abc import Iterator

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation

# Each of these draws into a mask for ever: one more line, box or stretch of a brush per step.


def _draw_lines(mask: np.ndarray, rng: np.random.Generator) -> Iterator[None]:
    """Straight lines from anywhere to anywhere, 5 to 10 pixels thick in images of 80 and more."""
    height, width = mask.shape
    thickness = max(round(min(rng.uniform(5.0, 10.0), min(height, width) / 8)), 1)
    while True:
        ends = (rng.random((2, 2)) * (width, height)).astype(int).tolist()
        cv2.line(mask, *ends, color=255, thickness=thickness)
        yield


def _draw_boxes(mask: np.ndarray, rng: np.random.Generator) -> Iterator[None]:
    """Upright rectangles, each side between 1/16 and 1/4 of the image's shorter side."""
    height, width = mask.shape
    while True:
        sides = rng.uniform(1 / 16, 1 / 4, 2) * min(height, width)
        corner = rng.random(2) * (width, height) - sides / 2
        opposite = np.maximum(corner + sides - 1, corner)
        ends = np.rint([corner, opposite]).astype(int).tolist()
        cv2.rectangle(mask, *ends, color=255, thickness=cv2.FILLED)
        yield


def _draw_strokes(mask: np.ndarray, rng: np.random.Generator) -> Iterator[None]:
    """Free-form strokes: a round brush that goes to and fro, and is set down again elsewhere."""
    height, width = mask.shape
    while True:
        thickness = max(round(rng.uniform(0.04, 0.12) * min(height, width)), 1)
        position = rng.random(2) * (width, height)
        heading = rng.uniform(0.0, 2.0 * np.pi)
        for stretch in range(rng.integers(4, 13)):
            # To alternating sides of the heading, so that the stroke covers a region as a hand's.
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
    """Draws where an image is lost: "lines", "boxes" or "strokes" over a share of its pixels.

    The share, below 1, is exceeded by at most the last shape.

    Returns:
        uint8 [h, w], 255 where lost and 0 elsewhere.
    """
    mask = np.zeros((height, width), np.uint8)
    drawing = _SHAPES[kind](mask, rng)
    while cv2.countNonZero(mask) < share * mask.size:
        next(drawing)
    return mask


def cut_holes(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Covers parts of the image with white or black, one of them per image.

    Half of the images get DCPT's straight lines of 5 to 10 pixels; its 5 to 10 of them cover 12 to
    39 % of a crop of 128 (95 in 100 crops). The others get boxes or free-form strokes.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; values beyond are clipped.
        strength: percentage of the pixels that is covered, see `draw_holes`.
        rng: source of the kind, the holes and their colour.

    Returns:
        float32 [h, w, 3] in [0, 1]; exactly the image wherever no hole is.

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
