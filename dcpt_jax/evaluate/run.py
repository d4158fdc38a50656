"""`--config=configs/evaluate.py`: how well weights restore and classify held-out photos."""

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from dcpt_jax import config as configs
from dcpt_jax import images, metrics, weights
from dcpt_jax.data import pipeline, sources
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.evaluate import gallery
from dcpt_jax.evaluate.tables import ClassResult, Evaluation


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier with the network whose features it was trained on."""

    network: nn.Module
    classifier: nn.Module
    params: weights.Params
    classes: tuple[str, ...]

    def predict(self, degraded: np.ndarray) -> np.ndarray:
        """Class indices, int [b], of images [b, h, w, 3]."""
        return np.asarray(_classify(self.network, self.classifier, self.params, degraded))


def evaluate(config: ml_collections.ConfigDict, workdir: Path | str) -> Evaluation:
    """Measures the weights in `config.init_from`; prints the tables and writes them.

    Args:
        config: see `dcpt_jax.config.evaluate`.
        workdir: where `evaluation.md`, `evaluation.json` and `sheet.png` go.

    Returns:
        The measured numbers.

    Raises:
        ConfigError: if the config is wrong.
        FileNotFoundError: if there are no weights or no photos.
    """
    configs.validate(config)
    params, description = weights.load_weights(config.init_from)
    tasks = task_sets.resolve_tasks(config.tasks or tuple(description["classes"]))
    network = weights.network_of(description, **_changes(config, description))
    judge = find_judge(config, params, description)
    data = config.data
    paths = sources.folder_photos(data.root) if data.root else sources.bundled_photos("held_out")
    photos = sources.PhotoSource(
        paths, on_bad_file=data.on_bad_file, cache_megabytes=data.cache_megabytes
    )
    crops = pipeline.held_out_crops(
        photos, size=data.crop_size, per_photo=data.crops_per_photo, seed=config.seed
    )
    samples = list(pipeline.evaluation_samples(tasks, crops, seed=config.seed))
    print(
        f"evaluate {config.init_from}: {len(samples)} samples of {data.crop_size}x{data.crop_size}"
        f" from {len(photos)} photos, {len(tasks)} classes",
        flush=True,
    )
    restored = restore_all(network, params["network"], samples, config.batch_size)
    evaluation = summarise(tasks, samples, restored, judge, config.batch_size)
    _write(Path(workdir), config, description, evaluation, samples, restored)
    return evaluation


def find_judge(
    config: ml_collections.ConfigDict, params: weights.Params, description: dict[str, Any]
) -> Judge | None:
    """The classifier to measure: the one asked for, that of the weights, or of their origin."""
    if config.classifier_from:
        params, description = weights.load_weights(config.classifier_from)
        if description["classifier"] is None:
            raise configs.ConfigError(
                f"config.classifier_from: the weights in {config.classifier_from} hold no "
                "classifier; name the work directory of a pre-training"
            )
    elif description["classifier"] is None:
        origin = (description.get("source") or {}).get("init_from") or ""
        # As it was given, or beside the weights where both were moved together.
        places = [Path(origin), Path(config.init_from).absolute().parent / Path(origin).name]
        for place in places if origin else []:
            try:
                params, description = weights.load_weights(place)
                break
            except FileNotFoundError:
                continue
    if description["classifier"] is None:
        logging.warning("no classifier is measured; name one with --config.classifier_from")
        return None
    return Judge(
        weights.network_of(description, **_changes(config, description)),
        weights.classifier_of(description, dtype=config.dtype),
        params,
        tuple(description["classes"]),
    )


def restore_all(
    network: nn.Module, params: Any, samples: Sequence[pipeline.Sample], batch_size: int
) -> list[np.ndarray]:
    """Restored image of every sample, clipped to [0, 1]."""
    restored = []
    for batch in _batches(samples, batch_size):
        restored += list(np.asarray(_restore(network, params, batch)))
    return [np.clip(image, 0, 1) for image in restored[: len(samples)]]


def summarise(
    tasks: Sequence[task_sets.Task],
    samples: Sequence[pipeline.Sample],
    restored: Sequence[np.ndarray],
    judge: Judge | None,
    batch_size: int,
) -> Evaluation:
    """Means per class, and the confusion table where the classifier knows all classes."""
    names = [task.name for task in tasks]
    scores: dict[int, list[tuple[float, ...]]] = {i: [] for i in range(len(tasks))}
    for sample, image in zip(samples, restored, strict=True):
        degraded = np.clip(sample.degraded, 0, 1)
        pairs = ((degraded, sample.clean), (image, sample.clean))
        scores[sample.task].append(
            (*(metrics.psnr(*pair) for pair in pairs), *(metrics.ssim(*pair) for pair in pairs))
        )
    classes = tuple(
        ClassResult(name, len(scores[i]), *np.mean(scores[i], axis=0).tolist())
        for i, name in enumerate(names)
    )
    if judge is None or not set(names) <= set(judge.classes):
        return Evaluation(classes, metrics.convention(), None, ())
    confusion = np.zeros((len(tasks), len(judge.classes)), int)
    predicted = [judge.predict(batch) for batch in _batches(samples, batch_size)]
    for sample, guess in zip(samples, np.concatenate(predicted), strict=False):
        confusion[sample.task, guess] += 1
    return Evaluation(classes, metrics.convention(), confusion, judge.classes)


def picture_sheet(
    samples: Sequence[pipeline.Sample], restored: Sequence[np.ndarray], names: Sequence[str]
) -> np.ndarray:
    """Two samples of each class, of different photos: degraded | restored | clean, uint8."""
    rows, captions = [], []
    for task, name in enumerate(names):
        chosen = [i for i, sample in enumerate(samples) if sample.task == task]
        # Not the same photos in every row.
        first = chosen[task % len(chosen)]
        second = chosen[(task + len(chosen) // 2) % len(chosen)]
        rows.append([])
        captions.append([])
        for i in (first, second):
            sample = samples[i]
            rows[-1] += [sample.degraded, restored[i], sample.clean]
            before = metrics.psnr(np.clip(sample.degraded, 0, 1), sample.clean)
            after = metrics.psnr(restored[i], sample.clean)
            captions[-1] += [f"{name}, {before:.1f} dB", f"{after:.1f} dB", sample.name]
    return gallery.sheet(rows, headings=["degraded", "restored", "clean"] * 2, captions=captions)


def _write(
    workdir: Path,
    config: ml_collections.ConfigDict,
    description: dict[str, Any],
    evaluation: Evaluation,
    samples: Sequence[pipeline.Sample],
    restored: Sequence[np.ndarray],
) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    content = {
        "weights": str(config.init_from),
        "mode": description.get("mode"),
        "steps": description.get("steps"),
        "config": configs.to_json(config),
        **evaluation.to_json(),
    }
    (workdir / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    (workdir / "evaluation.md").write_text(evaluation.to_markdown())
    names = [c.name for c in evaluation.classes]
    sheet = picture_sheet(samples, restored, names)
    images.write_image(workdir / "sheet.png", sheet.astype(np.float32) / 255)
    print(evaluation.to_text())
    for name in ("evaluation.md", "evaluation.json", "sheet.png"):
        print(f"wrote {workdir / name}", flush=True)


def _changes(config: ml_collections.ConfigDict, description: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments in which the network differs from that of training."""
    changes = {"dtype": config.dtype}
    crop = description.get("crop_size")
    if config.local_pooling and crop and "tlc_size" in description["arguments"]:
        size = weights.local_converter_size(weights.network_of(description), crop)
        changes["tlc_size"] = size if size < config.data.crop_size else None
    return changes


def _batches(samples: Sequence[pipeline.Sample], size: int) -> list[np.ndarray]:
    """Degraded images in batches of one size; the last is filled up by repeating its last image."""
    batches = []
    for start in range(0, len(samples), size):
        batch = [sample.degraded for sample in samples[start : start + size]]
        batch += batch[-1:] * (size - len(batch))
        batches.append(np.stack(batch))
    return batches


@functools.partial(jax.jit, static_argnums=0)
def _restore(network: nn.Module, params: Any, degraded: jax.Array) -> jax.Array:
    return network.apply({"params": params}, degraded)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classify(network: nn.Module, classifier: nn.Module, params: Any, degraded: jax.Array):
    features = network.apply({"params": params["network"]}, degraded, method="features")
    return classifier.apply({"params": params["classifier"]}, features).argmax(-1)
