import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax import config as configs
from dcpt_jax import create_model, losses
from dcpt_jax.config import ConfigError
from dcpt_jax.data.tasks import TASK_SETS, published_samples
from dcpt_jax.train import run as training
from tests import parts

ARGS = [
    *("", "nafnet,5d", "5d,nafnet", "restormer,5d", "promptir", "swinir", "5d", "rain"),
    *("10d", "nafnet,10d", "swinir,10d", "cdd11", "nafnet,cdd11", "restormer,cdd11"),
]
CLASSES = {"10d": 10, "cdd11": 11, "rain": 1}


CLASSIFYING = ("pretrain", "mask_pretrain", "classify")


@pytest.mark.parametrize("mode", ["pretrain", "mask_pretrain", "restore", "transfer", "classify"])
@pytest.mark.parametrize("arg", ARGS)
def test_every_preset_is_valid_and_builds(mode, arg):
    config = configs.load(mode, arg)
    if mode in ("transfer", "classify"):
        config.init_from = "somewhere"
    if mode in CLASSIFYING and arg == "rain":
        with pytest.raises(ConfigError, match=r"config\.tasks is 'rain', a single class"):
            configs.validate(config)
        return
    configs.validate(config)
    num_classes = len(configs.tasks_of(config))
    sets = [name for name in ("5d", *CLASSES) if name in arg]
    default = "rain" if mode == "transfer" else "5d"
    assert num_classes == CLASSES.get((sets or [default])[0], 5)
    network, classifier = parts.network_and_classifier(config, num_classes=num_classes)
    backbones = [name for name in configs.BACKBONES if name in arg]
    default = "restormer" if mode == "transfer" and arg else "nafnet"
    assert network.architecture == (backbones or [default])[0]
    assert config.recipe == (network.architecture if arg else "")
    assert (classifier is not None) == (mode in CLASSIFYING)
    if mode == "mask_pretrain":
        assert parts.reconstruction_head(config, network).feature_dims == network.feature_dims
    if classifier is not None:
        assert classifier.feature_dims == network.feature_dims
        assert classifier.num_classes == num_classes
        assert classifier.resize_features == (network.architecture == "swinir")


def test_the_presets_are_the_papers_networks():
    """The presets equal the defaults of the networks."""
    for name in configs.BACKBONES:
        network, _ = parts.network_and_classifier(configs.load("restore", name), num_classes=5)
        assert network == create_model(name)


def test_the_papers_recipes_of_each_backbone():
    found = {}
    for name in configs.BACKBONES:
        first, second = configs.load("pretrain", name), configs.load("restore", name)
        for config in (first, second):
            assert config.data.crop_size == 128
            assert config.optimizer.decay_steps == 1_000_000
            assert config.optimizer.min_learning_rate == 1e-6
            assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.999)
            assert config.optimizer.weight_decay == 0
        assert (first.num_steps, first.ema_decay, first.focal_gamma) == (100_000, 0, 2)
        assert first.classifier_optimizer.weight_decay == 1e-4
        assert first.optimizer.clip_norm == first.classifier_optimizer.clip_norm == 0
        assert (second.num_steps, second.ema_decay) == (750_000, 0.999)
        found[name] = (
            (
                first.batch_size,
                first.optimizer.learning_rate,
                first.classifier_optimizer.learning_rate,
            ),
            (second.batch_size, second.optimizer.learning_rate, second.optimizer.clip_norm),
        )
    assert found == {
        "nafnet": ((32, 3e-4, 1e-4), (24, 3e-4, 0.01)),
        "restormer": ((16, 2e-4, 5e-5), (24, 3e-4, 0.01)),
        "promptir": ((16, 2e-4, 5e-5), (24, 3e-4, 0.01)),
        "swinir": ((16, 2e-4, 5e-5), (16, 1.5e-4, 0.0)),
    }


def test_the_recipes_of_other_task_sets():
    """For 10d only NAFNet's are published, for mixtures without a backbone."""

    def figures(arg):
        config = configs.load("restore", arg)
        rates = config.optimizer
        assert config.ema_decay == 0.999 and config.data.crop_size == 128
        steps = (config.num_steps, rates.decay_steps)
        return (config.batch_size, rates.learning_rate, rates.min_learning_rate, *steps), (
            rates.clip_norm
        )

    assert figures("nafnet,10d") == ((128, 2.5e-4, 1e-5, 500_000, 500_000), 0.01)
    mixed = (32, 3e-4, 1e-6, 750_000, 750_000)
    assert figures("nafnet,cdd11") == figures("restormer,cdd11") == (mixed, 0.01)
    assert figures("swinir,cdd11") == (mixed, 0.0)
    for arg in ("restormer", "swinir", "nafnet"):
        assert figures(f"{arg},rain") == figures(f"{arg},5d")
        if arg != "nafnet":
            assert figures(f"{arg},10d") == figures(f"{arg},5d")
        for name in ("10d", "cdd11"):
            first, second = (
                configs.to_json(configs.load("pretrain", f"{arg},{s}")) for s in (name, "5d")
            )
            assert configs.differences(second, first) == [f"config.tasks: '5d' -> '{name}'"]


def test_published_samples_depend_on_the_backbone():
    """Pre-training: low light x10 and motion blur x1 for NAFNet, x50 and x5 for the others."""
    found = {
        arg: [task.samples[0] for task in configs.tasks_of(configs.load("pretrain", arg))]
        for arg in ("", "nafnet,5d", "swinir,5d", "swinir,10d", "nafnet,10d")
    }
    assert found[""] == found["nafnet,5d"] == [13_702, 85_443, 72_135, 13_830, 16_824]
    assert found["swinir,5d"] == [13_702, 85_443, 72_135, 69_150, 84_120]
    assert found["swinir,10d"] == found["nafnet,10d"]


def test_published_samples_are_of_a_class_by_name():
    haze = next(task for task in TASK_SETS["5d"] if task.name == "haze")
    assert published_samples(haze, "swinir", masked=True) == (72_135, 72_135)
    rain = next(task for task in TASK_SETS["5d"] if task.name == "rain")
    assert published_samples(rain, "swinir", masked=True) == (13_702, 60_000)
    blur = dataclasses.replace(haze, name="motion_blur")  # another class of equal numbers
    mist = dataclasses.replace(haze, name="mist")
    for one in (blur, mist):
        assert published_samples(one, "swinir", masked=True) == haze.samples


@pytest.mark.parametrize("mode", CLASSIFYING)
def test_labels(mode):
    config = configs.load(mode)
    config.init_from = "somewhere"
    assert config.label == "flat"
    config.tasks = "low_light+haze,haze,low_light"
    assert configs.labels_of(config).names == ("low_light+haze", "haze", "low_light")
    config.label = "multi_hot"
    configs.validate(config)
    assert configs.labels_of(config).names == ("low_light", "haze")
    config.tasks = "clean,haze"
    configs.validate(config)
    assert configs.labels_of(config).names == ("haze",)
    config.tasks = "low_light+haze,haze+low_light"
    with pytest.raises(ConfigError, match=r"same multi-hot label, low_light, haze; "):
        configs.validate(config)
    config.tasks = "noise:15,noise:25"
    with pytest.raises(ConfigError, match=r"same multi-hot label, noise; .*--config\.label=flat"):
        configs.validate(config)
    config.label = "flat"
    configs.validate(config)
    config.label = "hot"
    with pytest.raises(ConfigError, match=r"config\.label is 'hot'; known: flat, multi_hot"):
        configs.validate(config)


def test_repeats_that_are_set_make_another_run():
    config = configs.load("restore")
    older = configs.to_json(config)
    # The demo of the restoration draws motion blur more often: not drawing it so is a difference.
    config.synthetic_repeats.motion_blur = 2
    config.repeats["snow"] = 2
    config.repeats["low_light+haze"] = 3
    assert configs.differences(older, configs.to_json(config)) == [
        "config.repeats.low_light+haze: '(not set)' -> 3",
        "config.repeats.snow: '(not set)' -> 2",
        "config.synthetic_repeats.motion_blur: 4 -> 2",
    ]


def test_the_recipe_of_the_transfer():
    config = configs.load("transfer", "restormer,noise")
    assert (config.model.attention, config.model.norm) == ("softmax", "with_bias")
    assert (config.batch_size, config.num_steps, config.ema_decay) == (32, 100_000, 0.999)
    assert (config.guidance, config.focal_gamma, config.tasks) == (1.0, 0.0, "noise")
    assert (config.optimizer.clip_norm, config.optimizer.weight_decay) == (0.01, 1e-4)
    rate = parts.schedules_and_optimizers(config)[0]["network"]
    assert [float(rate(step)) for step in (0, 50_000, 100_000)] == [np.float32(3e-4)] * 3


@pytest.mark.parametrize("learning_rate", [1e-7, 1e-2])  # below the minimum of a cosine, and above
def test_the_rate_of_a_transfer_can_be_changed(learning_rate):
    config = configs.load("transfer")
    config.init_from = "somewhere"
    config.optimizer.learning_rate = learning_rate
    configs.validate(config)
    rate = parts.schedules_and_optimizers(config)[0]["network"]
    assert [float(rate(step)) for step in (0, 1, 999)] == [np.float32(learning_rate)] * 3


def test_a_constant_rate_does_not_depend_on_the_number_of_steps():
    config = configs.load("transfer")
    older = configs.to_json(config)
    config.num_steps += 1
    config.optimizer.update(min_learning_rate=1e-4, decay_steps=1)  # of a cosine alone
    assert configs.differences(older, configs.to_json(config)) == []
    config.optimizer.schedule = "cosine"
    assert "config.optimizer.schedule: 'constant' -> 'cosine'" in configs.differences(
        older, configs.to_json(config)
    )


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("transfer", {}, r"transfer needs a trained network: set --config\.init_from"),
        ("classify", {}, r"classify needs a trained network: set --config\.init_from"),
        (
            "transfer",
            {"init_from": "W", "classifier_from": "scratch"},
            r"config\.classifier_from .*trained classifier.*--config\.guidance=0",
        ),
        ("transfer", {"init_from": "W", "guidance": -1.0}, "config.guidance is -1.0"),
        ("pretrain", {"first_pass": "both"}, "first_pass is 'both'; known: clean, degraded"),
        ("restore", {"accumulate_steps": 0}, "config.accumulate_steps is 0"),
    ],
)
def test_required_keys_of_each_mode(mode, changes, message):
    config = configs.load(mode)
    config.update(changes)
    with pytest.raises(ConfigError, match=message):
        configs.validate(config)


def test_masks_have_to_fit_the_crops_of_all_phases():
    config = configs.load("mask_pretrain")
    config.progressive = "9:80x4"
    configs.validate(config)
    config.progressive = "9:72x4"
    with pytest.raises(ConfigError, match=r"from step 9: config\.mask_patch is 16; .* 72"):
        configs.validate(config)


def test_batches_of_all_phases_have_to_fit(photo_folder):
    config = configs.load("restore")
    config.data.root = str(photo_folder)
    config.update(accumulate_steps=2, progressive="9:80x5")
    with pytest.raises(ValueError, match=r"config\.progressive, from step 9: .*batch_size 5 on 1"):
        training.prepare(config)


def test_terms_of_the_loss_are_checked_before_the_data(tmp_path):
    config = configs.load("restore")
    config.data.root = str(tmp_path)  # without photos
    config.loss_terms = "typo:1"
    with pytest.raises(ConfigError, match=r"config\.loss_terms: unknown term 'typo'; known: psnr"):
        training.prepare(config)


def test_a_published_recipe_without_accelerator_or_data_warns(caplog, photo_folder):
    config = configs.load("pretrain", "nafnet,5d")
    training.prepare(config)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "leave the preset out" in caplog.text and "--config.data.root=FOLDER" in caplog.text
    caplog.clear()
    config.data.root = str(photo_folder)
    training.prepare(config)
    assert len(caplog.records) == 1 and "only the CPU" in caplog.text
    caplog.clear()
    training.prepare(configs.load("pretrain"))
    assert not caplog.records
    config.require_accelerator = True
    with pytest.raises(ConfigError, match="only the CPU"):
        training.prepare(config)


def test_saving_memory_makes_no_other_run():
    a, b = configs.load("pretrain"), configs.load("pretrain")
    b.update(remat=True, accumulate_steps=4)
    assert configs.differences(configs.to_json(a), configs.to_json(b)) == []


def test_the_papers_recipes():
    config = configs.load("pretrain", "nafnet,5d")
    assert (config.batch_size, config.data.crop_size) == (32, 128)
    assert (config.optimizer.learning_rate, config.classifier_optimizer.learning_rate) == (
        3e-4,
        1e-4,
    )
    assert (config.optimizer.weight_decay, config.classifier_optimizer.weight_decay) == (0, 1e-4)
    assert config.optimizer.decay_steps == 1_000_000 and config.optimizer.min_learning_rate == 1e-6
    assert config.optimizer.clip_norm == 0 and config.focal_gamma == 2 and config.ema_decay == 0
    network, _ = parts.network_and_classifier(config, num_classes=5)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 67_888_835
    config = configs.load("restore", "nafnet,5d")
    assert (config.batch_size, config.ema_decay, config.optimizer.clip_norm) == (24, 0.999, 0.01)


@pytest.mark.parametrize("arg", ["resnet", "nafnet,6d", "nafnet,nafnet", "5d,rain"])
def test_an_unknown_preset_lists_the_known_ones(arg):
    with pytest.raises(ConfigError, match=r"nafnet.*5d.*motion_blur"):
        configs.load("pretrain", arg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 0, "config.batch_size is 0"),
        ("num_steps", 0, "config.num_steps"),
        ("seed", 10**23, "config.seed is 1000.*; it must be at most 4294967295"),
        ("seed", -1, "config.seed is -1; it must be 0 or larger"),
        ("num_steps", 2**31, "config.num_steps is 2147483648; it must be at most 2147483647"),
        ("data.num_workers", 10**5, "config.data.num_workers is 100000; it must be at most 1000"),
        ("data.max_pixels", 10**30, "config.data.max_pixels is 1000.*; it must be at most"),
        ("repeats.haze", 10**30, "config.repeats.haze is 1000.*; it must be at most"),
        ("optimizer.clip_norm", math.nan, "config.optimizer.clip_norm is nan; .*finite"),
        ("optimizer.weight_decay", math.inf, "config.optimizer.weight_decay is inf; .*finite"),
        ("optimizer.learning_rate", math.inf, "config.optimizer.learning_rate is inf; .*finite"),
        ("tasks", "6d", "config.tasks.*5d"),
        ("dtype", "float16", "bfloat16"),
        ("matmul_precision", "tf32", "default, high, highest"),
        ("ema_decay", 1.0, "ema_decay"),
        ("data.crop_size", 8, "config.data.crop_size is 8; it must be 16"),
        ("data.on_bad_file", "ignore", "skip, refuse"),
        ("data.datasets", "/gone", "config.data.datasets: no such folder: /gone"),
        ("model.name", "resnet", "nafnet"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate"),
        ("optimizer.min_learning_rate", 1.0, "min_learning_rate"),
        ("optimizer.schedule", "linear", "optimizer.schedule is 'linear'; known: cosine, constant"),
        ("recipe", "resnet", "config.recipe is 'resnet'; known: \"\", nafnet"),
        ("tasks", "noise+rain", "a single class; a classifier needs at least two"),
        ("optimizer.b2", 1.0, r"optimizer.b2 is 1.0; it must be in \[0, 1\)"),
        ("focal_gamma", -1.0, "focal_gamma"),
        ("pixel_weight", -0.5, "config.pixel_weight is -0.5; it must be 0 or larger"),
        ("class_weight", math.inf, "config.class_weight is inf; it must be a finite number"),
        ("class_weight", math.nan, "config.class_weight is nan; it must be a finite number"),
        ("validation.crops_per_photo", 0, "validation.crops_per_photo is 0; it must be 1"),
        ("repeats.haze", -1, "config.repeats.haze is -1"),
        ("progressive", "5:32", "config.progressive: '5:32' is not of the form STEP:CROPxBATCH"),
        ("progressive", "5:32x4,", "'' is not of the form STEP:CROPxBATCH"),
        ("progressive", "0:32x4", "config.progressive: step 0 does not come after step 0"),
        ("progressive", "9:32x4,9:64x2", "step 9 does not come after step 9"),
        ("progressive", "9:8x4", "config.progressive, from step 9: config.data.crop_size is 8"),
        ("progressive", "9:32x0", "config.progressive, from step 9: config.batch_size is 0"),
        ("progressive", "9:99999x4", "from step 9: config.data.crop_size is 99999; it must be at"),
        ("data.crop_size", 99_999, "config.data.crop_size is 99999; it must be at most 16384"),
        ("batch_size", 2**21, "config.batch_size is 2097152; it must be at most 1048576"),
        (
            "model.middle_blocks",
            10**9,
            "model.middle_blocks is 1000000000; it must be at most 65536",
        ),
        ("model.encoder_blocks", (1, 10**9), r"encoder_blocks is \(1, 1000000000\); it must be at"),
        ("classifier.num_blocks", 10**9, "num_blocks is 1000000000; it must be at most 65536"),
    ],
)
def test_a_wrong_value_is_named(key, value, message):
    config = configs.load("pretrain")
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        configs.validate(config)


@pytest.mark.parametrize("mode", ["pretrain", "direct", "mask_pretrain"])
def test_the_terms_of_the_loss_have_weights_that_reach_the_step(mode, monkeypatch):
    config = configs.load(mode)
    assert (config.pixel_weight, config.class_weight) == (1.0, 1.0)
    config.update(pixel_weight=0.0, class_weight=0.0)
    with pytest.raises(ConfigError, match=r"pixel_weight and config\.class_weight are both 0"):
        configs.validate(config)
    config.update(pixel_weight=0.25, class_weight=0.0)
    configs.validate(config)
    passed = {}
    for name in ("make_pretrain_step", "make_mask_pretrain_step"):
        monkeypatch.setattr(training.steps, name, lambda *_, **options: passed.update(options))
    network, classifier = parts.network_and_classifier(config, num_classes=5)
    parts.step(config, network, classifier, None, {})
    assert (passed["pixel_weight"], passed["class_weight"]) == (0.25, 0.0)


@pytest.mark.parametrize("mode", ["restore", "transfer"])
def test_the_weight_of_the_fft_term_reaches_the_step(mode, monkeypatch):
    config = configs.load(mode)
    assert config.fft_weight == 0.0
    config.init_from = "w"
    config.fft_weight = -0.1
    with pytest.raises(ConfigError, match=r"config\.fft_weight is -0\.1; it must be 0 or larger"):
        configs.validate(config)
    config.fft_weight = 0.1
    configs.validate(config)
    passed = {}
    for name in ("make_restore_step", "make_transfer_step"):
        monkeypatch.setattr(training.steps, name, lambda *_, **options: passed.update(options))
    parts.step(config, None, None, None, {})
    assert passed["loss_terms"] == {"fft": (0.1, losses.fft_loss)}


def test_an_evaluation_measures_known_channels_and_saves_into_empty_folders(tmp_path):
    config = configs.load("evaluate")
    config.init_from = "w"
    config.save_images = str(tmp_path / "new")
    configs.validate(config)
    config.save_images = str(tmp_path)
    configs.validate(config)
    (tmp_path / "old.png").touch()
    with pytest.raises(
        ConfigError, match=r"config\.save_images: .* exists and is not an empty folder"
    ):
        configs.validate(config)
    config.save_images = ""
    config.channel = "yuv"
    with pytest.raises(ConfigError, match=r"config\.channel is 'yuv'; known: rgb, y"):
        configs.validate(config)


def test_evaluation_needs_weights_and_takes_no_backbone():
    with pytest.raises(ConfigError, match=r"config\.init_from"):
        configs.validate(configs.load("evaluate"))
    with pytest.raises(ConfigError, match="init_from"):
        configs.load("evaluate", "nafnet")
    assert configs.load("evaluate", "rain").tasks == "rain"


def test_a_keyword_that_the_backbone_does_not_know():
    config = configs.load("pretrain")
    config.model.depth = 3
    with pytest.raises(ConfigError, match=r"config.model.*depth.*width"):
        parts.network_and_classifier(config, num_classes=5)


def test_differences_name_the_changed_keys():
    a, b = configs.load("pretrain"), configs.load("pretrain")
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
    paper, longer = configs.load("pretrain", "nafnet"), configs.load("pretrain", "nafnet")
    longer.num_steps *= 2  # the cosine of the recipe has a length of its own
    assert configs.differences(configs.to_json(paper), configs.to_json(longer)) == []
    longer.recipe = "swinir"  # has other numbers of samples, so another stream of batches
    assert configs.differences(configs.to_json(paper), configs.to_json(longer)) == [
        "config.recipe: 'nafnet' -> 'swinir'"
    ]


def test_repeats_of_synthetic_classes_and_those_that_are_asked_for():
    assert [task.repeats for task in configs.tasks_of(configs.load("pretrain"))] == [1, 1, 1, 1, 1]
    config = configs.load("restore")
    assert [task.repeats for task in configs.tasks_of(config)] == [1, 1, 1, 1, 4]
    assert configs.repeats_of(config) == {}
    config.tasks = "motion_blur,low_light+haze"
    config.repeats.motion_blur = 3
    config.repeats["low_light+haze"] = 2
    configs.validate(config)
    assert configs.repeats_of(config) == {"motion_blur": 3, "low_light+haze": 2}
    config.tasks = "haze+low_light,rain"
    with pytest.raises(ConfigError, match=r"no such class; its classes: haze\+low_light, rain"):
        configs.validate(config)
    config.repeats["haze+fog"] = 2
    with pytest.raises(ConfigError, match=r"config\.repeats\.haze\+fog: .*not a class; classes: "):
        configs.validate(config)
    config = configs.load("restore")
    config.synthetic_repeats.rain = -2
    with pytest.raises(
        ConfigError, match=r"config\.synthetic_repeats\.rain is -2; it must be 0 or"
    ):
        configs.validate(config)
    config.synthetic_repeats = {"mist": 2}
    with pytest.raises(
        ConfigError, match=r"config\.synthetic_repeats\.mist: 'mist' is not a class"
    ):
        configs.validate(config)
