"""Classical restoration methods of public libraries, as baselines for a network.

A method is given the degraded image only: not its class, noise level, blur kernel or clean image.
It estimates its parameters or uses the fixed settings below, which are those of the libraries'
examples or were chosen on the bundled training photos.

There is no method for haze: no release of scikit-image or OpenCV, contrib modules included, has a
dark channel prior. Inpainting (`cv2.inpaint`) is left out because it needs a mask of the missing
pixels.
"""

import dataclasses
import warnings
from collections.abc import Callable

import cv2
import numpy as np

from dcpt_jax import extras

# Sigma in pixels of the Gaussian kernel assumed for every blur, as the true kernel is unknown. Ten
# iterations, or the unsupervised Wiener filter, reach a lower PSNR on blurred training photos.
BLUR_SIGMA, BLUR_ITERATIONS = 1.5, 5


@dataclasses.dataclass(frozen=True)
class Method:
    """A classical method.

    Attributes:
        name: heading of its column.
        function: float32 [h, w, 3] -> float [h, w, 3].
        library: the library function that it calls.
        citation: publication of the method.
    """

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    library: str
    citation: str

    def __call__(self, degraded: np.ndarray) -> np.ndarray:
        """Restores an image.

        Args:
            degraded: float32 [h, w, 3], at least 11 pixels high and wide; may exceed [0, 1].

        Returns:
            float32 [h, w, 3] in [0, 1]. Where the method returns a non-finite value, as for an
            image without any detail, the pixel of `degraded` is kept.
        """
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # means of empty wavelet bands
            restored = self.function(degraded)
        return np.clip(np.where(np.isfinite(restored), restored, degraded), 0, 1).astype(np.float32)


def non_local_means(image: np.ndarray) -> np.ndarray:
    """Non-local means, with the noise estimated from the finest wavelet coefficients.

    Uses scikit-image instead of OpenCV's `fastNlMeansDenoisingColored`, which supports only 8-bit
    images, is no faster and reaches a lower PSNR (25.4 dB against 29.0 on noisy training photos of
    21.5 dB). Patches, distance and h = 0.6 sigma are those of scikit-image's example.
    """
    from skimage import restoration

    sigma = restoration.estimate_sigma(image, channel_axis=-1, average_sigmas=True)
    sigma = np.nan_to_num(sigma)
    return restoration.denoise_nl_means(
        image,
        patch_size=5,
        patch_distance=6,
        h=0.6 * sigma,
        sigma=sigma,
        fast_mode=True,
        channel_axis=-1,
    )


def wavelet(image: np.ndarray) -> np.ndarray:
    """Wavelet denoising: BayesShrink soft thresholds in YCbCr, noise estimated per channel."""
    from skimage import restoration

    return restoration.denoise_wavelet(
        image,
        method="BayesShrink",
        mode="soft",
        rescale_sigma=True,
        convert2ycbcr=True,
        channel_axis=-1,
    )


def richardson_lucy(image: np.ndarray) -> np.ndarray:
    """Richardson-Lucy deconvolution with the kernel of `BLUR_SIGMA` and `BLUR_ITERATIONS`."""
    from skimage import restoration

    radius = int(np.ceil(3 * BLUR_SIGMA))
    kernel = cv2.getGaussianKernel(2 * radius + 1, BLUR_SIGMA)
    kernel = kernel @ kernel.T
    margin = 2 * radius  # the library assumes black outside, which would spread inwards
    sides = ((margin, margin), (margin, margin), (0, 0))
    extended = np.pad(np.clip(image, 0, 1), sides, mode="reflect")
    channels = [
        restoration.richardson_lucy(extended[..., c], kernel, num_iter=BLUR_ITERATIONS)
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)[margin:-margin, margin:-margin]


def gamma(image: np.ndarray) -> np.ndarray:
    """Gamma correction that brings the mean of the image to 0.5."""
    from skimage import exposure

    image = np.clip(image, 0, 1)
    mean = np.clip(image.mean(), 0.001, 0.999)
    return exposure.adjust_gamma(image, np.log(0.5) / np.log(mean))


def clahe(image: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of the HSV value channel.

    Uses the library's defaults: tiles of 1/8 of the image's sides, clip limit 0.01.
    """
    from skimage import exposure

    return exposure.equalize_adapthist(np.clip(image, 0, 1))


METHODS = (
    Method(
        "non-local means",
        non_local_means,
        "skimage.restoration.denoise_nl_means, estimate_sigma",
        "Buades et al., A non-local algorithm for image denoising (2005)",
    ),
    Method(
        "wavelets",
        wavelet,
        "skimage.restoration.denoise_wavelet",
        "Chang et al., Adaptive wavelet thresholding for image denoising and compression (2000)",
    ),
    Method(
        "Richardson-Lucy",
        richardson_lucy,
        f"skimage.restoration.richardson_lucy, Gaussian kernel of sigma {BLUR_SIGMA} pixels, "
        f"{BLUR_ITERATIONS} iterations",
        "Richardson, Bayesian-based iterative method of image restoration (1972)",
    ),
    Method(
        "gamma",
        gamma,
        "skimage.exposure.adjust_gamma, to a mean of 0.5",
        "Gonzalez and Woods, Digital Image Processing, section 3.2",
    ),
    Method(
        "CLAHE",
        clahe,
        "skimage.exposure.equalize_adapthist",
        "Zuiderveld, Contrast limited adaptive histogram equalization (1994)",
    ),
)


def available() -> tuple[Method, ...]:
    """All methods."""
    with extras.needed("train", "config.baselines", instead="set --config.baselines=False"):
        import pywt  # noqa: F401
        import skimage  # noqa: F401
    return METHODS
