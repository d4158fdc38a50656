"""t-SNE of features of any size, computed from their inner products."""

import numpy as np

from dcpt_jax import extras
from dcpt_jax.probe.neighbours import inner_products

COMPONENTS = 50
PERPLEXITY = 30.0
ITERATIONS = 2000


def tsne(features: np.ndarray, *, seed: int = 0, iterations: int = ITERATIONS) -> np.ndarray:
    """Embeds samples in the plane by t-SNE.

    As in the published study, each sample is divided by its L2 norm, the perplexity is 30 (for n
    samples at most (n - 1) / 3), and there are 2000 iterations. Unlike there, t-SNE is given the
    leading 50 principal components instead of all features.

    Args:
        features: [n, ...] float, n >= 4, flattened here; a memory-mapped array is read block by
            block.
        seed: of the optimisation; the result is reproducible on one machine.
        iterations: >= 250.

    Returns:
        float64 [n, 2]; zeros if all samples are equal.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if there are too few samples or a value is not finite.

    References:
        van der Maaten and Hinton, Visualizing Data using t-SNE (2008).
    """
    return tsne_of(inner_products(features), seed=seed, iterations=iterations)


def tsne_of(products: np.ndarray, *, seed: int = 0, iterations: int = ITERATIONS) -> np.ndarray:
    """`tsne` from the [n, n] inner products of the features."""
    with extras.needed("probe", "t-SNE"):
        from sklearn.manifold import TSNE
    if len(products) < 4:
        raise ValueError(f"t-SNE needs at least 4 samples, not {len(products)}")
    points = principal_components(_normalised(products), COMPONENTS)
    if not points.any():
        return np.zeros((len(points), 2))
    method = TSNE(
        perplexity=min(PERPLEXITY, (len(points) - 1) / 3),
        max_iter=iterations,
        init="pca",
        learning_rate="auto",
        random_state=seed,
    )
    return np.asarray(method.fit_transform(points), np.float64)


def principal_components(products: np.ndarray, count: int) -> np.ndarray:
    """Coordinates of samples along their leading principal components, from their inner products.

    Returns:
        float64 [n, count], by decreasing variance; zeros if all samples are equal.
    """
    mean = products.mean(axis=0)
    centred = products - mean - mean[:, None] + mean.mean()
    values, vectors = np.linalg.eigh(centred)
    order = np.argsort(-values)[: min(count, len(values) - 1)]
    values, vectors = values[order], vectors[:, order]
    # Without variance, rounding leaves small values, which may be negative.
    values = np.where(values > 1e-12 * products.trace(), values, 0)
    points = vectors * np.sqrt(values)
    # The sign of an eigenvector is arbitrary: makes the largest coordinate positive.
    largest = np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0)
    return points * np.where(largest < 0, -1, 1)


def _normalised(products: np.ndarray) -> np.ndarray:
    """Inner products of the samples after division by their L2 norms; zero samples stay zero."""
    norms = np.sqrt(products.diagonal())
    norms = np.where(norms > 0, norms, 1)
    return products / norms / norms[:, None]
