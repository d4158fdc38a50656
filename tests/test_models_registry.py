import json

import jax.numpy as jnp
import pytest

from dcpt_jax.models import BACKBONES, create_model

SMALL = {"nafnet": dict(width=4, encoder_blocks=(1, 1), decoder_blocks=[1, 1], tlc_size=8)}


def test_every_backbone_is_tested_here():
    assert set(SMALL) == set(BACKBONES)


@pytest.mark.parametrize("name", SMALL)
def test_name_and_arguments_rebuild_the_network(name):
    model = create_model(name, **SMALL[name])
    stored = json.loads(json.dumps([model.architecture, model.arguments()]))
    assert create_model(stored[0], **stored[1]) == model
    assert hash(model) == hash(create_model(stored[0], **stored[1]))
    assert create_model(name, **SMALL[name], dtype=jnp.bfloat16) != model


def test_arguments_state_everything_but_the_compute_type():
    assert create_model("nafnet").arguments() == {
        "width": 64,
        "encoder_blocks": [1, 1, 1, 28],
        "middle_blocks": 1,
        "decoder_blocks": [1, 1, 1, 1],
        "tlc_size": None,
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
    known = "width, encoder_blocks, middle_blocks, decoder_blocks, tlc_size, dtype"
    assert known in message


def test_sizes_and_features_are_known_without_running():
    model = create_model("nafnet", width=8, encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1, 1))
    assert model.size_multiple == 8
    assert model.feature_dims == (8, 16, 32)
