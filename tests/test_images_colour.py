"""Colour profiles: conversions agree with Little CMS, and damaged ones are refused."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from dcpt_jax.images import colour
from tests import profiles


def by_lcms(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    return np.asarray(
        ImageCms.profileToProfile(
            Image.fromarray(pixels),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        ),
        int,
    )


@pytest.mark.parametrize("gamma", [None, 1.0, 1.8, 2.2])
@pytest.mark.parametrize("primaries", [profiles.P3, profiles.SRGB])
def test_rgb_is_converted_as_little_cms_does(gamma, primaries):
    profile = profiles.rgb_profile(primaries, gamma)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 5, 3), np.uint8)
    found = colour.to_srgb(pixels / 255, profile)
    assert (found.dtype, found.shape) == (np.float32, pixels.shape)
    assert np.abs(found * 255 - by_lcms(pixels, profile)).max() < 1.5
    assert (colour.space_of(profile), colour.is_linear(profile)) == ("RGB", gamma == 1.0)
    assert colour.is_srgb(profile) == (gamma is None and primaries is profiles.SRGB)


def test_grey_is_converted_as_little_cms_does():
    profile = profiles.grey_profile(1.8)
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = colour.to_srgb(np.repeat(pixels[..., None] / 255, 3, axis=2), profile)
    assert np.abs(found * 255 - by_lcms(pixels, profile)).max() < 1.5
    assert colour.space_of(profile) == "grey"


def test_the_srgb_profile_of_little_cms_is_srgb():
    assert colour.is_srgb(colour.srgb_profile())
    grey = np.full((2, 3, 3), 0.3)
    np.testing.assert_allclose(colour.to_srgb(grey, colour.srgb_profile()), grey, atol=1e-3)


@pytest.mark.parametrize("profile", [b"", b"x" * 200, profiles.rgb_profile()[:100]])
def test_a_damaged_profile_is_refused(profile):
    with pytest.raises(colour.ProfileError, match="the colour profile is damaged"):
        colour.space_of(profile)


def test_a_profile_of_tables_is_left_to_little_cms():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert colour.space_of(lab) == "Lab"
    assert not colour.is_linear(lab) and not colour.is_srgb(lab)
