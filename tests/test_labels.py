import numpy as np
import pytest

from dcpt_jax.data.tasks import TASK_SETS, resolve_tasks
from dcpt_jax.labels import Labels

FIVE = ("rain", "noise", "haze", "low_light", "motion_blur")
LOGITS = np.array([[-2.0, -1.0, -3.0], [1.0, 3.0, -1.0]])


def test_classes_are_labels_of_their_own():
    tasks = resolve_tasks("noise:25,low_light+noise,clean")
    labels = Labels.of_tasks(tasks)
    assert labels == Labels(("noise:25", "low_light+noise", "clean"), "flat")
    np.testing.assert_array_equal(labels.rows(tasks), np.eye(3))


def test_components_in_order_of_first_appearance():
    tasks = resolve_tasks("noise:25,low_light+noise,haze+low_light:1")
    labels = Labels.of_tasks(tasks, "multi_hot")
    assert labels == Labels(("noise", "low_light", "haze"), "multi_hot")
    rows = labels.rows(tasks)
    np.testing.assert_array_equal(rows, [[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    assert rows.dtype == np.uint8


def test_clean_has_no_component():
    tasks = resolve_tasks("clean,rain,rain+haze")
    labels = Labels.of_tasks(tasks, "multi_hot")
    assert labels.names == ("rain", "haze")
    assert labels.rows(tasks).tolist() == [[0, 0], [1, 0], [1, 1]]
    clean = resolve_tasks("clean")
    assert Labels.of_tasks(clean, "multi_hot").rows(clean).shape == (1, 0)


def test_components_of_the_sets():
    labels = Labels.of_tasks(TASK_SETS["cdd11"], "multi_hot")
    assert labels.names == ("low_light", "haze", "rain", "snow")
    rows = labels.rows(TASK_SETS["cdd11"]).tolist()
    assert rows[-2:] == [[1, 1, 1, 0], [1, 1, 0, 1]]
    assert len({tuple(row) for row in rows}) == 11
    for name in ("5d", "10d"):
        labels = Labels.of_tasks(TASK_SETS[name], "multi_hot")
        assert labels.names == Labels.of_tasks(TASK_SETS[name]).names
        np.testing.assert_array_equal(labels.rows(TASK_SETS[name]), np.eye(len(labels.names)))


def test_classes_unknown_to_a_classifier():
    components = Labels(("haze", "rain"), "multi_hot")
    assert components.rows(resolve_tasks("rain+haze,clean")).tolist() == [[1, 1], [0, 0]]
    assert components.unknown(resolve_tasks("rain+snow,haze")) == ("snow",)
    flat = Labels(("haze", "rain"))
    assert flat.unknown(resolve_tasks("rain+haze,haze")) == ("rain+haze",)
    with pytest.raises(ValueError, match=r"rain\+haze: not among the classes"):
        flat.rows(resolve_tasks("rain+haze,haze"))


def test_answers():
    flat, components = Labels(("a", "b", "c")), Labels(("a", "b", "c"), "multi_hot")
    assert flat.predictions(LOGITS).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert components.predictions(LOGITS).tolist() == [[0, 0, 0], [1, 1, 0]]
    assert flat.predictions(LOGITS[1]).tolist() == [0, 1, 0]


def test_probabilities_are_sorted_and_do_not_overflow():
    flat = Labels(("a", "b", "c")).probabilities(LOGITS[1])
    expected = np.exp([3.0, 1.0, -1.0]) / np.exp(LOGITS[1]).sum()
    assert list(flat) == ["b", "a", "c"]
    np.testing.assert_allclose(list(flat.values()), expected)
    components = Labels(("a", "b", "c"), "multi_hot").probabilities(LOGITS[0])
    assert list(components) == ["b", "a", "c"]
    np.testing.assert_allclose(list(components.values()), 1 / (1 + np.exp([1.0, 2.0, 3.0])))
    with np.errstate(all="raise", under="ignore"):
        for kind in ("flat", "multi_hot"):
            found = Labels(("a", "b"), kind).probabilities(np.array([-1e4, 1e4]))
            assert found == {"b": 1.0, "a": 0.0}


def test_verdicts():
    assert Labels(("haze", "rain")).verdict({"haze": 0.4, "rain": 0.35}) == "haze"
    components = Labels(("haze", "rain"), "multi_hot")
    assert components.verdict({"haze": 0.9, "rain": 0.6}) == "haze+rain"
    assert components.verdict({"haze": 0.5, "rain": 0.3}) == "clean"


@pytest.mark.parametrize(
    ("there", "here", "shared"),
    [
        (Labels(FIVE), Labels(FIVE), tuple((i, i) for i in range(5))),
        (Labels(FIVE), Labels(("haze", "jpeg", "rain")), ((2, 0), (0, 2))),
        (Labels(("noise",)), Labels(("rain",)), ()),
        # Numbered classes, as converted classifiers have them, are matched by position.
        (Labels(("class_0", "class_1")), Labels(("rain", "haze")), ((0, 0), (1, 1))),
        (Labels(("class_0", "class_1")), Labels(("rain",)), ()),
        (Labels(("class_0", "class_1")), Labels(("rain", "haze"), "multi_hot"), ()),
        # A class and a component of one name; a mixture has no component of its own.
        (
            Labels(("haze", "low_light", "rain"), "multi_hot"),
            Labels(("rain", "low_light+haze", "haze")),
            ((2, 0), (0, 2)),
        ),
        (
            Labels(("rain", "low_light+haze")),
            Labels(("low_light", "rain"), "multi_hot"),
            ((0, 1),),
        ),
    ],
)
def test_columns_that_two_classifiers_share(there, here, shared):
    assert here.shared_with(there) == shared


@pytest.mark.parametrize("labels", [Labels(("rain", "haze")), Labels(("rain",), "multi_hot")])
def test_json_gives_the_same_labels(labels):
    assert Labels.from_json(labels.to_json()) == labels
