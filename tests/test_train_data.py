"""A run on pairs: from config keys to batches and the sample sheet."""

import numpy as np

from dcpt_jax import images
from dcpt_jax.train import run as training
from dcpt_jax.train.validation import Validation
from tests.conftest import tiny_config


def test_pairs_of_the_config_are_trained_on(tmp_path, photo_folder):
    for side, value in (("low", 0.2), ("high", 0.8)):
        for name in ("our485/{}/1.png", "our485/{}/2.png", "eval15/{}/t.png"):
            shade = value if "eval15" not in name else value / 2
            images.write_image(tmp_path / "lol" / name.format(side), np.full((24, 24, 3), shade))
    config = tiny_config("restore", photo_folder)
    config.tasks = "low_light,haze"
    config.data.datasets = str(tmp_path)
    run = training.prepare(config)
    low_light, haze = run.training_classes
    assert low_light.origin == f"pairs of lol in {tmp_path}/lol" and not low_light.is_synthetic
    assert low_light.task.repeats == 77_600 // 2
    assert haze.task.repeats == round(77_600 / 6)
    with run.batches(start=0) as batches:
        batch = next(batches)
    for degraded, clean, task in zip(batch["degraded"], batch["clean"], batch["task"], strict=True):
        if task == 0:
            np.testing.assert_allclose(degraded, 51 / 255, atol=1e-6)
            np.testing.assert_allclose(clean, 204 / 255, atol=1e-6)
    assert (batch["task"] == 0).any()
    sheet = Validation(run).sheet(run.create_state())
    # The test pair of the first class, below the heading and the name of the class.
    assert (sheet[80:200, 20:150] == 26).all() and (sheet[80:200, -150:-20] == 102).all()
