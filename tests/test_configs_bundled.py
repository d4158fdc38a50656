"""The recipe of the bundled network, and its bundled files."""

import pytest

from dcpt_jax import config as configs
from dcpt_jax import weights


def recipe(stage: str):
    config = configs.load("bundled", stage)
    config.init_from = "somewhere"
    return config


@pytest.mark.parametrize("stage", ["pretrain", "restore", "refine", "classify"])
def test_every_stage_is_valid(stage):
    config = recipe(stage)
    configs.validate(config)
    assert [task.name for task in configs.tasks_of(config)][-2:] == ["real", "clean"]
    if stage in ("pretrain", "classify"):
        assert "clean" not in configs.labels_of(config).names


def test_another_stage_is_refused_with_the_known_ones():
    with pytest.raises(configs.ConfigError, match="pretrain, restore, refine, classify"):
        recipe("")


def test_the_bundled_network_is_a_network_of_the_recipe():
    if not weights.BUNDLED.is_dir():
        pytest.skip("no weights are bundled")
    _, description = weights.load_weights()
    network = dict(recipe("restore").model)
    assert description.architecture == network.pop("name")
    assert {key: description.arguments[key] for key in network} == network
