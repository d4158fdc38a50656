"""Files of the layout "original", loaded by other packages.

pip install torch==2.14.1 torchvision==0.29.1 spandrel spandrel-extra-arches deepinv
"""

import numpy as np
import pytest

from dcpt_jax.convert.files import write_checkpoints
from dcpt_jax.convert.naming import from_torch, to_torch
from dcpt_jax.models import create_model
from tests.golden import reference_shapes, rule_weights, run

pytestmark = pytest.mark.slow
LEVELS = {"dim": 8, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
SOFTMAX = {**LEVELS, "attention": "softmax"}
IMAGES = np.random.default_rng(0).random((2, 32, 48, 3), np.float32)


def written(folder, name, arguments, **how):
    """(a file in the original's layout, our random network's outputs for `IMAGES`)."""
    model = create_model(name, **arguments)
    state = rule_weights(reference_shapes(model, layout="original", **how).items())
    # Outputs near [0, 1], as of a trained network: the tolerance is for these.
    state["ending.weight" if name == "nafnet" else "output.weight"] *= 0.1
    params = from_torch(state, model)
    path = folder / "net.pth"
    write_checkpoints({path: to_torch(params, model, layout="original", **how)})
    return path, np.asarray(run(model, {"params": params}, IMAGES))


def restored(network):
    """Outputs of a PyTorch network for `IMAGES`."""
    import torch

    with torch.inference_mode():
        output = network.eval()(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)))
    return output.numpy().transpose(0, 2, 3, 1)


def by_spandrel(path):
    """The architecture that spandrel detects in a file, and its outputs for `IMAGES`."""
    spandrel = pytest.importorskip("spandrel")
    extra = pytest.importorskip("spandrel_extra_arches")
    extra.install(ignore_duplicates=True)
    found = spandrel.ModelLoader("cpu").load_from_file(path)
    return found.architecture.id, restored(found.model)


@pytest.mark.parametrize(
    ("name", "arguments", "architecture"),
    [
        ("nafnet", {"width": 4, "encoder_blocks": (2, 1), "decoder_blocks": (1, 2)}, "NAFNet"),
        ("restormer", {**SOFTMAX, "norm": "bias_free"}, "Restormer"),
        ("restormer", {**SOFTMAX, "norm": "with_bias", "bias": True}, "Restormer"),
    ],
    ids=["nafnet", "restormer", "restormer with biases"],
)
def test_spandrel_computes_the_same(tmp_path, name, arguments, architecture):
    path, expected = written(tmp_path, name, arguments)
    found, output = by_spandrel(path)
    assert found == architecture
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    assert np.abs(output - IMAGES).max() > 1e-2  # it does something


def test_spandrel_takes_relu_attention_for_softmax(tmp_path):
    """The reason why this layout is refused for such a network unless forced."""
    path, expected = written(tmp_path, "restormer", LEVELS, force=True)
    found, output = by_spandrel(path)
    assert found == "Restormer" and np.abs(output - expected).max() > 1e-3


def test_deepinv_s_promptir_computes_the_same(tmp_path):
    torch, deepinv = pytest.importorskip("torch"), pytest.importorskip("deepinv")
    sizes = {"num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 4, 8)}
    path, expected = written(tmp_path, "promptir", sizes)
    network = deepinv.models.PromptIR(
        num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, pretrained=None
    )
    network.load_state_dict(torch.load(path, weights_only=True)["params"])
    np.testing.assert_allclose(restored(network), expected, rtol=0, atol=1e-5)


def test_deepinv_s_restormer_computes_the_same(tmp_path):
    models = pytest.importorskip("deepinv").models
    path, expected = written(tmp_path, "restormer", {**SOFTMAX, "norm": "with_bias"})
    network = models.Restormer(
        **LEVELS | {"LayerNorm_type": "WithBias", "pretrained": str(path)},
    )
    np.testing.assert_allclose(restored(network), expected, rtol=0, atol=1e-5)
