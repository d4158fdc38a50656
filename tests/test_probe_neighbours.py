"""kNN accuracy: equal to the recording and to scikit-learn, in blocks, ties included."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import dcpt_jax
from dcpt_jax.probe import neighbours
from tests.golden import read_arrays, read_json


def test_equals_the_recording():
    facts = read_json("knn/knn.json")
    arrays = read_arrays("knn/knn.npz")
    features, labels = arrays["features"], arrays["labels"]
    products = neighbours.inner_products(features)
    for seed in neighbours.SPLIT_SEEDS:
        fitted, held_out = neighbours.split(len(labels), neighbours.TEST_SHARE, seed)
        np.testing.assert_array_equal(fitted, arrays[f"train_idx_{seed}"])
        np.testing.assert_array_equal(held_out, arrays[f"test_idx_{seed}"])
        predictions = neighbours.predict(products, labels, fitted, held_out)
        np.testing.assert_array_equal(predictions, arrays[f"pred_{seed}"])
    accuracy = dcpt_jax.probe.knn_accuracy(features, labels)
    assert [one["random_state"] for one in facts["splits"]] == list(neighbours.SPLIT_SEEDS)
    assert accuracy.splits == tuple(one["accuracy"] for one in facts["splits"])
    assert accuracy.mean == pytest.approx(0.504)
    assert accuracy.deviation == pytest.approx(np.std([0.44, 0.44, 0.48, 0.56, 0.6]))


def scikit_learn(features, labels, seed, count):
    x, queries, y, _ = train_test_split(features, labels, test_size=0.33, random_state=seed)
    return KNeighborsClassifier(count, algorithm="brute").fit(x, y).predict(queries)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 12])
@pytest.mark.parametrize("kind", ["real", "tied"])
def test_equals_scikit_learn(kind, count):
    """Small integers give many equal distances and votes; both compute them without rounding."""
    rng = np.random.default_rng(count)
    labels = rng.integers(3, 8, 300)
    if kind == "real":
        features = rng.standard_normal((300, 40)).astype(np.float32) + 0.3 * labels[:, None]
    else:
        features = rng.integers(0, 3, (300, 4)).astype(np.float32)
    products = neighbours.inner_products(features)
    for seed in (0, 1):
        predictions = neighbours.predict(
            products, labels, *neighbours.split(300, 0.33, seed), count
        )
        np.testing.assert_array_equal(predictions, scikit_learn(features, labels, seed, count))


def test_inner_products_of_memory_mapped_features_in_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(7, 5, 3))
    mapped[:] = rng.standard_normal(mapped.shape)
    flat = mapped.reshape(7, 15).astype(np.float64)
    monkeypatch.setattr(neighbours, "_BLOCK", 7 * 4)  # blocks of 4, 4, 4 and 3 columns
    np.testing.assert_allclose(neighbours.inner_products(mapped), flat @ flat.T, rtol=1e-12)


def test_half_precision_is_accumulated_in_double():
    features = np.full((2, 5000), 100, np.float16)  # a sum of squares above the range of float16
    assert (neighbours.inner_products(features) == 5e7).all()


@pytest.mark.parametrize(
    ("features", "labels", "options", "message"),
    [
        (np.full((20, 2), np.nan), np.zeros(20), {}, "not finite"),
        (np.zeros((20, 2)), np.zeros(19), {}, "20 samples need as many labels"),
        (np.zeros(20), np.zeros(20), {}, r"must be \[n, \.\.\.\]"),
        (np.zeros((6, 2)), np.zeros(6), {}, "from 1 to the number of fitted samples, 4 of 6"),
        (np.zeros((20, 2)), np.zeros(20), {"neighbours": 0}, "neighbours must be"),
        (np.zeros((20, 2)), np.zeros(20), {"test_share": 1.0}, "between 0 and 1"),
    ],
)
def test_impossible_measurements_are_refused(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        dcpt_jax.probe.knn_accuracy(features, labels, **options)
