"""Classifier alone: what the features of a trained network tell about a degradation.

    python -m dcpt_jax.main --config=configs/classify.py --workdir=W3 --config.init_from=W

The network of `init_from` stays as it is; the classifier learns by focal loss, with a moving
average. If `init_from` holds a classifier, it is trained on (`--config.classifier_from=scratch`
starts a new one, a folder takes another). The printed report says which parts were taken over,
resized to this run's classes, or left. `weights` then holds network and classifier.

`--config.label=multi_hot` learns the single degradations in mixtures in place of classes. What was
learned of a class goes on as the degradation of that name, and the reverse.

`configs/classify.py:restormer,5d`: crops of 128, batch and rates of that backbone's pre-training.
"""

from dcpt_jax import config as configs


def get_config(arg: str = ""):
    """Returns the config; `arg` is "", or a backbone and / or a task set."""
    return configs.classify(arg)
