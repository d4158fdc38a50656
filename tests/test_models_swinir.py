import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax.models.formulation import ACCELERATOR, CPU, formulated
from dcpt_jax.models.layers import attend_in_windows
from dcpt_jax.models.swinir import cut_windows, join_windows


@pytest.mark.parametrize("how", [CPU, ACCELERATOR])
def test_attention_and_its_gradients_equal_plain_autodiff(how):
    def plain(query, key, value):
        query, key, value = (x.reshape(*x.shape[:-1], 2, 3) for x in (query, key, value))
        scores = jnp.einsum("brcihd,brcjhd->brchij", query, key) / jnp.sqrt(3)
        y = jnp.einsum("brchij,brcjhd->brcihd", jax.nn.softmax(scores), value)
        return y.reshape(*y.shape[:-2], 6)

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        # Scores of hundreds: not taken from their largest, their exponentials would overflow.
        inputs = [jnp.asarray(20 * rng.standard_normal((2, 2, 3, 4, 6))) for _ in range(3)]
        direction = jnp.asarray(rng.standard_normal(inputs[0].shape))

        def attend(*qkv):
            with formulated(how):
                return attend_in_windows(*qkv, 2)

        y, pull = jax.vjp(attend, *inputs)
        expected, expected_pull = jax.vjp(plain, *inputs)
        np.testing.assert_allclose(y, expected, rtol=1e-11)
        for mine, wanted in zip(pull(direction), expected_pull(direction), strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-9, atol=1e-11)


def test_pixels_attend_within_their_window_and_shifted_ones_wrap_around():
    image = jax.random.normal(jax.random.key(0), (1, 8, 12, 6))

    def reached(shift):
        """Which pixels the output at (0, 0) depends on."""

        def corner(x):
            windows = attend_in_windows(*jnp.split(cut_windows(x, 4, shift), 3, axis=-1), 1)
            return join_windows(windows, 4, shift)[0, 0, 0].sum()

        return np.asarray(jnp.abs(jax.grad(corner)(image)).sum(axis=(0, 3)) > 0)

    expected = np.zeros((8, 12), bool)
    expected[:4, :4] = True
    np.testing.assert_array_equal(reached(0), expected)
    np.testing.assert_array_equal(reached(2), np.roll(expected, (-2, -2), axis=(0, 1)))
