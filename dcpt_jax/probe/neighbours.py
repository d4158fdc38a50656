"""Accuracy of a k-nearest-neighbour classifier on features of any size.

Full-resolution features have millions of numbers per image. Euclidean distances follow from inner
products, which are sums over blocks of columns, so only one block is in memory at a time. The
classifier then works on the [n, n] matrix of inner products.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

NEIGHBOURS = 5
TEST_SHARE = 0.33
SPLIT_SEEDS = (0, 223, 929, 1234, 10086)  # of the published study
_BLOCK = 2**24  # numbers; 128 MiB in float64


class Accuracy(NamedTuple):
    """Share of held-out samples that are classified correctly, in [0, 1].

    Attributes:
        splits: one accuracy for each split into fitted and held-out samples.
    """

    splits: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the splits."""
        return float(np.mean(self.splits))

    @property
    def deviation(self) -> float:
        """Standard deviation over the splits (divided by their number)."""
        return float(np.std(self.splits))


def knn_accuracy(
    features: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    test_share: float = TEST_SHARE,
    seeds: Sequence[int] = SPLIT_SEEDS,
) -> Accuracy:
    """Measures the accuracy of a k-nearest-neighbour classifier on features.

    Reproduces scikit-learn's `KNeighborsClassifier(neighbours, algorithm="brute")` on the splits of
    `train_test_split(test_size=test_share, random_state=seed)`: Euclidean distances of unscaled
    features, uniform votes, and the lowest label for equal votes. Among samples of exactly equal
    distance the same ones are selected; only with more than 256 fitted samples does scikit-learn's
    selection depend on its number of threads.

    Args:
        features: [n, ...] float, flattened here; a memory-mapped array is read block by block.
        labels: [n] int.
        neighbours: number of voting neighbours, >= 1.
        test_share: share of held-out samples, in (0, 1).
        seeds: one split for each.

    Returns:
        The accuracy on the held-out samples of each split.

    Raises:
        ValueError: if shapes do not match, values are not finite, or fewer samples than
            `neighbours` are fitted.

    References:
        DCPT (ICLR 2025), section 3.1: the preliminary study.
    """
    products = inner_products(features)
    return knn_accuracy_of(
        products, labels, neighbours=neighbours, test_share=test_share, seeds=seeds
    )


def inner_products(features: np.ndarray) -> np.ndarray:
    """Inner products of all pairs of samples, accumulated in float64.

    Args:
        features: [n, ...] float, flattened here; may be memory-mapped.

    Returns:
        float64 [n, n].

    Raises:
        ValueError: if `features` has no samples or a value is not finite.
    """
    if np.ndim(features) < 2 or not len(features):
        raise ValueError(f"features must be [n, ...] with n >= 1, not {np.shape(features)}")
    flat = np.reshape(features, (len(features), -1))
    products = np.zeros((len(flat), len(flat)))
    columns = max(1, _BLOCK // len(flat))
    for start in range(0, flat.shape[1], columns):
        block = np.asarray(flat[:, start : start + columns], np.float64)
        products += block @ block.T
    if not np.isfinite(products).all():
        raise ValueError("features contain values that are not finite (NaN or infinity)")
    return products


def knn_accuracy_of(
    products: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    test_share: float = TEST_SHARE,
    seeds: Sequence[int] = SPLIT_SEEDS,
) -> Accuracy:
    """`knn_accuracy` from the [n, n] inner products of the features."""
    labels = np.asarray(labels)
    if labels.shape != (len(products),):
        raise ValueError(f"{len(products)} samples need as many labels, not {labels.shape}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, not {test_share}")
    accuracies = []
    for seed in seeds:
        fitted, held_out = split(len(labels), test_share, seed)
        if not 1 <= neighbours <= len(fitted):
            raise ValueError(
                f"neighbours must be from 1 to the number of fitted samples, {len(fitted)} of "
                f"{len(labels)}, not {neighbours}"
            )
        predictions = predict(products, labels, fitted, held_out, neighbours)
        accuracies.append(float(np.mean(predictions == labels[held_out])))
    return Accuracy(tuple(accuracies))


def split(count: int, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of (fitted, held-out) samples, in the order of scikit-learn's `train_test_split`."""
    order = np.random.RandomState(seed).permutation(count)
    held_out = math.ceil(test_share * count)
    return order[held_out:], order[:held_out]


def predict(
    products: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray,
    queries: np.ndarray,
    neighbours: int = NEIGHBOURS,
) -> np.ndarray:
    """Predicts labels by a vote of the nearest fitted samples.

    Returns:
        [queries] labels.
    """
    classes, votes = np.unique(labels[fitted], return_inverse=True)
    # Squared distances minus the squared norm of the query, which does not change their order.
    distances = products.diagonal()[fitted] - 2 * products[np.ix_(queries, fitted)]
    winners = [np.bincount(votes[near]).argmax() for near in _nearest(distances, neighbours)]
    return classes[winners]


def _nearest(distances: np.ndarray, count: int) -> Iterator[list[int]]:
    """Indices of the `count` smallest entries of each row, in no particular order.

    Uses the same heap as scikit-learn, with the largest entry on top, as the heap's structure
    decides which one of several equal entries is removed first.
    """
    for row in distances.tolist():
        heap = [(math.inf, -1)] * count
        for index, distance in enumerate(row):
            if distance < heap[0][0]:
                _replace_largest(heap, (distance, index))
        yield [index for _, index in heap]


def _replace_largest(heap: list[tuple[float, int]], entry: tuple[float, int]) -> None:
    """Replaces the top entry and restores the heap, as scikit-learn's `heap_push`."""
    at, size = 0, len(heap)
    while (child := 2 * at + 1) < size:
        if child + 1 < size and heap[child + 1][0] > heap[child][0]:
            child += 1
        if heap[child][0] <= entry[0]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = entry
