import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.restore.ensemble import self_ensemble
from dcpt_jax.restore.predictor import Predictor, padded_to_multiple
from dcpt_jax.restore.tiling import run_tiled
from tests.golden import read_arrays, read_json, recorded_network
from tests.test_restore_tiling import reference_spans

CASES = ("nafnet_small", "restormer_small", "swinir_ws8_3conv")


def recorded(case, dtype):
    """(model, its parameters, recorded arrays, pipeline settings, the reference's own error)."""
    settings = read_json("pipeline/config.json")["cases"][case]
    config = read_json(settings["config"])
    model, variables = recorded_network(config, dtype, config["weight_salt"])
    arrays = {name: array[0] for name, array in read_arrays(f"pipeline/{case}.npz").items()}
    error = max(config["f32_vs_f64_max_abs"][key] for key in ("y", "y_nat"))
    return model, variables["params"], arrays, settings, error


def reference_tiled(model, params, arrays, settings):
    """The reference's tiles over the padded image, cut to the image's size."""
    height, width = arrays["x"].shape[:2]
    padded = padded_to_multiple(arrays["x"], settings["window_size"])
    np.testing.assert_array_equal(padded, arrays["padded"])
    tile, margin = settings["tile"]["infer_size"], settings["tile"]["tile_pad"]
    rows, columns = (reference_spans(length, tile, margin) for length in padded.shape[:2])
    predict = Predictor(model, params).raw
    return run_tiled(predict, padded, rows, columns)[:height, :width]


@pytest.mark.parametrize("case", CASES)
def test_whole_images_match_the_recordings(case):
    model, params, arrays, _, error = recorded(case, jnp.float32)
    whole = Predictor(model, params).raw(arrays["x"])
    assert np.abs(whole - arrays["y_f32"]).max() <= 10 * error


@pytest.mark.parametrize(
    "case", [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])]
)
def test_the_ensemble_matches_the_recordings(case):
    model, params, arrays, _, error = recorded(case, jnp.float32)
    ensemble = Predictor(model, params, ensemble=True).raw(arrays["x"])
    assert np.abs(ensemble - arrays["y_selfensemble"]).max() <= 10 * error


@pytest.mark.slow  # compiles nine tile shapes
@pytest.mark.parametrize("case", CASES)
def test_the_reference_tiles_match_the_recordings(case):
    model, params, arrays, settings, error = recorded(case, jnp.float32)
    tiled = reference_tiled(model, params, arrays, settings)
    assert np.abs(tiled - arrays["y_tile"]).max() <= 10 * error


@pytest.mark.slow  # compiles eleven shapes
@pytest.mark.parametrize("case", CASES)
def test_float64_matches_the_recordings(case):
    with jax.enable_x64(True):
        model, params, arrays, settings, error = recorded(case, jnp.float64)
        whole = Predictor(model, params).raw(arrays["x"])
        np.testing.assert_allclose(whole, arrays["y_f64"], rtol=1e-9)
        # Ensemble and tiles were recorded in float32 only.
        ensemble = Predictor(model, params, ensemble=True).raw(arrays["x"])
        assert np.abs(ensemble - arrays["y_selfensemble"]).max() <= 10 * error
        tiled = reference_tiled(model, params, arrays, settings)
        assert np.abs(tiled - arrays["y_tile"]).max() <= 10 * error


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_ensemble_of_the_padded_image_equals_the_reference(case):
    # Padding first and turning then, as Predictor does, is not turning first and padding then.
    model, params, arrays, _, error = recorded(case, jnp.float32)
    turned_first = self_ensemble(Predictor(model, params).raw, arrays["x"])
    assert np.abs(turned_first - arrays["y_selfensemble"]).max() > 100 * error
