import jax
import jax.numpy as jnp
import pytest

from dcpt_jax import config as configs
from dcpt_jax.config import ConfigError
from dcpt_jax.train import setup


@pytest.mark.parametrize("mode", ["pretrain", "restore"])
@pytest.mark.parametrize("arg", ["", "nafnet,5d", "5d,nafnet", "nafnet", "5d", "rain"])
def test_every_preset_is_valid_and_builds(mode, arg):
    config = getattr(configs, mode)(arg)
    configs.validate(config)
    num_classes = 1 if arg == "rain" else 5
    network, classifier = setup.build_modules(config, num_classes=num_classes)
    image = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    assert "params" in shapes
    assert (classifier is not None) == (mode == "pretrain")


def test_the_papers_recipes():
    config = configs.pretrain("nafnet,5d")
    assert (config.batch_size, config.data.crop_size) == (32, 128)
    assert (config.optimizer.learning_rate, config.classifier_optimizer.learning_rate) == (
        3e-4,
        1e-4,
    )
    assert (config.optimizer.weight_decay, config.classifier_optimizer.weight_decay) == (0, 1e-4)
    assert config.optimizer.decay_steps == 1_000_000 and config.optimizer.min_learning_rate == 1e-6
    assert config.optimizer.clip_norm == 0 and config.focal_gamma == 2 and config.ema_decay == 0
    network, _ = setup.build_modules(config, num_classes=5)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 67_888_835
    config = configs.restore("nafnet,5d")
    assert (config.batch_size, config.ema_decay, config.optimizer.clip_norm) == (24, 0.999, 0.01)


@pytest.mark.parametrize("arg", ["resnet", "nafnet,6d", "nafnet,nafnet", "5d,rain"])
def test_an_unknown_preset_lists_the_known_ones(arg):
    with pytest.raises(ConfigError, match=r"nafnet.*5d.*motion_blur"):
        configs.pretrain(arg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 0, "config.batch_size is 0"),
        ("num_steps", 0, "config.num_steps"),
        ("tasks", "6d", "config.tasks.*5d"),
        ("dtype", "float16", "bfloat16"),
        ("ema_decay", 1.0, "ema_decay"),
        ("data.crop_size", 8, "config.data.crop_size is 8; it has to be 16"),
        ("data.on_bad_file", "ignore", "skip, refuse"),
        ("model.name", "resnet", "nafnet"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate"),
        ("optimizer.min_learning_rate", 1.0, "min_learning_rate"),
        ("optimizer.b2", 1.0, r"optimizer.b2 is 1.0; it has to be in \[0, 1\)"),
        ("focal_gamma", -1.0, "focal_gamma"),
        ("repeats.haze", -1, "config.repeats.haze is -1"),
    ],
)
def test_a_wrong_value_is_named(key, value, message):
    config = configs.pretrain()
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        configs.validate(config)


def test_evaluation_needs_weights_and_takes_no_backbone():
    with pytest.raises(ConfigError, match=r"config\.init_from"):
        configs.validate(configs.evaluate())
    with pytest.raises(ConfigError, match="init_from"):
        configs.evaluate("nafnet")
    assert configs.evaluate("rain").tasks == "rain"


def test_a_keyword_that_the_backbone_does_not_know():
    config = configs.pretrain()
    config.model.depth = 3
    with pytest.raises(ConfigError, match=r"config.model.*depth.*width"):
        setup.build_modules(config, num_classes=5)


def test_differences_name_what_makes_another_run():
    a, b = configs.pretrain(), configs.pretrain()
    b.log.every_steps = 1
    b.data.num_workers = 7
    b.checkpoint.keep = 9
    same = [configs.to_json(c) for c in (a, b)]
    assert configs.differences(*same) == []
    b.seed = 3
    b.model.width = 8
    b.num_steps = 1000  # the cosine follows it
    found = configs.differences(configs.to_json(a), configs.to_json(b))
    assert found == [
        f"config.model.width: {a.model.width} -> 8",
        "config.seed: 0 -> 3",
        f"config.num_steps: {a.num_steps} -> 1000",
    ]
    paper, longer = configs.pretrain("nafnet"), configs.pretrain("nafnet")
    longer.num_steps *= 2  # the cosine of the recipe has a length of its own
    assert configs.differences(configs.to_json(paper), configs.to_json(longer)) == []


def test_repeats_replace_those_of_the_set():
    config = configs.pretrain()
    assert [task.repeats for task in configs.tasks_of(config)] == [1, 1, 1, 1, 1]
    config.repeats.motion_blur = 3
    assert [task.repeats for task in configs.tasks_of(config)] == [1, 1, 1, 1, 3]
    config.tasks = "motion_blur,low_light+haze"
    assert [task.repeats for task in configs.tasks_of(config)] == [3, 1]
