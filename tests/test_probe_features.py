"""Inputs of probing: features, images and untrained weights; and t-SNE."""

import builtins

import jax
import numpy as np
import pytest

import dcpt_jax
from dcpt_jax import models
from dcpt_jax.data.photos import PhotoSource
from dcpt_jax.data.tasks import resolve_tasks
from dcpt_jax.probe import embedding, levels, untrained
from dcpt_jax.probe.crops import crop_positions, probe_images
from tests.conftest import HEIGHT, WIDTH
from tests.golden import random_params, run

# Features


@pytest.fixture(scope="module")
def network():
    """NAFNet with two levels and random parameters, and five images of odd sizes for it."""
    model = models.create_model(
        "nafnet", width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)
    )
    params = random_params(models.parameter_shapes(model))
    batch = np.random.default_rng(0).uniform(size=(5, 14, 18, 3)).astype(np.float32)
    return model, params, batch


@pytest.mark.parametrize("on_disk", [False, True])
def test_features_are_those_of_the_network_image_by_image(network, tmp_path, on_disk):
    model, params, batch = network
    folder = tmp_path if on_disk else None
    found = dcpt_jax.probe.features(model, params, batch, batch_size=2, folder=folder)
    expected = run(model, {"params": params}, batch, method="features")
    assert len(found) == len(expected) == len(model.feature_dims)
    for level, maps, channels in zip(found, expected, model.feature_dims, strict=True):
        maps = np.asarray(maps)
        assert level.shape == maps.shape[1:] and level.shape[-1] == channels
        assert level.flattened.dtype == level.pooled.dtype == np.float32
        assert isinstance(level.flattened, np.memmap) == on_disk
        np.testing.assert_allclose(level.flattened, maps.reshape(5, -1), atol=1e-5)
        pooled = np.concatenate([maps.mean((1, 2)), maps.std((1, 2))], axis=-1)
        np.testing.assert_allclose(level.pooled, pooled, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == len(found) * on_disk


def test_a_full_disk_is_noticed_before_anything_is_computed(network, tmp_path, monkeypatch):
    model, params, batch = network
    usage = levels.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(levels.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="TMPDIR"):
        levels.features(model, params, batch, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_images_are_refused(network):
    model, params, batch = network
    with pytest.raises(ValueError, match="at least one image"):
        levels.features(model, params, batch[:0])
    with pytest.raises(ValueError, match="at least one image"):
        levels.features(model, params, batch[0])
    with pytest.raises(ValueError, match="dtype uint8; divide"):
        levels.features(model, params, batch.astype(np.uint8))


def test_untrained_networks_are_initialised_as_published():
    model = models.create_model(
        "nafnet", width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
    )
    drawn = untrained.untrained_params(model, seed=1)
    shapes = models.parameter_shapes(model)
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    block = drawn["middle"]["block_0"]
    for name, fan_in in (("conv_1", 16), ("conv_2", 9), ("conv_3", 16)):
        bound = (6 / 5 / fan_in) ** 0.5
        assert 0.9 * bound < np.abs(block[name]["kernel"]).max() <= bound
        assert not block[name]["bias"].any()
    assert not block["beta"].any() and (block["norm_1"]["scale"] == 1).all()
    again = untrained.untrained_params(model, seed=1)
    assert jax.tree.all(jax.tree.map(np.array_equal, drawn, again))
    other = untrained.untrained_params(model, seed=2)
    assert not np.array_equal(other["intro"]["kernel"], drawn["intro"]["kernel"])


# Images


def clean_corners(found):
    """(column, row, photo) of the first pixel of each image, with the class "clean"."""
    return [tuple(one) for one in np.rint(found.degraded[:, 0, 0] * 255).astype(int).tolist()]


def test_each_photo_gives_its_centre_where_there_are_enough(position_photos):
    tasks = resolve_tasks("clean,inpainting,rain")
    found = probe_images(tasks, PhotoSource(position_photos), per_class=2, crop=16)
    assert found.degraded.shape == (6, 16, 16, 3) and found.degraded.dtype == np.float32
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] and found.num_photos == 6
    clean = clean_corners(found)[:2]
    assert {place[:2] for place in clean} == {(20, 12)}
    assert clean[0][2] != clean[1][2]


def test_few_photos_give_different_crops_dealt_out_to_all_classes(position_photos):
    tasks = resolve_tasks("clean,inpainting")
    photos = PhotoSource(position_photos[:2])
    found = probe_images(tasks, photos, per_class=10, crop=8)
    clean = clean_corners(found)[:10]
    assert len(set(clean)) == 10
    assert [place[2] for place in clean].count(0) == 5  # half of each photo's crops


def test_images_are_the_same_at_every_call_and_depend_on_the_seed(position_photos):
    options = {"per_class": 2, "crop": 16}
    tasks, photos = resolve_tasks("noise,rain"), PhotoSource(position_photos)
    first = probe_images(tasks, photos, **options).degraded
    np.testing.assert_array_equal(first, probe_images(tasks, photos, **options).degraded)
    assert (first != probe_images(tasks, photos, **options, seed=1).degraded).any()


def test_too_few_photos_are_refused(position_photos):
    photos = PhotoSource(position_photos[:1])
    message = (
        f"too few photos for 60 different crops: .* {WIDTH}x{HEIGHT} pixels, has 57 different crops"
    )
    with pytest.raises(ValueError, match=message):
        probe_images(resolve_tasks("noise,rain"), photos, per_class=30, crop=38)


@pytest.mark.parametrize(
    ("size", "count"), [((3, 3), 9), ((4, 2), 7), ((1, 6), 6), ((7, 1), 3), ((30, 50), 101)]
)
def test_places_differ_and_lie_inside(size, count):
    height, width = (positions + 9 for positions in size)
    places = crop_positions(height, width, 10, count, np.random.default_rng(0))
    assert len(set(places)) == count
    assert all(0 <= top < size[0] and 0 <= left < size[1] for top, left in places)


# t-SNE


def test_principal_components_keep_the_distances():
    points = np.random.default_rng(0).standard_normal((12, 5)) + 7
    found = embedding.principal_components(points @ points.T, 50)
    assert found.shape == (12, 11) and not found[:, 5:].any()

    def distances(x):
        return np.linalg.norm(x[:, None] - x, axis=-1)

    np.testing.assert_allclose(distances(found), distances(points), atol=1e-6)
    variances = found.var(axis=0)
    assert (np.diff(variances) <= 0).all()
    first = embedding.principal_components(points @ points.T, 1)
    np.testing.assert_allclose(first, found[:, :1])


def test_tsne_separates_clusters_whatever_their_length():
    rng = np.random.default_rng(0)
    features = np.repeat(np.eye(2, 40), 15, axis=0) + 0.05 * rng.standard_normal((30, 40))
    scale = rng.uniform(1, 100, (30, 1))  # which the division by the norm takes out
    found = dcpt_jax.probe.tsne((features * scale).reshape(30, 4, 10), iterations=300)
    assert found.shape == (30, 2)
    centres = found.reshape(2, 15, 2).mean(axis=1)
    nearest = np.linalg.norm(found[:, None] - centres, axis=-1).argmin(axis=1)
    assert nearest.tolist() == [0] * 15 + [1] * 15


def test_tsne_of_equal_samples_is_one_point():
    assert not dcpt_jax.probe.tsne(np.full((6, 3), 0.3)).any()


def test_missing_scikit_learn_is_reported_with_the_extra(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"dcpt_jax\[probe\]"):
        dcpt_jax.probe.tsne(np.eye(6))
