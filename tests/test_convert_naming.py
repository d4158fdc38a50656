import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dcpt_jax.convert.naming import LAYOUTS, from_torch, to_torch
from dcpt_jax.models import create_classifier, create_model
from tests.golden import read_json, reference_shapes, rule_weights


def small_network():
    return create_model("nafnet", width=4, encoder_blocks=(2, 1), decoder_blocks=(1, 2))


def small_classifier():
    return create_classifier((4, 8), 3, num_blocks=2)


LEVELS = {"dim": 4, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
SWINIR = {"embed_dim": 8, "depths": (2, 1, 1, 1, 1, 1), "num_heads": (2,) * 6, "window_size": 4}
# (directory of the recordings, how the same network is made here)
RECORDED = {
    "models/nafnet_multiblock": lambda: create_model(
        "nafnet", width=6, encoder_blocks=(2, 1), middle_blocks=2, decoder_blocks=(1, 2)
    ),
    "models/restormer_small": lambda: create_model(
        "restormer",
        dim=8,
        num_blocks=(1, 2, 1, 1),
        heads=(1, 2, 2, 2),
        num_refinement_blocks=1,
    ),
    "models/restormer_withbias": lambda: create_model(
        "restormer",
        dim=6,
        num_blocks=(1, 1, 2, 1),
        heads=(1, 1, 2, 4),
        num_refinement_blocks=2,
        ffn_expansion=2.0,
        bias=True,
        norm="with_bias",
    ),
    "models/promptir_tiny": lambda: create_model(
        "promptir",
        dim=6,
        num_blocks=(1, 2, 1, 1),
        heads=(1, 2, 2, 2),
        num_refinement_blocks=1,
        prompt_dims=(6, 8, 10),
        prompt_sizes=(20, 10, 5),
    ),
    "models/swinir_small": lambda: create_model(
        "swinir",
        embed_dim=12,
        depths=(2, 1, 1, 2, 1, 2),
        num_heads=(2, 3, 2, 2, 3, 2),
        window_size=4,
    ),
    "models/swinir_ws8_3conv": lambda: create_model(
        "swinir",
        embed_dim=16,
        depths=(2, 2, 1, 1, 2, 2),
        num_heads=(2, 4, 2, 4, 2, 2),
        mlp_ratio=3.0,
        qkv_bias=False,
        patch_norm=False,
        resi_connection="3conv",
    ),
    "classifiers/dc_nafnet": lambda: create_classifier((8, 16, 32), 5),
    "classifiers/dc_img_promptir_tiny": lambda: create_classifier(
        (12, 24, 24), 5, num_blocks=1, image_input=True
    ),
}


def random_state(model, dtype=np.float32):
    """A state dict of random numbers in the reference's names and layouts."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in reference_shapes(model).items()
    }


@pytest.mark.parametrize(
    "make",
    [
        small_network,
        small_classifier,
        lambda: create_model("restormer", **LEVELS),
        lambda: create_model("promptir", **LEVELS, prompt_dims=(2, 4, 8), prompt_sizes=(3, 2, 1)),
        lambda: create_model("swinir", **SWINIR),
    ],
    ids=["nafnet", "classifier", "restormer", "promptir", "swinir"],
)
def test_there_and_back_is_exact_and_keeps_the_dtype(make):
    model = make()
    for dtype in (np.float32, np.float64, np.float16, jnp.bfloat16):
        state = random_state(model, dtype)
        params = from_torch(state, model)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
        back = to_torch(params, model)
        assert list(back) == list(state)
        for name, value in state.items():
            np.testing.assert_array_equal(back[name], value)
            assert back[name].dtype == value.dtype and back[name].flags.c_contiguous
        jax.tree.map(np.testing.assert_array_equal, from_torch(back, model), params)


@pytest.mark.parametrize("case", RECORDED)
def test_names_and_shapes_are_the_reference_s(case):
    config = read_json(f"{case}/config.json")
    model = RECORDED[case]()
    shapes = {name: list(shape) for name, shape in reference_shapes(model).items()}
    assert shapes == dict(config["params"])
    weights = rule_weights(config["params"], config["weight_salt"])
    back = to_torch(from_torch(weights, model), model)
    assert back.keys() == weights.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, weights[name])


def test_both_layouts_of_restormer_s_names():
    relu = create_model("restormer", **LEVELS)
    softmax = create_model("restormer", **LEVELS, attention="softmax")
    params = from_torch(random_state(relu), relu)
    with_body, without = to_torch(params, relu), to_torch(params, softmax)
    assert {name for name in with_body if "attn.temperature" in name} == {
        f"{stage}.body.{i}.attn.temperature"
        for stage, blocks in {
            "encoder_level1": 1, "encoder_level2": 2, "encoder_level3": 1, "latent": 1,
            "decoder_level3": 1, "decoder_level2": 2, "decoder_level1": 1, "refinement": 1,
        }.items()
        for i in range(blocks)
    }  # fmt: skip
    assert "encoder_level2.1.attn.temperature" in without and "down1_2.body.0.weight" in without
    assert len(without) == len(with_body) and not without.keys() >= with_body.keys()
    assert to_torch(params, softmax, layout="original").keys() == without.keys()
    assert to_torch(params, relu, layout="original", force=True).keys() == without.keys()
    for model in (relu, softmax):
        for given in (with_body, without):
            jax.tree.map(np.testing.assert_array_equal, from_torch(given, model), params)


def test_a_mixture_of_both_layouts_is_refused():
    model = create_model("restormer", **LEVELS)
    mixed = random_state(model)
    mixed["latent.0.attn.qkv.weight"] = mixed.pop("latent.body.0.attn.qkv.weight")
    with pytest.raises(ValueError) as error:
        from_torch(mixed, model)
    assert "missing (1): latent.body.0.attn.qkv.weight" in str(error.value)
    assert "unexpected (1): latent.0.attn.qkv.weight" in str(error.value)


def test_unknown_layouts_are_refused():
    for model, layout in (
        (create_model("swinir", **SWINIR), "original"),
        (small_classifier(), "maskdcpt"),
    ):
        with pytest.raises(ValueError, match=f"no layout '{layout}' for a .*; known: dcpt$"):
            to_torch({}, model, layout=layout, force=True)
    with pytest.raises(ValueError, match=r"no layout 'basicsr' .*known: dcpt, original, maskdcpt"):
        to_torch({}, small_network(), layout="basicsr")


MASKED = {"width": 4, "encoder_blocks": (1,), "decoder_blocks": (1,), "norm_epsilon": 1e-5}


@pytest.mark.parametrize(
    ("name", "arguments", "layouts", "message"),
    [
        ("restormer", LEVELS, LAYOUTS[1:], "the attention is relu here and softmax"),
        ("nafnet", MASKED, ("original", "dcpt"), "an epsilon of 1e-05 here and 1e-06 there"),
        ("nafnet", {**MASKED, "norm_epsilon": 1e-6}, ("maskdcpt",), "1e-06 here and 1e-05 there"),
    ],
    ids=["relu", "maskdcpt's epsilon", "dcpt's epsilon"],
)
def test_a_layout_of_another_network_needs_force(name, arguments, layouts, message):
    model = create_model(name, **arguments)
    params = from_torch(random_state(model), model)
    for layout in layouts:
        with pytest.raises(ValueError, match=rf"{message}.*--force"):
            to_torch(params, model, layout=layout)
        written = to_torch(params, model, layout=layout, force=True)
        jax.tree.map(np.testing.assert_array_equal, from_torch(written, model), params)


def test_the_names_of_nafnet_s_authors_go_there_and_back():
    model = small_network()
    state = random_state(model)
    renamed = {name.replace("decoder", "decoders."): value for name, value in state.items()}
    assert "decoders.1.0.conv1.weight" in renamed
    expected = from_torch(state, model)
    jax.tree.map(np.testing.assert_array_equal, from_torch(renamed, model), expected)
    written = to_torch(expected, model, layout="original")
    assert written.keys() == renamed.keys()
    for name, value in renamed.items():
        np.testing.assert_array_equal(written[name], value)


@pytest.mark.parametrize("bias", [False, True])
def test_the_original_promptir_has_convolutions_that_never_run(bias):
    model = create_model(
        "promptir", **LEVELS, prompt_dims=(2, 4, 8), prompt_sizes=(3, 2, 1), bias=bias
    )
    state = random_state(model, np.float16)
    params = from_torch(state, model)
    written = to_torch(params, model, layout="original")
    unused = written.keys() - state.keys()
    assert len(unused) == (12 if bias else 6)
    assert written["chnl_reduce3.weight"].shape == (256, 320, 1, 1)
    assert written["reduce_noise_channel_2.weight"].shape == (8, 8 + 128, 1, 1)
    assert all(not written[name].any() and written[name].dtype == np.float16 for name in unused)
    shapes = {name: value.shape for name, value in written.items()}
    assert reference_shapes(model, layout="original") == shapes
    jax.tree.map(np.testing.assert_array_equal, from_torch(written, model), params)


def test_layouts_by_hand():
    model = small_network()
    reference = random_state(model)
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


def test_layouts_of_the_transformers_by_hand():
    model = create_model("promptir", **LEVELS, prompt_dims=(2, 4, 8), prompt_sizes=(3, 2, 1))
    reference = random_state(model)
    params = flatten_dict(from_torch(reference, model), sep="/")
    assert reference["latent.0.attn.temperature"].shape == (4, 1, 1)
    temperature = params["latent/block_0/attention/temperature"]
    np.testing.assert_array_equal(temperature, reference["latent.0.attn.temperature"][:, 0, 0])
    prompts = reference["prompt1.prompt_param"]
    assert prompts.shape == (1, 5, 2, 3, 3)
    assert params["prompt_1/prompts"][4, 2, 0, 1] == prompts[0, 4, 1, 2, 0]
    mixing = reference["prompt2.linear_layer.weight"]
    np.testing.assert_array_equal(params["prompt_2/mixing/kernel"], mixing.T)
    assert params["noise_3/norm_1/scale"].shape == reference["noise_level3.norm1.body.weight"].shape

    model = create_model("swinir", **SWINIR, resi_connection="3conv")
    reference = random_state(model)
    params = flatten_dict(from_torch(reference, model), sep="/")
    block = "decode_layers1.residual_group.blocks.0"
    np.testing.assert_array_equal(
        params["decoder_1/block_0/mlp/expand/kernel"], reference[f"{block}.mlp.fc1.weight"].T
    )
    np.testing.assert_array_equal(
        params["encoder_0/conv/conv_2/bias"], reference["encode_layers.0.conv.4.bias"]
    )


def test_everything_wrong_is_named_at_once():
    model = small_network()
    reference = random_state(model)
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
    params = from_torch(random_state(model), model)
    params["head"]["kernel"] = params["head"]["kernel"].T
    params["haed"] = params.pop("mixing_weights")
    with pytest.raises(ValueError) as error:
        to_torch(params, model)
    for words in ("missing (1): mixing_weights", "unexpected (1): haed", "head/kernel (3, 8)"):
        assert words in str(error.value)


def test_what_an_outer_key_holds_is_asked_for():
    model = small_classifier()
    reference = random_state(model)
    with pytest.raises(ValueError, match="pass what 'params' holds"):
        from_torch({"params": reference}, model)
    with pytest.raises(ValueError, match="pass what 'params' holds"):
        to_torch({"params": from_torch(reference, model)}, model)
    with pytest.raises(TypeError, match=r"not str; dcpt_jax\.load reads files"):
        from_torch("net.pth", model)


def test_a_state_dict_for_another_depth_is_refused():
    deeper = create_model("nafnet", width=4, encoder_blocks=(3, 1), decoder_blocks=(1, 2))
    reference = random_state(deeper)
    with pytest.raises(ValueError, match=r"unexpected \(18\): encoders.0.2"):
        from_torch(reference, small_network())


def test_tensors_of_pytorch_are_accepted():
    torch = pytest.importorskip("torch")
    model = small_network()
    state = random_state(model)
    params = from_torch(state, model)
    tensors = {name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in state.items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(tensors, model), params)


def test_bfloat16_tensors_of_pytorch_are_accepted():
    torch = pytest.importorskip("torch")
    model = small_classifier()
    state = random_state(model, jnp.bfloat16)
    params = from_torch(state, model)
    tensors = {
        # Not contiguous, as after a transposition.
        name: torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16).mT.contiguous().mT
        if value.ndim > 1
        else torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
        for name, value in state.items()
    }
    jax.tree.map(np.testing.assert_array_equal, from_torch(tensors, model), params)


def test_a_module_without_rules_is_refused():
    class Other:
        architecture = "other"

    with pytest.raises(ValueError, match="nafnet, restormer, promptir, swinir, classifier"):
        to_torch({}, Other())


def test_results_share_no_memory_with_the_inputs():
    network = small_network()
    state = {k: np.ones(s, np.float32) for k, s in reference_shapes(network).items()}
    params = from_torch(state, network)
    back = to_torch(params, network)
    leaves = jax.tree.leaves(params)
    for array in [*state.values(), *back.values()]:
        assert not any(np.shares_memory(array, leaf) for leaf in leaves)
    written = to_torch(jax.tree.map(jnp.asarray, params), network)
    assert all(array.flags.writeable for array in written.values())


def test_long_lists_of_names_are_cut_and_control_characters_escaped():
    network = small_network()
    with pytest.raises(ValueError, match=r"missing \(\d+\): .* and \d+ more\n") as error:
        from_torch({"a\x1b[2J": np.ones(1)}, network)
    assert "unexpected (1): a\\x1b[2J" in str(error.value)
