import functools
import logging
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import dcpt_jax
from dcpt_jax.models import create_model, layers, parameter_shapes
from dcpt_jax.restore import predictor, tiling
from dcpt_jax.restore.predictor import Predictor, bytes_per_pixel
from tests.conftest import TINY_BACKBONES
from tests.golden import random_params

ARGUMENTS = dict(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))


@functools.cache
def small_network(**changes):
    """Random NAFNet whose blocks and averages all affect the output, and its NumPy parameters."""
    model = create_model("nafnet", **(ARGUMENTS | changes))
    rng = np.random.default_rng(0)

    def random(path, leaf):
        name, values = path[-1].key, rng.standard_normal(leaf.shape).astype(leaf.dtype)
        if name == "kernel":
            return values / np.sqrt(np.prod(leaf.shape[:3], dtype=np.float32))
        return 1 + 0.1 * values if name == "scale" else 0.3 * values

    return model, jax.tree_util.tree_map_with_path(random, parameter_shapes(model))


def photo(height, width, seed=0):
    """Smooth random picture in [0, 1], float32."""
    coarse = np.random.default_rng(seed).random((height // 4 + 2, width // 4 + 2, 3))
    fine = np.kron(coarse, np.ones((4, 4, 1)))[:height, :width]
    return fine.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _applied(model, params, image):
    return model.apply({"params": params}, image[None])[0]


def applied(model, params, image):
    """The network's own output, padded inside the network."""
    return np.asarray(_applied(model, params, image))


def test_the_package_is_the_function():
    model, params = small_network()
    image = photo(21, 30)
    restored = dcpt_jax.restore(model, params, image, None, False)
    assert restored.shape == (21, 30, 3)
    assert restored.dtype == np.float32
    expected = applied(model, params, image)
    assert expected.min() < 0 or expected.max() > 1  # so that clipping is seen
    np.testing.assert_allclose(restored, np.clip(expected, 0, 1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(Predictor(model, params).raw(image), expected, rtol=0, atol=1e-5)


def test_importing_the_package_does_not_import_jax():
    code = "import sys, dcpt_jax.restore, dcpt_jax.restore.command; print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


@pytest.mark.parametrize("multiple", [4, 16])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 22), (2, 50), (21, 29), (48, 32)])
def test_padding_outside_the_network_equals_padding_inside(size, multiple):
    image = photo(*size)
    inside = layers.pad_to_multiple(jnp.asarray(image)[None], multiple)[0]
    np.testing.assert_array_equal(predictor.padded_to_multiple(image, multiple), inside)


def test_a_single_pixel_is_restored():
    model, params = small_network()
    image = photo(1, 1)
    restored = Predictor(model, params).raw(image)
    np.testing.assert_allclose(restored, applied(model, params, image), rtol=0, atol=1e-5)


def compilations():
    """A list that grows by one for each program that is compiled or read from the cache."""
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return compiled


def test_sizes_with_the_same_padded_size_share_one_compiled_program():
    model, params = small_network(width=4)
    predict = Predictor(model, params)
    compiled = compilations()
    predict(photo(21, 29))
    assert len(compiled) == 1
    for size in ((22, 30), (21, 30)):
        predict(photo(*size))
    assert len(compiled) == 1
    predict(photo(23, 30))
    assert len(compiled) == 2


# With averages over the image also that which records what they give.
@pytest.mark.parametrize(("tlc_size", "programs"), [(None, 2), (8, 1)])
def test_all_tiles_of_images_of_any_size_share_their_compiled_programs(tlc_size, programs):
    model, params = small_network(tlc_size=tlc_size)
    predict = Predictor(model, params, tile=39)
    compiled = compilations()
    for size in ((41, 90), (57, 43), (150, 41)):
        assert predict(photo(*size)).shape == (*size, 3)
    assert len(compiled) == programs


def test_an_image_no_larger_than_the_tile_runs_whole():
    model, params = small_network()
    image = photo(21, 29)
    whole = Predictor(model, params).raw(image)
    np.testing.assert_array_equal(Predictor(model, params, tile=29).raw(image), whole)
    assert np.abs(Predictor(model, params, tile=20).raw(image) - whole).max() > 1e-3


def test_tiles_of_a_network_without_averages_equal_the_whole_but_for_rounding():
    model, params = small_network()
    params = jax.tree.map(np.copy, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-2].key == "attention":
            leaf[...] = 1 if path[-1].key == "bias" else 0  # no look at the averages
    image = photo(140, 100)
    whole = Predictor(model, params).raw(image)
    # Then an output pixel sees 8 pixels to each side: 1 for each of the two blocks and the two
    # convolutions at full size, 2 for the block at half size, and 2 for going there and back. That
    # is a quarter of the overlap of 32, which is thrown away at each side of a tile.
    tiled = Predictor(model, params, tile=64).raw(image)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


def change_by_tiles(image, tlc_size=None, *, each_by_itself=False):
    """Root mean square of tiled - whole, relative to the network's own change."""
    model, params = small_network(tlc_size=tlc_size)
    whole = Predictor(model, params).raw(image)
    if each_by_itself:
        spans = [tiling.blended_spans(size, 128, 32) for size in image.shape[:2]]
        tiled = tiling.run_tiled(functools.partial(applied, model, params), image, *spans)
    else:
        tiled = Predictor(model, params, tile=128).raw(image)
    return np.linalg.norm(tiled - whole) / np.linalg.norm(whole - image)


def test_tiles_agree_with_the_whole_within_half_a_percent_if_averages_are_local():
    assert 0 < change_by_tiles(photo(256, 200), 16) < 0.005  # 0.003 measured


def test_tiles_share_the_averages_of_the_image():
    image = photo(256, 200)
    image[:128] /= 4  # a dark half, so that tiles have different averages
    assert change_by_tiles(image) < 0.02  # 0.008 measured, 0.042 after one pass for the averages
    assert change_by_tiles(image, each_by_itself=True) > 0.2  # 0.241 measured


@pytest.mark.parametrize("ensemble", [False, True])
def test_every_tile_is_counted(ensemble):
    model, params = small_network()
    counts = []
    predict = Predictor(
        model, params, tile=64, ensemble=ensemble, tile_done=lambda *count: counts.append(count)
    )
    predict(photo(96, 60))  # two tiles, and two patches for their averages
    total = 2 * (8 if ensemble else 1)
    assert counts[:2] == [(0, total)] * 2
    assert list(dict.fromkeys(counts)) == [(number, total) for number in range(total + 1)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "dtype uint8; divide by 255"),
        (np.zeros((4, 4, 3), np.uint16), "dtype uint16; divide by 65535"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64; divide by 255"),
        (np.zeros((4, 4, 3), bool), "dtype bool$"),
        (np.zeros((4, 4, 3), complex), "dtype complex128$"),
        (Path("a.png"), r"PosixPath\('a.png'\); dcpt_jax.images.read_image reads files"),
        (np.zeros((4, 4), np.float32), r"shape \(4, 4\); repeat the grey channel"),
        (np.zeros((1, 4, 4, 3), np.float32), "one image at a time"),
        (np.zeros((4, 4, 4), np.float32), "alpha"),
        (np.zeros((4, 4, 1), np.float32), "grey"),
        (np.zeros((3, 4, 4), np.float32), "alpha|channels come last"),
        (np.zeros((3, 9, 8), np.float32), "channels come last"),
        (np.zeros((0, 4, 3), np.float32), r"shape \(0, 4, 3\)"),
        (np.full((4, 4, 3), np.nan, np.float32), "not finite"),
        (np.full((4, 4, 3), 200, np.float32), "values from 200 to 200; divide"),
    ],
)
def test_something_else_than_an_image_is_refused(image, message):
    model, params = small_network()
    with pytest.raises(ValueError, match=rf"\[h, w, 3\] in \[0, 1\], got .*({message})"):
        dcpt_jax.restore(model, params, image)


def test_swapped_arguments_are_refused():
    model, params = small_network()
    with pytest.raises(TypeError, match=r"as dcpt_jax\.load returns them, not dict and NAFNet"):
        dcpt_jax.restore(params, model, photo(4, 4))


@functools.cache
def tiny_backbone(name):
    """Networks with a few thousand parameters, all of which affect the output."""
    model = create_model(name, **TINY_BACKBONES[name])
    return model, random_params(parameter_shapes(model), scale=0.2)


@pytest.mark.slow  # compiles a second shape of each network
@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_every_network_restores_any_size_whole_in_tiles_and_by_ensemble(name):
    model, params = tiny_backbone(name)
    image = photo(21, 30)
    expected = applied(model, params, image)
    assert np.abs(expected - image).max() > 1e-2
    whole = Predictor(model, params).raw(image)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-5)
    tile = 16
    padded = predictor.padded_to_multiple(image, model.size_multiple)
    overlap = tiling.default_overlap(tile, model.size_multiple)
    rows, columns = (tiling.blended_spans(size, tile, overlap) for size in padded.shape[:2])
    assert len(rows) > 1 and len(columns) > 1
    by_hand = tiling.run_tiled(functools.partial(applied, model, params), padded, rows, columns)
    tiled = Predictor(model, params, tile=tile).raw(image)
    np.testing.assert_allclose(tiled, by_hand[:21, :30], rtol=0, atol=1e-5)
    assert np.abs(tiled - whole).max() > 1e-5  # no network's tiling is exact
    square = photo(16, 16)
    turns = [np.rot90(applied(model, params, np.rot90(square, k).copy()), -k) for k in range(4)]
    flips = [
        np.rot90(applied(model, params, np.rot90(square[::-1], k).copy()), -k)[::-1]
        for k in range(4)
    ]
    ensemble = Predictor(model, params, ensemble=True).raw(square)
    np.testing.assert_allclose(ensemble, np.mean(turns + flips, axis=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [0, -8, 2.5, True, "64"])
def test_a_tile_that_is_no_size_is_refused(tile):
    model, params = small_network()
    with pytest.raises(ValueError, match=r"tile is .*, but must be None or an integer >= 1"):
        dcpt_jax.restore(model, params, photo(8, 8), tile=tile)


@pytest.mark.parametrize("key", ["params", "network"])
def test_parameters_with_a_level_too_many_are_refused(key):
    model, params = small_network()
    with pytest.raises(ValueError, match=rf"pass params\['{key}'\]"):
        dcpt_jax.restore(model, {key: params}, photo(8, 8))


def test_other_floating_types_and_jax_arrays_are_accepted():
    model, params = small_network()
    image = photo(24, 32)
    expected = dcpt_jax.restore(model, params, image)
    for other in (jnp.asarray(image), image.astype(np.float64)):
        np.testing.assert_array_equal(dcpt_jax.restore(model, params, other), expected)
    half = dcpt_jax.restore(model, params, jnp.asarray(image, jnp.bfloat16))
    assert half.dtype == np.float32


def test_float64_networks_give_float64_outputs_and_float32_images():
    with jax.enable_x64(True):
        model, params = small_network()
        model = create_model("nafnet", dtype=jnp.float64, **ARGUMENTS)
        predict = Predictor(model, params)
        image = photo(8, 8)
        assert predict.raw(image).dtype == np.float64
        assert predict(image).dtype == np.float32


def test_the_estimate_is_four_times_the_largest_array():
    model, params = small_network()
    assert bytes_per_pixel(model, params) == pytest.approx(4 * 2 * 8 * 4, rel=0.1)
    wide, wide_params = small_network(width=16)
    assert bytes_per_pixel(wide, wide_params) == pytest.approx(4 * 2 * 16 * 4, rel=0.1)
    half = create_model("nafnet", dtype=jnp.bfloat16, **ARGUMENTS)  # computed in float32 on CPUs
    assert bytes_per_pixel(half, params) == pytest.approx(4 * 2 * 8 * 4, rel=0.1)


@pytest.mark.slow  # compiles, without running, wide networks
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nafnet", dict(encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))),
        ("restormer", dict(num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)),
        ("promptir", dict(num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, ffn_expansion=1.0)),
        ("swinir", dict(depths=(2,) * 6)),
        ("swinir", dict(depths=(2,) * 6, mlp_ratio=4.0)),
    ],
)
def test_the_estimate_covers_the_memory_that_xla_needs(name, arguments, dtype):
    model = create_model(name, dtype=dtype, **arguments)
    params = parameter_shapes(model)
    image = jax.ShapeDtypeStruct((256, 256, 3), jnp.float32)
    memory = predictor._compiled(model, image.shape).lower(params, image).compile()
    needed = memory.memory_analysis().temp_size_in_bytes
    if dtype == "bfloat16":  # copies of the weights, which are not counted
        needed -= sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    estimate = bytes_per_pixel(model, params) * 256**2
    assert 0.2 * estimate < needed <= estimate


def test_images_above_the_memory_budget_run_in_the_largest_tiles_within_it(monkeypatch):
    model, params = small_network()
    per_pixel = bytes_per_pixel(model, params)
    monkeypatch.setattr(predictor, "MEMORY_BUDGET", per_pixel * 1000**2)
    tried = fail_above(monkeypatch, math.inf)

    def sides(height, width):
        tried.clear()
        Predictor(model, params).raw(photo(height, width))
        return set(tried)

    assert sides(1000, 1000) == {(1000, 1000)}
    assert sides(500, 2000) == {(500, 2000)}
    assert sides(1000, 1002) == {(1000, 1000)}
    monkeypatch.setattr(predictor, "MEMORY_BUDGET", 1)
    assert sides(1000, 1000) == {(predictor.MIN_TILE, predictor.MIN_TILE)}
    assert sides(200, 256) == {(200, 256)}


def fail_above(
    monkeypatch, pixels, message="RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."
):
    """Makes the network run out of memory for larger images; returns the sides that were tried."""
    tried = []

    def compiled(model, shape):
        def run(params, image):
            tried.append(shape[:2])
            if shape[0] * shape[1] > pixels:
                raise jax.errors.JaxRuntimeError(message)
            return image

        return run

    monkeypatch.setattr(predictor, "_compiled", compiled)
    return tried


def test_tiles_halve_when_memory_runs_out_and_stay_small(monkeypatch, caplog):
    tried = fail_above(monkeypatch, 160**2)
    model, params = small_network()
    predict = Predictor(model, params)
    image = photo(500, 400)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(predict.raw(image), image, atol=1e-6)
    assert tried[:3] == [(500, 400), (250, 250), (128, 128)]
    assert set(tried[3:]) == {(128, 128)}
    assert "continuing with tiles of 250x250 pixels" in caplog.text
    assert "continuing with tiles of 128x128 pixels" in caplog.text
    del tried[:]
    predict(image)
    assert set(tried) == {(128, 128)}


def test_running_out_of_memory_with_the_smallest_tiles_is_an_error(monkeypatch):
    fail_above(monkeypatch, 0)
    model, params = small_network()
    with pytest.raises(
        MemoryError, match="too little memory even for 128x128 pixels: RESOURCE_EXHAUSTED"
    ):
        Predictor(model, params, report=lambda text: None).raw(photo(200, 200))


def test_other_device_errors_are_not_treated_as_out_of_memory(monkeypatch):
    tried = fail_above(monkeypatch, 0, "INTERNAL: something else")
    model, params = small_network()
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        Predictor(model, params).raw(photo(200, 200))
    assert len(tried) == 1


def test_ensemble_is_the_mean_over_the_orientations():
    model, params = small_network()
    image = photo(24, 32)
    turns = [(flip, k) for flip in (False, True) for k in range(4)]
    outputs = []
    for flip, k in turns:
        turned = np.rot90(image[::-1] if flip else image, k)
        output = np.rot90(applied(model, params, np.ascontiguousarray(turned)), -k)
        outputs.append(output[::-1] if flip else output)
    restored = Predictor(model, params, ensemble=True).raw(image)
    np.testing.assert_allclose(restored, np.mean(outputs, axis=0), rtol=0, atol=1e-5)
    assert np.abs(restored - outputs[0]).max() > 1e-3
