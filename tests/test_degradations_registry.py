import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from dcpt_jax import degradations
from dcpt_jax.degradations import apply_parts, degrade, get, names, parse

NAMES = (
    *("noise", "motion_blur", "haze", "rain", "low_light"),
    *("defocus_blur", "jpeg", "snow", "mosaic", "inpainting"),
    *("poisson_noise", "real", "clean"),
)
DAMAGING = NAMES[:-1]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((24, 31, 3), dtype=np.float32)


def test_names_are_the_ten_classes_and_the_further_ones() -> None:
    assert names() == NAMES
    assert [get(name).name for name in names()] == list(NAMES)


def test_every_entry_is_complete() -> None:
    for name in DAMAGING:
        entry = get(name)
        low, high = entry.strength_range
        assert 0 < low <= high <= entry.largest
        assert entry.summary.endswith(".") and entry.unit
        assert any(character.isdigit() for character in entry.source)  # a year: literature
    assert [name for name in DAMAGING if len(set(get(name).strength_range)) == 1] == ["mosaic"]
    assert [name for name in names() if not get(name).clips] == ["noise"]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown degradation 'fog'") as caught:
        get("fog")
    assert all(name in str(caught.value) for name in NAMES)


def test_sampled_strengths_fill_the_range() -> None:
    rng = np.random.default_rng(0)
    for name in names():
        low, high = get(name).strength_range
        draws = [get(name).sample_strength(rng) for _ in range(300)]
        assert low <= min(draws) <= low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) <= max(draws) <= high


def test_parse_keeps_order_and_strengths() -> None:
    assert parse("noise:25") == ((get("noise"), 25.0),)
    assert parse(" haze:0.5 + rain + low_light : 3e0 ") == (
        (get("haze"), 0.5),
        (get("rain"), None),
        (get("low_light"), 3.0),
    )


def test_parse_allows_strengths_outside_the_drawn_range() -> None:
    assert parse("noise:0.5+haze:7") == ((get("noise"), 0.5), (get("haze"), 7.0))
    assert parse("noise:0") == ((get("noise"), 0.0),)


def test_parse_takes_a_range_to_draw_from() -> None:
    ((noise, strength), (haze, _)) = parse("noise: 1 - 50.5 + haze:1e-1")
    assert strength is None and noise.strength_range == (1.0, 50.5)
    assert haze.strength_range == get("haze").strength_range  # 0.1, no range
    rng = np.random.default_rng(0)
    draws = [noise.sample_strength(rng) for _ in range(300)]
    assert 1 <= min(draws) < 3 and 48 < max(draws) <= 50.5
    ((fixed, _),) = parse("noise:25-25")
    gray = np.full((64, 64, 3), 0.5, np.float32)
    np.testing.assert_array_equal(fixed.sample_strength(rng), 25.0)
    deviation = degrade(gray, "noise:200-201", seed=1).std()
    np.testing.assert_allclose(deviation, 200.5 / 255, rtol=0.03)


def test_a_choice_of_strengths_is_drawn_from_equally() -> None:
    ((noise, strength),) = parse("noise: 15/25/50")
    assert strength is None and noise.strength_range == (15, 50)
    rng = np.random.default_rng(0)
    draws = [noise.sample_strength(rng) for _ in range(600)]
    counts = [draws.count(strength) for strength in (15.0, 25.0, 50.0)]
    assert sum(counts) == 600 and min(counts) > 150
    with pytest.raises(ValueError, match=r"strength '5000' of 'noise' must be a number from 0"):
        parse("noise:15/5000")


def test_parse_refuses_bad_ranges() -> None:
    with pytest.raises(ValueError, match=r"strengths '50-1' of 'noise': .*'noise:1-50'"):
        parse("noise:50-1")
    with pytest.raises(ValueError, match=r"strength '5000' of 'noise' must be a number from 0"):
        parse("noise:1-5000")
    with pytest.raises(ValueError, match=r"strength '1-2-3' of 'noise' must be a number"):
        parse("noise:1-2-3")


@pytest.mark.parametrize("spec", ["", "  ", None, 25, "noise+", "+noise", "noise++haze", ":25"])
def test_parse_refuses_empty_names(spec: object) -> None:
    with pytest.raises(ValueError, match=r"known: noise, motion_blur, haze, rain, low_light"):
        parse(spec)


@pytest.mark.parametrize("spec", ["Noise", "fog", "noise+fog:3", "noise,haze", "noise 25"])
def test_parse_refuses_unknown_names(spec: str) -> None:
    with pytest.raises(ValueError, match=r"unknown degradation .*known: noise, motion_blur"):
        parse(spec)


@pytest.mark.parametrize("strength", ["", "loud", "-1", "nan", "inf", "-inf", "1:2", "1e9"])
@pytest.mark.parametrize("name", DAMAGING)
def test_parse_refuses_bad_strengths_with_the_range(name: str, strength: str) -> None:
    entry = get(name)
    low, high = entry.strength_range
    with pytest.raises(ValueError, match=f"of '{name}' must be a number") as caught:
        parse(f"{name}:{strength}")
    message = str(caught.value)
    assert f"from 0 to {entry.largest:g}" in message
    assert (f"from {low:g} to {high:g}" if low < high else f"uses {high:g}:") in message
    assert repr(strength) in message


def test_clean_takes_no_strength() -> None:
    assert parse(" clean ") == ((get("clean"), None),)
    for strength in ("3", "0", "1-2", "1/2", ""):
        with pytest.raises(ValueError, match=r"'clean' takes no strength, .*: write 'clean'"):
            parse(f"clean:{strength}")


@pytest.mark.parametrize("spec", ["clean+rain", "rain+clean", "clean+clean", "noise:25+clean+haze"])
def test_clean_is_no_part_of_a_mixture(spec: str) -> None:
    with pytest.raises(ValueError, match=r"'clean' means no degradation.* leave it out"):
        parse(spec)


def test_degrade_with_an_integer_seed_is_repeatable(image: np.ndarray) -> None:
    for name in DAMAGING:
        first, again, other = (degrade(image, name, seed=seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 0.01
        np.testing.assert_array_equal(degrade(image, name), degrade(image, name, seed=0))


def test_a_generator_moves_on(image: np.ndarray) -> None:
    for name in DAMAGING:
        rng = np.random.default_rng(3)
        first, *others = (degrade(image, name, seed=rng) for _ in range(6))
        np.testing.assert_array_equal(first, degrade(image, name, seed=3))
        # One of the others, for a mosaic has four phases only.
        assert np.abs(first - others).max() > 0.01


def test_global_random_state_is_neither_used_nor_changed(image: np.ndarray) -> None:
    spec = "+".join(DAMAGING)
    np.random.seed(1)
    first, state = degrade(image, spec), np.random.get_state()[1].copy()
    np.random.seed(1)
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    np.random.seed(2)
    np.testing.assert_array_equal(first, degrade(image, spec))


def test_mixture_equals_one_after_the_other(image: np.ndarray) -> None:
    spec = "low_light:2+haze+noise+motion_blur+rain:9"
    rng = np.random.default_rng(5)
    step = image
    for part in spec.split("+"):
        step = degrade(step, part, seed=rng)
    np.testing.assert_array_equal(degrade(image, spec, seed=5), step)
    parts = parse(spec)
    np.testing.assert_array_equal(apply_parts(image, parts, np.random.default_rng(5)), step)


def test_order_of_a_mixture_matters(image: np.ndarray) -> None:
    dark_then_hazy = degrade(image, "low_light:4+haze:1.8", seed=1)
    hazy_then_dark = degrade(image, "haze:1.8+low_light:4", seed=1)
    assert dark_then_hazy.mean() > hazy_then_dark.mean() + 0.2


def test_clipping_follows_the_last_degradation(image: np.ndarray) -> None:
    outside = degrade(image, "haze+noise:50")
    assert outside.min() < 0 and outside.max() > 1
    for last in DAMAGING[1:]:
        inside = degrade(image, f"noise:200+{last}")
        assert inside.min() >= 0 and inside.max() <= 1


def test_float64_and_float16_become_float32(image: np.ndarray) -> None:
    expected = degrade(image, "haze")
    assert expected.dtype == np.float32
    from_double = degrade(image.astype(np.float64), "haze")
    assert from_double.dtype == np.float32
    np.testing.assert_array_equal(from_double, expected)
    for half in (np.float16, ml_dtypes.bfloat16):
        assert degrade(image.astype(half), "haze").dtype == np.float32


def test_flipped_and_turned_views_are_fine(image: np.ndarray) -> None:
    view = np.rot90(image[:, ::-1])
    for name in names():
        np.testing.assert_array_equal(degrade(view, name), degrade(view.copy(), name))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((8, 8, 3), np.uint16), r"uint16; divide by 65535"),
        (np.zeros((8, 8), np.float32), r"shape \(8, 8\); repeat the grey"),
        (np.full((8, 8, 3), 128.0, np.float32), r"128; divide"),
        ("photo.png", r"'photo.png'; .*read_image reads files"),
    ],
)
def test_other_objects_than_images_are_refused(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(bad, "noise:25")


@pytest.mark.parametrize("seed", [-1, 1.5, None, "0", True])
def test_bad_seeds_are_refused(image: np.ndarray, seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be an integer >= 0"):
        degrade(image, "noise", seed=seed)


def test_import_needs_no_accelerator_library_and_sets_no_threads() -> None:
    code = (
        "import cv2, sys; before = cv2.getNumThreads(); import dcpt_jax.degradations;"
        "assert cv2.getNumThreads() == before;"
        "loaded = {'jax', 'flax', 'torch', 'matplotlib', 'skimage'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_degrade_is_public() -> None:
    import dcpt_jax

    assert dcpt_jax.degrade is degradations.degrade
