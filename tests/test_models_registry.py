import dataclasses
import json

import jax.numpy as jnp
import pytest

from dcpt_jax.models import BACKBONES, create_model, parameter_shapes
from tests.golden import TINY


@pytest.mark.parametrize("name", BACKBONES)
def test_name_and_arguments_rebuild_the_network(name):
    model = create_model(name, **TINY[name])
    stored = json.loads(json.dumps([model.architecture, model.arguments()]))
    assert create_model(stored[0], **stored[1]) == model
    assert hash(model) == hash(create_model(stored[0], **stored[1]))
    assert create_model(name, **TINY[name], dtype=jnp.bfloat16) != model
    fields = {field.name for field in dataclasses.fields(model)}
    assert fields - {"dtype", "remat", "parent", "name"} == set(model.arguments())


def test_the_shapes_of_the_parameters_are_the_callers_own():
    model = create_model("nafnet", **TINY["nafnet"])
    shapes = parameter_shapes(model)
    expected = shapes.pop("intro")
    assert parameter_shapes(model)["intro"] == expected


def test_arguments_state_everything_but_the_compute_type():
    assert create_model("nafnet").arguments() == {
        "width": 64,
        "encoder_blocks": [1, 1, 1, 28],
        "middle_blocks": 1,
        "decoder_blocks": [1, 1, 1, 1],
        "norm_epsilon": 1e-6,
        "tlc_size": None,
        "masking": "sparse",
    }


@pytest.mark.parametrize("name", ["resnet", "NAFNet", "", None])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError) as error:
        create_model(name)
    assert "nafnet" in str(error.value) and repr(name) in str(error.value)


@pytest.mark.parametrize("keyword", ["enc_blk_nums", "widht", "parent"])
def test_an_unknown_keyword_is_answered_with_the_known_ones(keyword):
    with pytest.raises(TypeError) as error:
        create_model("nafnet", **{keyword: 1})
    message = str(error.value)
    assert keyword in message
    known = "width, encoder_blocks, middle_blocks, decoder_blocks, norm_epsilon, tlc_size, masking"
    assert f"{known}, remat, dtype" in message


@pytest.mark.parametrize("name", ["nafnet", "promptir", "swinir"])
def test_an_unknown_way_of_masking_is_refused(name):
    with pytest.raises(ValueError, match="masking is 'full', but must be one of sparse, maskdcpt"):
        create_model(name, masking="full")


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, 1.0, float("nan"), "1e-5"])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"norm_epsilon is .*, but must be between 0 and 1"):
        create_model("nafnet", norm_epsilon=epsilon)


@pytest.mark.parametrize(
    ("name", "multiple", "dims"),
    [
        ("nafnet", 16, (64, 128, 256, 512)),
        ("restormer", 8, (96, 96, 192)),
        ("promptir", 8, (96, 192, 192)),
        ("swinir", 8, (180, 180, 180)),
    ],
)
def test_properties_of_the_published_networks(name, multiple, dims):
    model = create_model(name)
    assert model.size_multiple == multiple
    assert model.feature_dims == dims
    assert model.equal_feature_sizes == (name == "swinir")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("restormer", dict(dim=7), "even"),
        ("restormer", dict(num_blocks=(1, 1, 1)), "4 entries"),
        ("restormer", dict(heads=(1, 3, 2, 2)), r"heads\[1\] is 3"),
        ("restormer", dict(norm="layer"), "bias_free, with_bias"),
        ("restormer", dict(attention="sigmoid"), "relu, softmax"),
        ("restormer", dict(ffn_expansion=0), "ffn_expansion"),
        ("restormer", dict(bias=1), "bias"),
        ("promptir", dict(prompt_dims=(6, 8)), "3 entries"),
        ("promptir", dict(prompt_dims=(6, 9, 10)), "divide"),
        ("promptir", dict(prompt_len=0), "prompt_len"),
        ("swinir", dict(depths=(1, 1, 1, 1)), "6 entries"),
        ("swinir", dict(num_heads=(5,) * 6), "divide"),
        ("swinir", dict(resi_connection="2conv"), "1conv, 3conv"),
        ("swinir", dict(mlp_ratio=0.0), "mlp_ratio"),
        ("swinir", dict(window_size=0), "window_size"),
        ("swinir", dict(dtype="float16"), "bfloat16"),
    ],
)
def test_unfit_arguments_are_refused_at_creation(name, changes, words):
    with pytest.raises(ValueError, match=words):
        create_model(name, **{**TINY[name], **changes})
