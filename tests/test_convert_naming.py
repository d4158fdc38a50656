import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dcpt_jax.convert import from_torch, to_torch
from dcpt_jax.models import create_classifier, create_model, parameter_shapes
from tests.golden import read_case, rule_weights


def small_network():
    return create_model("nafnet", width=4, encoder_blocks=(2, 1), decoder_blocks=(1, 2))


def small_classifier():
    return create_classifier((4, 8), 3, num_blocks=2)


def random_params(model, dtype=np.float32):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(dtype), parameter_shapes(model)
    )


@pytest.mark.parametrize("make", [small_network, small_classifier])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_there_and_back_is_exact_and_keeps_the_dtype(make, dtype):
    model = make()
    params = random_params(model, dtype)
    reference = to_torch(params, model)
    back = from_torch(reference, model)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {np.dtype(dtype)}
    assert {value.dtype for value in reference.values()} == {np.dtype(dtype)}
    assert all(value.flags.c_contiguous for value in reference.values())


@pytest.mark.parametrize(
    ("case", "make"),
    [
        (
            "models/nafnet_multiblock",
            lambda: create_model(
                "nafnet", width=6, encoder_blocks=(2, 1), middle_blocks=2, decoder_blocks=(1, 2)
            ),
        ),
        ("classifiers/dc_nafnet", lambda: create_classifier((8, 16, 32), 5)),
    ],
)
def test_names_and_shapes_are_the_reference_s(shared, case, make):
    config, _ = read_case(shared / "golden" / case)
    model = make()
    converted = to_torch(random_params(model), model)
    assert {name: list(value.shape) for name, value in converted.items()} == dict(config["params"])
    with np.load(shared / "golden" / case / "weights.npz") as recorded:
        weights = dict(recorded)
    ruled = rule_weights(config["params"], config["weight_salt"])
    assert weights.keys() == ruled.keys()
    for name, value in to_torch(from_torch(weights, model), model).items():
        np.testing.assert_array_equal(value, ruled[name])


def test_layouts_by_hand():
    model = small_network()
    reference = to_torch(random_params(model), model)
    params = flatten_dict(from_torch(reference, model), sep="/")
    dense = reference["encoders.0.1.conv1.weight"]
    assert dense.shape == (8, 4, 1, 1)
    assert params["encoder_0/block_1/conv_1/kernel"][0, 0, 3, 5] == dense[5, 3, 0, 0]
    depthwise = reference["decoder1.0.conv2.weight"]
    assert depthwise.shape == (8, 1, 3, 3)
    assert params["decoder_1/block_0/conv_2/kernel"][0, 2, 0, 5] == depthwise[5, 0, 0, 2]
    assert reference["middle_blks.0.beta"].shape == (1, 16, 1, 1)
    assert params["middle/block_0/beta"][7] == reference["middle_blks.0.beta"][0, 7, 0, 0]
    np.testing.assert_array_equal(
        params["encoder_1/block_0/attention/bias"], reference["encoders.1.0.sca.1.bias"]
    )


def test_everything_wrong_is_named_at_once():
    model = small_network()
    reference = to_torch(random_params(model), model)
    del reference["intro.weight"], reference["ups.1.0.weight"]
    reference["extra.weight"] = np.zeros(3, np.float32)
    reference["ending.bias"] = np.zeros(4, np.float32)
    # Of as many elements as the right one: it must not be reshaped into it.
    reference["downs.0.weight"] = reference["downs.0.weight"].transpose(2, 3, 1, 0)
    with pytest.raises(ValueError) as error:
        from_torch(reference, model)
    message = str(error.value)
    for words in (
        "missing (2): intro.weight, ups.1.0.weight",
        "unexpected (1): extra.weight",
        "ending.bias (4,) (expected (3,))",
        "downs.0.weight (2, 2, 4, 8) (expected (8, 4, 2, 2))",
    ):
        assert words in message


def test_unfit_parameters_are_named_too():
    model = small_classifier()
    params = random_params(model)
    params["head"]["kernel"] = params["head"]["kernel"].T
    params["haed"] = params.pop("mixing_weights")
    with pytest.raises(ValueError) as error:
        to_torch(params, model)
    for words in ("missing (1): mixing_weights", "unexpected (1): haed", "head/kernel (3, 8)"):
        assert words in str(error.value)


def test_a_state_dict_for_another_depth_is_refused():
    deeper = create_model("nafnet", width=4, encoder_blocks=(3, 1), decoder_blocks=(1, 2))
    reference = to_torch(random_params(deeper), deeper)
    with pytest.raises(ValueError, match=r"unexpected \(18\): encoders.0.2"):
        from_torch(reference, small_network())


def test_tensors_of_pytorch_are_taken():
    torch = pytest.importorskip("torch")
    model = small_network()
    params = random_params(model)
    tensors = {
        name: torch.nn.Parameter(torch.from_numpy(value))
        for name, value in to_torch(params, model).items()
    }
    jax.tree.map(np.testing.assert_array_equal, from_torch(tensors, model), params)


def test_a_module_without_rules_is_refused():
    class Other:
        architecture = "other"

    with pytest.raises(ValueError, match="nafnet, classifier"):
        to_torch({}, Other())
