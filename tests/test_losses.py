import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcpt_jax import losses
from tests.golden import read_arrays, read_json


def test_focal_loss_by_hand():
    # Two classes, logits 0 and log 3: p = 1/4 and 3/4.
    logits = jnp.array([[0.0, np.log(3.0)]])
    value = losses.focal_loss(logits, jnp.array([0]), gamma=2.0)
    np.testing.assert_allclose(value, (3 / 4) ** 2 * np.log(4), rtol=1e-6)
    value = losses.focal_loss(logits, jnp.array([1]), gamma=0.0)
    np.testing.assert_allclose(value, np.log(4 / 3), rtol=1e-6)


def test_focal_loss_equals_the_reference():
    arrays = read_arrays("losses/arrays.npz")
    compared = 0
    with jax.enable_x64(True):
        for case in read_json("losses/losses.json"):
            if case["loss"] != "FocalLoss" or case["reduction"] != "mean":
                continue
            dtype = case.get("dtype", "float64")
            logits = jnp.asarray(arrays[case.get("logits", "logits")], dtype)
            labels = arrays[case["labels"]]
            logits, labels = logits[labels >= 0], labels[labels >= 0]
            weights = arrays[case["alpha"]] if case.get("alpha") else None

            def loss(x, labels=labels, case=case, weights=weights):
                return losses.focal_loss(x, labels, gamma=case["gamma"], class_weights=weights)

            rtol = 1e-6 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(loss(logits), case["value"], rtol=rtol)
            if "grad" in case:
                kept = arrays[case["labels"]] >= 0
                expected = arrays[case["grad"]]
                np.testing.assert_allclose(
                    jax.grad(loss)(logits), expected[kept], rtol=1e-9, atol=1e-15
                )
            compared += 1
    assert compared >= 12


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_focal_loss_and_gradient_are_finite_at_extremes(gamma, scale):
    logits = jnp.array([[scale, 0.0, 0.0], [0.0, 0.0, 0.0]])
    loss = lambda x: losses.focal_loss(x, jnp.array([0, 1]), gamma=gamma)  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_focal_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match="gamma"):
        losses.focal_loss(jnp.zeros((2, 3)), jnp.zeros(2, int), gamma=-1.0)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        losses.focal_loss(jnp.zeros((2, 3)), jnp.zeros(4, int), gamma=0.0)


def test_sigmoid_focal_loss_by_hand():
    # Logits log 3 and -log 3: the sigmoid is 3/4 and 1/4.
    logits = jnp.array([[np.log(3.0), -np.log(3.0)]])
    value = losses.sigmoid_focal_loss(logits, jnp.array([[1, 1]]), gamma=2.0)
    expected = ((1 / 4) ** 2 * np.log(4 / 3) + (3 / 4) ** 2 * np.log(4)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    value = losses.sigmoid_focal_loss(logits, jnp.array([[0, 1]]), gamma=1.0)
    np.testing.assert_allclose(value, 3 / 4 * np.log(4), rtol=1e-6)  # both wrong


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_focal_loss_and_gradient_in_float64(gamma):
    """Against the formula, and its derivative worked out by hand."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (6, 4))
    labels = rng.integers(0, 2, (6, 4))
    p = 1 / (1 + np.exp(-np.where(labels, logits, -logits)))
    expected = np.mean((1 - p) ** gamma * -np.log(p))
    # d/dx of (1 - p)^g * -log p with dp/dx = p (1 - p), where x is the logit of the right answer.
    slope = gamma * (1 - p) ** gamma * p * np.log(p) - (1 - p) ** (gamma + 1)
    slope = np.where(labels, slope, -slope) / logits.size
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(losses.sigmoid_focal_loss)(
            jnp.asarray(logits), jnp.asarray(labels), gamma=gamma
        )
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-16)


def test_sigmoid_focal_loss_without_focus_is_binary_cross_entropy():
    logits = jnp.array([[2.0, -1.0, 0.5], [-3.0, 0.0, 4.0]])
    labels = jnp.array([[1, 0, 1], [1, 1, 0]])
    expected = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    value = losses.sigmoid_focal_loss(logits, labels, gamma=0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_focal_loss_and_gradient_are_finite_at_extremes(gamma):
    logits, labels = jnp.array([[1e4, -1e4, 1e4, -1e4]]), jnp.array([[1, 1, 0, 0]])
    value, gradient = jax.value_and_grad(losses.sigmoid_focal_loss)(logits, labels, gamma=gamma)
    np.testing.assert_allclose(value, 5e3, rtol=1e-6)  # two of four are wrong by 1e4
    np.testing.assert_allclose(gradient, [[0, -0.25, 0.25, 0]], atol=1e-6)


def test_sigmoid_focal_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match="gamma is -1"):
        losses.sigmoid_focal_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)), gamma=-1.0)
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and labels \(2,\)"):
        losses.sigmoid_focal_loss(jnp.zeros((2, 3)), jnp.zeros(2), gamma=0.0)


def test_l1_loss():
    np.testing.assert_allclose(losses.l1_loss(jnp.array([0.0, 1.0]), jnp.array([0.5, -1.0])), 1.25)
    assert losses.l1_loss(jnp.zeros(3, jnp.bfloat16), jnp.ones(3)).dtype == jnp.float32
    with pytest.raises(ValueError, match="equal shapes"):
        losses.l1_loss(jnp.zeros((2, 1)), jnp.zeros((2, 3)))


def test_l1_loss_equals_the_reference():
    arrays = read_arrays("losses/arrays.npz")
    cases = read_json("losses/losses.json")
    (case,) = (
        c
        for c in cases
        if c["loss"] == "L1Loss" and c["reduction"] == "mean" and c["weight"] is None
    )
    with jax.enable_x64(True):
        prediction, target = (jnp.asarray(arrays[k], jnp.float64) for k in ("pred", "target"))
        value = losses.l1_loss(prediction, target)
        np.testing.assert_allclose(value * case["loss_weight"], case["value"], rtol=1e-12)


def test_fft_loss_by_hand():
    zeros = jnp.zeros((2, 4, 4, 3))
    # A constant difference of 0.3 has one value, 16 * 0.3, among the 4 x 3 of the real FFT; all
    # imaginary parts are zero.
    np.testing.assert_allclose(losses.fft_loss(zeros + 0.3, zeros), 16 * 0.3 / 12 / 2, rtol=1e-6)
    # A single pixel in the corner has the same real value at all frequencies.
    corner = zeros.at[:, 0, 0].set(0.5)
    np.testing.assert_allclose(losses.fft_loss(corner, zeros), 0.5 / 2, rtol=1e-6)
    # One pixel to the right of it: 1, -i, -1 along the width.
    beside = zeros.at[:, 0, 1].set(-0.5)
    np.testing.assert_allclose(losses.fft_loss(zeros, beside), 0.5 * (2 / 3 + 1 / 3) / 2, rtol=1e-6)


def test_fft_loss_sums_frequencies_as_their_definition_does():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 5, 6, 1))
    y, x = np.mgrid[:5, :6]
    found = []
    for v in range(5):
        for u in range(4):  # 6 // 2 + 1
            wave = np.exp(-2j * np.pi * (v * y / 5 + u * x / 6))
            value = ((a - b)[0, ..., 0] * wave).sum()
            found += [abs(value.real), abs(value.imag)]
    np.testing.assert_allclose(losses.fft_loss(jnp.array(a), jnp.array(b)), np.mean(found), 1e-5)


def test_fft_loss_has_finite_gradients_and_compares_bfloat16_in_float32():
    image = jnp.full((1, 4, 4, 3), 0.5, jnp.bfloat16)
    value, gradient = jax.value_and_grad(losses.fft_loss)(image, image)
    assert value == 0 and value.dtype == jnp.float32 and np.isfinite(gradient).all()


def test_fft_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"fft_loss .* \(1, 4, 4, 3\) and target \(1, 4, 5, 3\)"):
        losses.fft_loss(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 5, 3)))
    with pytest.raises(ValueError, match="b, h, w, c"):
        losses.fft_loss(jnp.zeros((4, 4, 3)), jnp.zeros((4, 4, 3)))


def test_psnr_loss_by_hand():
    clean = jnp.zeros((2, 4, 5, 3))
    # Errors of 0.1 and 0: MSE 1e-2 is 100 times the 1e-4 of 40 dB, so 10 log10(101) and 0.
    restored = clean.at[0].set(0.1)
    np.testing.assert_allclose(losses.psnr_loss(restored, clean), 10 * np.log10(101) / 2, rtol=1e-6)
    # Each image counts by itself: the mean over a batch is not that of the pooled error.
    both = losses.psnr_loss(clean.at[0].set(0.1).at[1].set(0.01), clean)
    np.testing.assert_allclose(both, 10 * (np.log10(101) + np.log10(2)) / 2, rtol=1e-5)


def test_psnr_loss_pulls_harder_at_small_errors_and_is_finite_at_none():
    def pull(error):
        gradient = jax.grad(losses.psnr_loss)(
            jnp.full((1, 4, 4, 3), error), jnp.zeros((1, 4, 4, 3))
        )
        return float(jnp.abs(gradient).sum())

    assert pull(0.02) > 4 * pull(0.2)
    assert pull(0.0) == 0
    image = jnp.full((1, 4, 4, 3), 0.5, jnp.bfloat16)
    assert losses.psnr_loss(image, image).dtype == jnp.float32


def test_psnr_loss_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"psnr_loss .* \(1, 4, 4, 3\) and target \(1, 4, 5, 3\)"):
        losses.psnr_loss(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 5, 3)))
    with pytest.raises(ValueError, match="b, h, w, c"):
        losses.psnr_loss(jnp.zeros((4, 4, 3)), jnp.zeros((4, 4, 3)))


def test_the_psnr_loss_is_a_term_that_configs_can_name():
    weight, term = losses.weighted_terms("psnr:0.01")["psnr"]
    assert weight == 0.01 and term is losses.psnr_loss
