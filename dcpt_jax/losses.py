"""Losses of pre-training and restoration, as functions of arrays."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Term = Callable[[jax.Array, jax.Array], jax.Array]  # function of prediction and target
WeightedTerms = Mapping[str, tuple[float, Term]]  # (weight, term) by name
_TERMS: dict[str, Term] = {}
_RESERVED = ("class", "fft", "l1", "pixel")  # `loss_NAME` is logged for these, too


def register(name: str, term: Term) -> Term:
    """Registers a loss term for `config.loss_terms`, see docs/extending.md.

    Args:
        name: also of its value in the logs: `loss_NAME`.
        term: function of restored and clean images, [b, h, w, 3], that returns a scalar, the mean
            over the batch.

    Raises:
        ValueError: if the name is taken by another term or logged value, or cannot be written in
            `config.loss_terms`.
    """
    if not name.isidentifier():
        raise ValueError(f"the name of a loss term is a word such as 'edges', not {name!r}")
    if name in _RESERVED:
        raise ValueError(f"loss_{name} is logged for another term of the loss: choose a new name")
    if _TERMS.setdefault(name, term) is not term:
        raise ValueError(f"there is another term of the loss {name!r}: choose a new name")
    return term


def weighted_terms(text: str, *, fft_weight: float = 0.0) -> WeightedTerms:
    """The terms of the loss of restored images besides L1.

    Args:
        text: `config.loss_terms`, "NAME:WEIGHT,...".
        fft_weight: `config.fft_weight`, of the term "fft"; 0 = without it.

    Raises:
        ValueError: for unknown or repeated names, and weights that are not finite numbers above 0.
    """
    terms = {"fft": (fft_weight, fft_loss)} if fft_weight else {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition(":")
        if name not in _TERMS:
            raise ValueError(
                f"config.loss_terms: unknown term {name!r}; known: {', '.join(_TERMS)}"
            )
        if name in terms:
            raise ValueError(f"config.loss_terms: {name} is named twice")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ValueError(
                f"config.loss_terms: {part!r} has no weight above 0; write {name}:0.1, say"
            )
        terms[name] = weight, _TERMS[name]
    return terms


def l1_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute difference over all elements.

    Args:
        prediction: float array of any shape, e.g. [b, h, w, c] images in [0, 1].
        target: array of the same shape.

    Returns:
        Scalar of the inputs' dtype, at least float32 (bfloat16 inputs are compared in float32).

    Raises:
        ValueError: if the shapes differ; nothing is broadcast.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"l1_loss compares equal shapes, got prediction {prediction.shape} "
            f"and target {target.shape}"
        )
    dtype = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
    return jnp.mean(jnp.abs(prediction.astype(dtype) - target.astype(dtype)))


def fft_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute difference of the images' Fourier transforms.

    `mean(|Re D|, |Im D|)` with D the unnormalised real FFT over height and width of `prediction -
    target`. It is usually added to the L1 loss of the pixels with a weight of 0.1. As the spectrum
    of a real image is symmetric, only the half computed by the real FFT is compared.

    Args:
        prediction: float [b, h, w, c] images in [0, 1].
        target: array of the same shape.

    Returns:
        Scalar of the inputs' dtype, at least float32 (bfloat16 inputs are compared in float32).

    Raises:
        ValueError: if the shapes differ, or are not [b, h, w, c].

    References:
        Cho et al., Rethinking Coarse-to-Fine Approach in Single Image Deblurring (MIMO-UNet, 2021),
        the frequency reconstruction loss, here at full size alone; Kong et al., Efficient Frequency
        Domain-based Transformers for High-Quality Image Deblurring (2023).
    """
    if prediction.shape != target.shape or prediction.ndim != 4:
        raise ValueError(
            f"fft_loss compares images [b, h, w, c] of equal shape, got prediction "
            f"{prediction.shape} and target {target.shape}"
        )
    dtype = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
    spectrum = jnp.fft.rfft2(prediction.astype(dtype) - target.astype(dtype), axes=(1, 2))
    return (jnp.mean(jnp.abs(spectrum.real)) + jnp.mean(jnp.abs(spectrum.imag))) / 2


def psnr_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean over the batch of the dB by which each image's PSNR is below 40 dB, smoothed.

    `10 log10(1 + MSE / 1e-4)` of each image. Its gradient grows as the error of an image decreases,
    up to 40 dB, so that faint degradations count as well as strong ones. The constant 1e-4 bounds
    the influence of images that are almost restored.

    Args:
        prediction: float [b, h, w, c] images in [0, 1].
        target: array of the same shape.

    Returns:
        Scalar in dB, >= 0, of the inputs' dtype, at least float32.

    Raises:
        ValueError: if the shapes differ, or are not [b, h, w, c].

    References:
        Chen et al., HINet (2021), the PSNR loss, which NAFNet (2022) is trained with; there with a
        constant of 1e-8, and without the logarithm of the constant.
    """
    if prediction.shape != target.shape or prediction.ndim != 4:
        raise ValueError(
            f"psnr_loss compares images [b, h, w, c] of equal shape, got prediction "
            f"{prediction.shape} and target {target.shape}"
        )
    dtype = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
    errors = jnp.square(prediction.astype(dtype) - target.astype(dtype)).mean(axis=(1, 2, 3))
    return jnp.mean(10 / math.log(10) * jnp.log1p(errors / 1e-4))


register("psnr", psnr_loss)


def focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Mean focal loss over a batch: cross-entropy that down-weights easy samples.

    `(1 - p)^gamma * -log p` with p the softmax probability of the right class. The gradient flows
    through the focal factor too.

    Args:
        logits: [b, classes] float, unnormalised.
        labels: [b] integer, in [0, classes).
        gamma: focusing exponent, >= 0; 0 gives cross-entropy. Pre-training uses 2.
        class_weights: optional [classes] float factors. As in the reference, the loss is the mean
            over samples and not divided by the weights.

    Returns:
        Scalar, in nats, >= 0; float32, or float64 for float64 logits.

    Raises:
        ValueError: if gamma is negative or the shapes do not match.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), eq. 4; Hu et al., Universal Image
        Restoration Pre-training via Degradation Classification (2025), the classification loss.
    """
    if gamma < 0:
        raise ValueError(f"focal_loss: gamma is {gamma}, it must be 0 or larger")
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"focal_loss expects logits [b, classes] and labels [b], got logits {logits.shape} "
            f"and labels {labels.shape}"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_probabilities = jax.nn.log_softmax(logits)
    log_p = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    loss = -log_p
    if class_weights is not None:
        loss = loss * jnp.asarray(class_weights, loss.dtype)[labels]
    if gamma:
        # expm1 keeps the digits of 1 - p if p is near 1; the lower bound keeps the gradient of the
        # power finite at p == 1, where it would be infinite for gamma < 1.
        miss = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(loss.dtype).tiny)
        loss = miss**gamma * loss
    return jnp.mean(loss)


def sigmoid_focal_loss(logits: jax.Array, labels: jax.Array, *, gamma: float) -> jax.Array:
    """Mean focal loss of independent binary labels, such as the components of an image.

    `(1 - p)^gamma * -log p` per logit, with p the sigmoid probability of the label. As in
    `focal_loss`, positive and negative labels have equal weight, and the gradient flows through the
    focal factor too.

    Args:
        logits: [b, components] float, unnormalised; positive means "present".
        labels: [b, components], 0 or 1, of any real dtype.
        gamma: focusing exponent, >= 0; 0 gives binary cross-entropy.

    Returns:
        Scalar, in nats, >= 0, the mean over all b * components; float32, or float64 for float64
        logits.

    Raises:
        ValueError: if gamma is negative or the shapes differ.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), eq. 4, without its alpha.
    """
    if gamma < 0:
        raise ValueError(f"sigmoid_focal_loss: gamma is {gamma}, it must be 0 or larger")
    if logits.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(
            f"sigmoid_focal_loss expects logits and labels [b, components], got logits "
            f"{logits.shape} and labels {labels.shape}"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    right = jnp.where(labels.astype(bool), logits, -logits)  # the logit of the correct answer
    loss = -jax.nn.log_sigmoid(right)
    if gamma:
        # In log space, as (1 - p)^gamma = sigmoid(-right)^gamma: exact for p near 1, and with a
        # finite gradient where 1 - p is zero, also for gamma < 1.
        loss = jnp.exp(gamma * jax.nn.log_sigmoid(-right)) * loss
    return jnp.mean(loss)
