import numpy as np
import pytest

from dcpt_jax import images, metrics
from dcpt_jax.config import ConfigError
from dcpt_jax.data import held_out
from dcpt_jax.images import ImageError
from dcpt_jax.train import loop, processes
from dcpt_jax.train.run import prepare
from dcpt_jax.train.validation import Validation
from tests.conftest import tiny_config


def opened(config):
    run = prepare(config)
    return run, Validation(run), run.create_state()


@pytest.fixture(scope="module")
def restoring(photo_folder):
    """A restoration with an untrained network that returns its input."""
    config = tiny_config("restore", photo_folder)
    config.identity_start = True
    config.validation.root = str(photo_folder)
    config.validation.photos_per_class = 4
    return opened(config)


def test_restored_crops_are_measured_as_in_the_tables(restoring):
    run, validation, state = restoring
    found = validation.measure(state)
    samples = list(validation._samples())
    assert len(samples) == 5 * 4  # 5 classes; the last batch of 8 is not full
    for label, name in enumerate(run.classes):
        mine = [s for s in samples if s.task == label]
        psnr = np.mean([metrics.psnr(np.clip(s.degraded, 0, 1), s.clean) for s in mine])
        ssim = np.mean([metrics.ssim(np.clip(s.degraded, 0, 1), s.clean) for s in mine])
        assert found[f"psnr_{name}"] == pytest.approx(psnr, abs=0.01)
        assert found[f"ssim_{name}"] == pytest.approx(ssim, abs=1e-3)
    assert found["psnr"] == pytest.approx(np.mean([found[f"psnr_{n}"] for n in run.classes]))
    assert len(found) == 2 * (1 + 5)


def test_several_crops_of_each_photo(photo_folder):
    config = tiny_config("restore", photo_folder)
    config.validation.update(root=str(photo_folder), photos_per_class=2, crops_per_photo=4)
    samples = list(Validation(prepare(config))._samples())
    assert len(samples) == 5 * 2 * 4
    assert len({sample.name for sample in samples}) == 2 * 4
    assert {sample.clean.shape for sample in samples} == {(16, 16, 3)}


def test_the_moving_average_is_measured(restoring):
    import jax

    _, validation, state = restoring
    worse = jax.tree.map(lambda x: x + 1, state.params)
    assert validation.measure(state.replace(params=worse)) == validation.measure(state)
    assert validation.measure(state.replace(ema=worse))["psnr"] < validation.measure(state)["psnr"]


def test_the_sheet_shows_a_row_for_each_class(restoring):
    _, validation, state = restoring
    sheet = validation.sheet(state)
    side = 160  # crops of 16 pixels are enlarged
    assert sheet.shape[0] > 5 * side and sheet.shape[1] > 3 * side
    top = sheet.shape[0] - 5 * (side + 28) + 22  # below the heading and the class's name
    degraded, restored = (sheet[top : top + side, x : x + side].astype(int) for x in (6, 172))
    assert np.ptp(degraded) > 50 and abs(degraded - restored).max() <= 1  # an untrained network
    validation.measure(state)
    assert validation._forward._cache_size() == 1  # one program for both


def test_a_process_whose_share_of_a_class_cannot_be_read_goes_on(restoring, monkeypatch):
    _, validation, state = restoring

    def of_others(*, part):
        for sample in held_out.samples(validation._classes, size=16, per_photo=1):
            if sample.task != 2:
                yield sample

    monkeypatch.setattr(validation, "_samples", of_others)
    # What all processes get to know alike, whoever tried to read.
    with pytest.raises(ImageError, match=r"none of the photos tried for haze .*\.sources\.haze"):
        validation.measure(state)
    one_more = [20.0, 0.5, 1]  # of each class in another process: decibels, SSIM, samples
    monkeypatch.setattr(processes, "total", lambda n: n + one_more if n.ndim else n)
    found = validation.measure(state)
    assert (found["psnr_haze"], found["ssim_haze"]) == (20.0, 0.5)


def test_bad_files_are_refused_if_configured(tmp_path, photo_folder):
    images.write_image(tmp_path / "a.png", np.full((20, 20, 3), 0.5))
    (tmp_path / "b.png").write_bytes(b"none")
    config = tiny_config("restore", photo_folder)
    config.validation.root = str(tmp_path)
    assert [len(one.source) for one in Validation(prepare(config))._classes] == [1] * 5
    config.data.on_bad_file = "refuse"
    with pytest.raises(ImageError, match=r"b\.png: .*on_bad_file=skip"):
        Validation(prepare(config))


@pytest.mark.parametrize("label", [pytest.param("flat", marks=pytest.mark.slow), "multi_hot"])
def test_classification_is_measured(photo_folder, label, monkeypatch):
    config = tiny_config("pretrain", photo_folder)
    config.tasks = "haze,rain,haze+rain"
    config.label = label
    config.validation.root = str(photo_folder)
    run, validation, state = opened(config)
    monkeypatch.setattr(type(run.network), "tail", None)  # not needed for features
    truth = validation._truth
    # The head's bias alone decides: every sample is said to be haze.
    head = state.params["classifier"]["head"]
    bias = np.where(truth[0], 5.0, -5.0).astype(np.float32)
    head = {"kernel": np.zeros_like(head["kernel"]), "bias": bias}
    params = {**state.params, "classifier": {**state.params["classifier"], "head": head}}
    found = validation.measure(state.replace(params=params))
    assert found == {
        "accuracy": pytest.approx(1 / 3),
        "accuracy_haze": 1.0,
        "accuracy_rain": 0.0,
        "accuracy_haze+rain": 0.0,
    }


def test_pairs_to_measure_a_class_on(tmp_path, photo_folder):
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.3, 0.7, (3, 24, 24, 3)).astype(np.float32)
    for i, photo in enumerate(clean):
        images.write_image(tmp_path / "clean" / f"{i}.png", photo)
        images.write_image(tmp_path / "degraded" / f"{i}.png", photo + 0.1)
    config = tiny_config("restore", photo_folder)
    config.tasks = "noise"
    config.identity_start = True
    config.validation.sources.noise = f"pairs:{tmp_path / 'degraded'},{tmp_path / 'clean'}"
    _, validation, state = opened(config)
    assert validation.measure(state)["psnr"] == pytest.approx(20.0, abs=0.1)
    config.validation.sources.noise = f"pairs:{tmp_path / 'no'},{tmp_path / 'clean'}"
    with pytest.raises(ValueError, match=r"--config\.validation\.sources\.noise=pairs:"):
        opened(config)


def test_settings_that_cannot_be(photo_folder):
    config = tiny_config("pretrain", photo_folder)
    config.validation.metric = "psnr"  # a pre-training on clean images does not restore
    with pytest.raises(
        ConfigError, match=r'config\.validation\.metric is \'psnr\'; known: "", acc'
    ):
        prepare(config)
    config.validation.metric = ""
    config.validation.photos_per_class = -1
    with pytest.raises(ConfigError, match=r"config\.validation\.photos_per_class is -1"):
        prepare(config)
    config.validation.photos_per_class = 0
    config.validation.sources.haze = "nowhere"
    with pytest.raises(ConfigError, match=r"config\.validation\.sources\.haze"):
        prepare(config)


def test_the_best_checkpoint_is_kept_and_reported(tmp_path, photo_folder, capsys):
    config = tiny_config("restore", photo_folder)
    config.num_steps = 6
    config.ema_decay = 0.0
    config.validation.update(every_steps=2, root=str(photo_folder))
    config.checkpoint.update(every_steps=100, keep=1)
    measured = []
    measure = Validation.measure

    def up_and_down(self, state):
        found = measure(self, state)
        measured.append(found["psnr"])
        return found | {"psnr": {2: 20.0, 4: 22.0, 6: 21.0}[int(state.step)]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "measure", up_and_down)
        loop.train(config, tmp_path)
    assert len(measured) == 3 and all(10 < value < 60 for value in measured)
    from dcpt_jax import weights

    assert weights.checkpoint_steps(tmp_path) == [6, 4]
    assert f"best: step 4, psnr 22, in {tmp_path / 'checkpoints' / '4'}" in capsys.readouterr().out
    description = weights.load_weights(tmp_path)[1]
    assert description.best["step"] == 4 and description.best["metrics"]["psnr"] == 22.0
    best = weights.load_weights(tmp_path / "checkpoints" / "4")
    assert best[1].steps == 4 and set(best[0]) == {"network"}


@pytest.mark.slow
def test_the_sheet_of_masked_pretraining_shows_visible_and_reconstructed_parts(
    photo_folder, monkeypatch
):
    config = tiny_config("mask_pretrain", photo_folder)
    config.tasks = "haze,rain"
    config.data.crop_size = 32
    config.mask_patch = 8
    config.validation.root = str(photo_folder)
    run, validation, state = opened(config)
    sheet = validation.sheet(state)
    # Crops of 32 pixels are enlarged to 160, below the heading and the class's name.
    seen, painted = (sheet[56:216:5, x : x + 160 : 5].astype(int) for x in (6, 172))
    seen = seen.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1)
    assert (seen.max(axis=1) == 0).sum() == 8  # half of sixteen patches are hidden
    assert np.ptp(painted) > 0
    # What it measures needs none of this, but another program.
    assert validation._forward._cache_size() == 1
    monkeypatch.setattr(Validation, "_masked", None)
    monkeypatch.setattr(type(run.network), "tail", None)
    assert set(validation.measure(state)) == {"accuracy", "accuracy_haze", "accuracy_rain"}
    assert validation._forward._cache_size() == 2
