"""Parts of a run from its config alone, as `train.run.prepare` builds them."""

from dcpt_jax import config as configs
from dcpt_jax.config.keys import OPTIMIZERS
from dcpt_jax.modes import MODES
from dcpt_jax.train import modules
from dcpt_jax.train import run as training


def network_and_classifier(config, *, num_classes, inherited=None):
    network = modules.build_network(config.model, dtype=config.dtype, remat=config.remat)
    classifier = modules.build_classifier(
        network,
        MODES[config.mode],
        num_classes=num_classes,
        num_blocks=config.classifier.num_blocks,
        dtype=config.dtype,
        inherited=inherited,
    )
    return network, classifier


def reconstruction_head(config, network):
    return modules.build_reconstruction(
        network,
        patch=config.mask_patch,
        width=config.reconstruction.width,
        crop_size=config.data.crop_size,
        dtype=config.dtype,
    )


def schedules_and_optimizers(config):
    settings = {part: config[OPTIMIZERS[part]] for part in MODES[config.mode].learns}
    return training.make_optimizers(settings, config.num_steps)


def step(config, network, classifier, reconstruction, optimizers):
    mode = MODES[config.mode]
    return training.build_step(
        mode,
        {"network": network, "classifier": classifier, "reconstruction": reconstruction},
        optimizers,
        labels=configs.labels_of(config),
        tasks=configs.tasks_of(config),
        **training.step_options(config),
    )
