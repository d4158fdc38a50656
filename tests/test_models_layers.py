import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.models.arguments import check_images, compute_dtype, positive_counts
from dcpt_jax.models.layers import Conv, DepthwiseConv, Linear, pad_to_multiple, pixel_shuffle
from dcpt_jax.models.transformer import attend


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 5), (4, 4), (5, 9), (16, 17)])
@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_padding_reflects_as_numpy_does(size, multiple):
    image = np.random.default_rng(0).random((2, *size, 3), dtype=np.float32)
    padded = np.asarray(pad_to_multiple(jnp.asarray(image), multiple))
    missing = [-side % multiple for side in size]
    margins = ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))
    np.testing.assert_array_equal(padded, np.pad(image, margins, mode="reflect"))
    np.testing.assert_array_equal(padded[:, : size[0], : size[1]], image)


def test_padding_of_tiny_images_by_hand():
    line = jnp.asarray([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    padded = pad_to_multiple(line, 8)
    assert padded.shape == (1, 8, 8, 1)
    for row in padded[0, :, :, 0]:  # one pixel high: every row repeats the only one
        np.testing.assert_array_equal(row, [1, 2, 3, 2, 1, 2, 3, 2])


def test_pixel_shuffle_takes_the_channel_as_slowest_index():
    # One pixel, two target channels: input channel 4c + 2i + j goes to offset (i, j).
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)
    shuffled = pixel_shuffle(x)
    np.testing.assert_array_equal(shuffled[0, :, :, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(shuffled[0, :, :, 1], [[4, 5], [6, 7]])


@pytest.mark.parametrize(("size", "stride", "channels"), [(1, 1, 50), (3, 1, 30), (2, 2, 25)])
def test_convolutions_start_as_pytorch_starts_them(size, stride, channels):
    conv = Conv(200, size=size, stride=stride)
    params = conv.init(jax.random.key(0), jnp.ones((1, 4, 4, channels)))["params"]
    bound = 1 / np.sqrt(size * size * channels)
    assert params["kernel"].shape == (size, size, channels, 200)
    for values, relative in ((params["kernel"], 0.01), (params["bias"], 0.15)):
        assert 0.97 * bound < float(jnp.abs(values).max()) <= bound
        # A uniform distribution in +-bound has this standard deviation.
        assert float(values.std()) == pytest.approx(bound / np.sqrt(3), rel=relative)
        assert abs(float(values.mean())) < 0.1 * bound


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "image[None]"),
        (np.zeros((1, 4, 4, 4), np.float32), "(1, 4, 4, 4)"),
        (np.zeros((1, 3, 4, 4), np.float32), "channels come last"),
        (np.zeros((1, 0, 4, 3), np.float32), "1x1 pixel"),
        (np.zeros((1, 4, 4, 3), np.uint8), "divide 8-bit pixels by 255"),
        (np.zeros((4, 3), np.float32), "[b, h, w, 3]"),
        ([[[[0.5, 0.5, 0.5]]]], "list; pass a NumPy or JAX array"),
    ],
)
def test_unfit_images_are_refused(images, words):
    with pytest.raises(ValueError) as error:
        check_images(images)
    assert words in str(error.value)


def test_compute_types():
    assert compute_dtype("bfloat16") == compute_dtype(jnp.bfloat16) == jnp.bfloat16
    for unfit in ("float16", int, "double precision", None):
        with pytest.raises(ValueError, match="float32, bfloat16, float64"):
            compute_dtype(unfit)


def test_counts():
    assert positive_counts("blocks", [1, np.int64(2)]) == (1, 2)
    for unfit in ([], 3, "12", [1, 0], [1, True], [1.5]):
        with pytest.raises(ValueError, match="blocks"):
            positive_counts("blocks", unfit)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(6, size=3, dtype=jnp.bfloat16), (4, 64, 64, 3)),
        (DepthwiseConv(dtype=jnp.bfloat16), (4, 64, 64, 6)),
        (Linear(6, dtype=jnp.bfloat16), (4, 64, 64, 3)),
    ],
)
def test_bfloat16_sums_gradients_over_pixels_in_float32(layer, shape):
    x = jax.random.uniform(jax.random.key(0), shape)
    params = layer.init(jax.random.key(1), x)["params"]
    gradient = jax.jit(jax.grad(lambda p: layer.apply({"params": p}, x).astype(jnp.float32).sum()))
    # Each of 16384 pixels adds one to a bias's gradient; a bfloat16 sum ends at 256.
    np.testing.assert_allclose(gradient(params)["bias"], 16384, rtol=1e-3)


@pytest.mark.parametrize("attention", ["relu", "softmax"])
def test_attention_of_zero_queries_and_keys_has_finite_gradients(attention):
    def loss(query, key, value):
        return jnp.square(attend(query, key, value, jnp.ones(2), attention) - 0.3).sum()

    zeros = jnp.zeros((1, 4, 4, 4))
    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(zeros, zeros, zeros + 0.5)
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
