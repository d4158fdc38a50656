import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcpt_jax import create_model
from dcpt_jax.models import ReconstructionHead, parameter_shapes
from dcpt_jax.models.layers import pad_to_multiple
from tests.conftest import TINY_BACKBONES
from tests.golden import random_params, run

PATCH = 8
NETWORKS = [
    name if name == "nafnet" else pytest.param(name, marks=pytest.mark.slow)
    for name in TINY_BACKBONES
]


def features_of(name, images):
    """Random features of the sizes and channels of a network's."""
    model = create_model(name, **TINY_BACKBONES[name])
    variables = {"params": parameter_shapes(model)}
    shapes = jax.eval_shape(lambda v: model.apply(v, images, method="features"), variables)
    return model, tuple(random_params(shapes))


def mask(images, hidden):
    """Hides the patches with these (row, column) in all images."""
    visible = np.ones((*images.shape[:3], 1), np.float32)
    for row, column in hidden:
        visible[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 0
    return visible


@pytest.mark.parametrize("name", NETWORKS)
def test_images_of_full_size_for_every_network(name):
    images = jnp.zeros((2, 16, 24, 3))
    model, features = features_of(name, images)
    head = ReconstructionHead(model.feature_dims, patch=PATCH, width=8)
    visible = mask(images, [(0, 1), (1, 2)])
    variables = jax.jit(head.init)(jax.random.key(0), features, visible)
    image = run(head, variables, features, visible)
    assert image.shape == images.shape and image.dtype == jnp.float32
    # At first it is about gray.
    assert abs(float(image.mean()) - 0.5) < 0.3
    # What stands at hidden positions does not matter.
    changed = []
    for feature in features:
        step = images.shape[1] // feature.shape[1]
        changed.append(np.where(visible[:, ::step, ::step] > 0, feature, np.float32(np.nan)))
    np.testing.assert_array_equal(run(head, variables, tuple(changed), visible), image)


def test_hidden_patches_are_reconstructed_from_their_surroundings():
    """Up to their centre, although no convolution at full size reaches that far."""
    images = pad_to_multiple(jnp.zeros((1, 37, 40, 3)), PATCH)
    model, features = features_of("nafnet", images)
    head = ReconstructionHead(model.feature_dims, patch=PATCH, width=8)
    visible = mask(images, [(2, 2)])
    shapes = jax.eval_shape(head.init, jax.random.key(0), features, visible)["params"]
    variables = {"params": random_params(shapes)}

    def middle(features):
        return jnp.square(head.apply(variables, features, visible)[0, 20, 20]).sum()

    (reach,) = (np.abs(g).sum(axis=(0, 3)) for g in jax.jit(jax.grad(middle))(features))
    assert reach[14, 20] > 0 and reach[20, 26] > 0
    assert not reach[16:24, 16:24].any()  # nothing of the patch itself


def test_parameters_that_do_not_fit_are_refused():
    images = jnp.zeros((1, 16, 16, 3))
    model, features = features_of("promptir", images)
    head = ReconstructionHead(model.feature_dims, patch=PATCH, width=4, dtype=jnp.bfloat16)
    visible = mask(images, [])
    variables = jax.eval_shape(head.init, jax.random.key(0), features, visible)
    # Its finest feature is of half size, and a patch four pixels wide there: halved twice.
    assert set(variables["params"]) == {
        *("tokens", "project_0", "project_1", "project_2"),
        *("level_0", "level_1", "level_2", "output"),
    }
    assert variables["params"]["output"]["kernel"].shape == (3, 3, 4, 3 * 4)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert jax.eval_shape(head.apply, variables, features, visible).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"expected features with \(8, 16, 16\) channels, finest"):
        jax.eval_shape(head.apply, variables, features[::-1], visible)
    with pytest.raises(ValueError, match="width is 0"):
        ReconstructionHead((4, 8), width=0)
