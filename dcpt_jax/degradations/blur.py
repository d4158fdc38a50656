"""Motion blur by camera shake."""

import cv2
import numpy as np

from dcpt_jax.degradations.base import Degradation

_MOMENTS = 48  # random accelerations along one exposure
_SAMPLES_PER_MOMENT = 12  # dense enough that a path of 255 px leaves no gaps between samples
_INERTIA = 0.93  # share of the velocity that remains after one moment


def _path_response() -> np.ndarray:
    """[moments + 1, moments]: position at each moment per unit of acceleration at each moment."""
    age = np.arange(_MOMENTS + 1)[:, None] - np.arange(_MOMENTS)[None, :]
    # Velocity decays geometrically, so the position is a partial geometric sum of it.
    return np.where(age > 0, (1.0 - _INERTIA ** np.maximum(age, 0)) / (1.0 - _INERTIA), 0.0)


_PATH_RESPONSE = _path_response()


def camera_shake_kernel(extent: float, rng: np.random.Generator) -> np.ndarray:
    """Draws a motion-blur kernel: the path of a point of light over the sensor.

    The camera drifts in a random direction and gets random pushes, with inertia; the paths are
    nearly straight to curly. The drift is constant, so every path has an extent. The path is scaled
    to `extent`, centred on its mean so that the blurred image is not displaced, and drawn with
    sub-pixel accuracy.

    Args:
        extent: largest distance between two points of the path along x or y, in pixels; up to 1
            gives the identity kernel.
        rng: source of direction, shakiness and pushes.

    Returns:
        float32 [rows, columns], both odd, non-negative, sum 1, of minimal size.

    References:
        Boracchi and Foi, Modeling the Performance of Image Restoration from Motion Blur (2012);
        Kupyn et al., DeblurGAN (2018), on generating motion blur.
    """
    if extent <= 1.0:
        return np.ones((1, 1), np.float32)
    pushes = rng.standard_normal((_MOMENTS, 2))
    shakiness = np.exp(rng.uniform(np.log(0.03), np.log(0.4)))
    direction = rng.uniform(0.0, 2.0 * np.pi)
    drift = np.arange(_MOMENTS + 1)[:, None] * (np.cos(direction), np.sin(direction))
    path = drift + shakiness * (_PATH_RESPONSE @ pushes)
    moments = np.arange(_MOMENTS * _SAMPLES_PER_MOMENT + 1) / _SAMPLES_PER_MOMENT
    x, y = (np.interp(moments, np.arange(_MOMENTS + 1), path[:, axis]) for axis in (0, 1))
    scale = (extent - 1.0) / max(np.ptp(x), np.ptp(y))  # a single point is one pixel wide
    return _draw_path((x - x.mean()) * scale, (y - y.mean()) * scale)


def _draw_path(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kernel with equal weights at the points `(x, y)`, [n] offsets from its centre, bilinear."""
    half_width, half_height = (int(np.ceil(np.abs(axis).max())) for axis in (x, y))
    columns, rows = 2 * half_width + 1, 2 * half_height + 1
    x, y = x + half_width, y + half_height
    left = np.minimum(x.astype(np.int64), max(columns - 2, 0))
    top = np.minimum(y.astype(np.int64), max(rows - 2, 0))
    right_share, bottom_share = x - left, y - top
    right, bottom = np.minimum(left + 1, columns - 1), np.minimum(top + 1, rows - 1)
    cells = np.concatenate(
        [row * columns + column for row in (top, bottom) for column in (left, right)]
    )
    shares = np.concatenate(
        [
            row_share * column_share
            for row_share in (1.0 - bottom_share, bottom_share)
            for column_share in (1.0 - right_share, right_share)
        ]
    )
    kernel = np.bincount(cells, weights=shares, minlength=rows * columns)
    return (kernel / kernel.sum()).reshape(rows, columns).astype(np.float32)


def blur_by_motion(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs with one camera-shake kernel over the whole image.

    Args:
        image: float32 [h, w, 3], RGB, [0, 1]; mirrored at the border.
        strength: extent of the kernel in pixels, see `camera_shake_kernel`.
        rng: source of the kernel.

    Returns:
        float32 [h, w, 3] in [0, 1].
    """
    kernel = camera_shake_kernel(strength, rng)
    degraded = cv2.filter2D(
        np.ascontiguousarray(image), cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101
    )
    # Larger kernels go through a Fourier transform, whose rounding errors leave [0, 1] slightly.
    return np.clip(degraded, 0.0, 1.0, out=degraded)


MOTION_BLUR = Degradation(
    name="motion_blur",
    apply=blur_by_motion,
    strength_range=(7.0, 21.0),
    largest=255.0,
    unit="extent of the kernel in pixels",
    clips=True,
    summary="Blur by a shaking camera: a random path with inertia as kernel.",
    source="Boracchi and Foi (2012); Kupyn et al., DeblurGAN (2018).",
)
