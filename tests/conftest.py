"""Shared fixtures of the test-suite."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Before JAX is imported: the CPU only, and one cache of compiled programs for all processes of a
# test run, so that a network is compiled once and not once for each test.
_CACHE = ROOT / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
# Tests compile long and compute little: without LLVM's optimisations and, in JAX 0.10, XLA's newer
# emitters of fused loops a program compiles in a third of the time. What it computes is the same;
# XLA_FLAGS=" " runs the tests on optimised ones. XLA ends a process that gives it an unknown flag.
_QUICK = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _QUICK)

import numpy as np
import pytest
from ml_collections import ConfigDict

from dcpt_jax import config as configs


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives each worker whole files as far as possible: their tests share what they set up."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder beside the checkout, with awkward files; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared files are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """Six small generated photos of different sizes and brightness."""
    from dcpt_jax import images

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        height, width = 40 + 4 * i, 60 - 3 * i
        y, x = np.mgrid[:height, :width] / 16
        phase = rng.uniform(0, 6, 3)
        photo = (
            0.5 + 0.25 * np.sin(x[..., None] + phase) + 0.25 * np.cos(y[..., None] * (1 + phase))
        )
        images.write_image(folder / f"photo_{i}.png", photo.astype(np.float32))
    return folder


HEIGHT, WIDTH = 40, 56  # of `position_photos`


@pytest.fixture(scope="session")
def position_photos(tmp_path_factory) -> list[Path]:
    """Seven photos; every pixel encodes column (red), row (green) and photo (blue)."""
    from dcpt_jax import images

    folder = tmp_path_factory.mktemp("positions")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for i in range(7):
        pixels = np.stack([x, y, np.full_like(x, i)], axis=-1)
        images.write_image(folder / f"{i}.png", pixels / 255)
    return sorted(folder.iterdir())


# Networks of a few thousand parameters, of every kind.
TINY_BACKBONES = {
    "nafnet": {"width": 4, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,)},
    "restormer": {
        "dim": 4,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "heads": (1, 1, 2, 2),
        "ffn_expansion": 1.0,
    },
    "promptir": {
        "dim": 4,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "heads": (1, 1, 2, 2),
        "ffn_expansion": 1.0,
        "prompt_dims": (4, 4, 8),
        "prompt_sizes": (4, 4, 4),
        "prompt_len": 2,
    },
    "swinir": {
        "embed_dim": 8,
        "depths": (1, 1, 1, 1, 1, 1),
        "num_heads": (2, 2, 2, 2, 2, 2),
        "window_size": 4,
    },
}


def tiny_config(mode: str, photo_folder: Path | str, backbone: str = "nafnet"):
    """A config that trains in seconds: a network of a few thousand parameters, 12 steps."""
    config = configs.load(mode)
    config.data.root = str(photo_folder)
    config.data.crop_size = 16
    config.data.num_workers = 0
    config.batch_size = 8
    if mode != "evaluate":
        config.model = ConfigDict({"name": backbone, **TINY_BACKBONES[backbone]})
        config.classifier.num_blocks = 1
        config.num_steps = 12
        config.log.update(every_steps=4, image_every_steps=0)
        config.validation.every_steps = 0
        config.checkpoint.every_steps = 5
    return config


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, photo_folder) -> Path:
    """Work directory of a finished tiny pre-training."""
    from dcpt_jax.train import loop

    workdir = tmp_path_factory.mktemp("pretrained")
    loop.train(tiny_config("pretrain", photo_folder), workdir)
    return workdir


def run_on_eight_devices(script: str) -> subprocess.CompletedProcess:
    """Runs Python text in a process of its own, in which JAX sees eight CPU devices."""
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": devices},
        capture_output=True,
        text=True,
        timeout=300,
    )
