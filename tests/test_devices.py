import os
import subprocess
import sys

import numpy as np
import pytest

from dcpt_jax import images, weights
from tests.conftest import ROOT


@pytest.mark.parametrize("command", ["restore", "inspect", "probe", "convert", "train", "evaluate"])
def test_a_device_that_does_not_start_is_not_blamed_on_the_weights(tmp_path, command):
    images.write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.float32))
    bundled = str(weights.BUNDLED)
    arguments = {
        "restore": ["a.png", "--output", "out"],
        "inspect": ["a.png"],
        "probe": ["--weights", bundled, "--output", "out"],
        "convert": [bundled, "out.pth"],
        "train": ["--config=configs/restore.py", "--workdir=w"],
        "evaluate": [
            "--config=configs/evaluate.py",
            "--workdir=w",
            f"--config.init_from={bundled}",
        ],
    }[command]
    module = "main" if command in ("train", "evaluate") else command
    done = subprocess.run(
        [sys.executable, "-m", f"dcpt_jax.{module}", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "tpu_of_another_world", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("error: "))
    assert "JAX cannot start a device (" in line
    assert "JAX_PLATFORMS is tpu_of_another_world; this installation supports cpu" in line
    assert "Traceback" not in done.stderr and not (tmp_path / "out.pth").exists()
