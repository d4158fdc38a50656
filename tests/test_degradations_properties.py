"""Properties of all degradations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcpt_jax.degradations import degrade, get, names, parse

DAMAGING = tuple(name for name in names() if name != "clean")


@pytest.fixture(scope="module")
def patches() -> list[np.ndarray]:
    """Eight float32 [64, 64, 3] crops of two photos."""
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(7)
    crops = []
    for photo in (data.astronaut(), data.coffee()):
        for _ in range(4):
            top, left = (rng.integers(length - 64) for length in photo.shape[:2])
            crops.append(photo[top : top + 64, left : left + 64].astype(np.float32) / 255)
    return crops


def _mean_psnr(name: str, strength: float, patches: list[np.ndarray]) -> float:
    """Over patches and draws, of the degraded patch as it would be shown: clipped."""
    psnrs = []
    for seed in range(6 * len(patches)):
        patch = patches[seed % len(patches)]
        degraded = degrade(patch, f"{name}:{strength}", seed=seed)
        error = np.mean((np.clip(degraded, 0, 1) - patch) ** 2)
        psnrs.append(-10 * np.log10(error))
    return float(np.mean(psnrs))


def _range_or_all(name: str) -> tuple[float, float]:
    """The range that training draws from; from almost 0 if it is a single strength."""
    low, high = get(name).strength_range
    return (low, high) if low < high else (high / 5, high)


@pytest.mark.parametrize("name", DAMAGING)
def test_stronger_is_worse_and_range_is_damaging(name: str, patches: list[np.ndarray]) -> None:
    low, high = _range_or_all(name)
    strengths = [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)]
    psnrs = [_mean_psnr(name, strength, patches) for strength in strengths]
    assert all(better > worse + 0.3 for better, worse in itertools.pairwise(psnrs)), psnrs
    # The bands in which a restorer can visibly gain and a classifier can see the class.
    mildest, strongest = {
        "noise": (30, 14),
        "motion_blur": (30, 17),
        "haze": (19, 8),
        "rain": (27, 15),
        "low_light": (16, 7),
        "defocus_blur": (30, 17),
        "jpeg": (33, 25),
        "snow": (26, 13),
        "mosaic": (46, 28),  # at a fifth of its one strength, and at that
        "inpainting": (17, 7),
        "poisson_noise": (33, 16),
        "real": (34, 22),
    }[name]
    assert psnrs[0] < mildest and psnrs[-1] > strongest, psnrs


@pytest.mark.parametrize("name", DAMAGING)
def test_strength_0_leaves_the_image(name: str, patches: list[np.ndarray]) -> None:
    degraded = degrade(patches[0], f"{name}:0")
    if name == "low_light":  # keeps the noise of a well exposed sensor
        assert _mean_psnr(name, 0, patches) > 35
    else:
        np.testing.assert_allclose(degraded, patches[0], rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    level=st.sampled_from(["black", "white", "random"]),
    share=st.floats(0, 1),
)
def test_any_size_seed_and_strength(
    height: int, width: int, seed: int, level: str, share: float
) -> None:
    shape = (height, width, 3)
    image = {
        "black": np.zeros(shape, np.float32),
        "white": np.ones(shape, np.float32),
        "random": np.random.default_rng(seed).random(shape, dtype=np.float32),
    }[level]
    before = image.copy()
    for name in DAMAGING:
        low, high = _range_or_all(name)
        degraded = degrade(image, f"{name}:{low + share * (high - low)}", seed=seed)
        assert degraded.shape == shape and degraded.dtype == np.float32
        assert np.isfinite(degraded).all()
        assert not np.shares_memory(degraded, image)
        if get(name).clips:
            assert degraded.min() >= 0 and degraded.max() <= 1
        np.testing.assert_array_equal(image, before)
        if min(shape[:2]) >= 16 and level == "random":
            assert np.abs(degraded - image).max() > 0.01


@settings(max_examples=20, deadline=None, derandomize=True)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_clean_images_of_any_size_stay_as_they_are(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    result = degrade(image, "clean", seed=seed)
    assert result.dtype == np.float32 and not np.shares_memory(result, image)
    np.testing.assert_array_equal(result, image)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    chosen=st.lists(st.sampled_from(DAMAGING), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)
def test_any_mixture(chosen: list[str], seed: int) -> None:
    image = np.random.default_rng(seed).random((16, 19, 3), dtype=np.float32)
    spec = "+".join(chosen)
    assert [part.name for part, _ in parse(spec)] == chosen
    degraded = degrade(image, spec, seed=seed)
    assert degraded.shape == image.shape and np.isfinite(degraded).all()


@pytest.mark.parametrize("name", DAMAGING)
def test_largest_strength_works(name: str) -> None:
    image = np.random.default_rng(0).random((16, 17, 3), dtype=np.float32)
    degraded = degrade(image, f"{name}:{get(name).largest}")
    assert np.isfinite(degraded).all() and degraded.shape == image.shape


@pytest.mark.parametrize("name", names())
def test_read_only_images_are_accepted(name: str) -> None:
    image = np.random.default_rng(0).random((16, 17, 3), dtype=np.float32)
    expected = degrade(image, name)
    image.setflags(write=False)
    np.testing.assert_array_equal(degrade(image, name), expected)
