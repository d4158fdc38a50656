"""`--config=configs/evaluate.py`: how well weights restore and classify held-out photos."""

import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
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

PSNR_LIMIT = 100.0  # dB; a sample that is restored perfectly would make every mean infinite


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
    print(
        f"evaluate {config.init_from}: {len(crops) * len(tasks)} samples of "
        f"{data.crop_size}x{data.crop_size} from {len(photos)} photos, {len(tasks)} classes",
        flush=True,
    )
    samples = pipeline.evaluation_samples(tasks, crops, seed=config.seed)
    restored = restore_each(network, params["network"], samples, config.batch_size)
    pictures = PictureSheet([task.name for task in tasks], len(crops))
    evaluation = score(tasks, restored, judge, pictures)
    _write(Path(workdir), config, description, evaluation, pictures)
    return evaluation


def find_judge(
    config: ml_collections.ConfigDict, params: weights.Params, description: dict[str, Any]
) -> Judge | None:
    """The classifier to measure; says which it is.

    It is the one asked for, that of the weights, or else the nearest among what they grew from: of
    each run first the classifier that it took over, then the network that it started from.

    Raises:
        ConfigError: if the weights in `config.classifier_from` hold no classifier.
        FileNotFoundError: if there are none.
    """
    place = config.classifier_from or config.init_from
    if config.classifier_from:
        params, description = weights.load_weights(place)
        if description["classifier"] is None:
            raise configs.ConfigError(
                f"config.classifier_from: the weights in {place} hold no classifier; name the "
                "work directory of a pre-training"
            )
    elif description["classifier"] is None:
        place, params, description = _nearest_classifier(place, description) or ("", {}, {})
    if not description:
        logging.warning("no classifier is measured; name one with --config.classifier_from")
        return None
    print(f"classification: by the classifier in {place}", flush=True)
    return Judge(
        weights.network_of(description, **_changes(config, description)),
        weights.classifier_of(description, dtype=config.dtype),
        params,
        tuple(description["classes"]),
    )


def _nearest_classifier(
    place: str, description: dict[str, Any]
) -> tuple[Path, weights.Params, dict[str, Any]] | None:
    """Folder, parameters and description of what holds a classifier that weights grew from."""
    waiting, seen = [(Path(place).absolute(), description)], set()
    while waiting:
        folder, description = waiting.pop(0)
        source = description.get("source") or {}
        origins = [(source.get("classifier_from") or {}).get("path"), source.get("init_from")]
        for origin in filter(None, origins):
            # As it was given, or beside the weights where both were moved together.
            for found in (Path(origin).absolute(), folder.parent / Path(origin).name):
                if found in seen or found == folder:
                    continue
                seen.add(found)
                try:
                    params, description = weights.load_weights(found)
                except FileNotFoundError:
                    continue
                if description["classifier"] is not None:
                    return found, params, description
                waiting.append((found, description))
                break
    return None


def restore_each(
    network: nn.Module, params: Any, samples: Iterable[pipeline.Sample], batch_size: int
) -> Iterator[tuple[pipeline.Sample, np.ndarray]]:
    """Each sample with its restored image, clipped to [0, 1]; one batch is in memory at a time."""
    samples = iter(samples)
    while batch := list(itertools.islice(samples, batch_size)):
        degraded = [sample.degraded for sample in batch]
        # The last batch is filled up, so that one program is compiled.
        degraded += degraded[-1:] * (batch_size - len(batch))
        restored = np.clip(_restore(network, params, np.stack(degraded)), 0, 1)
        yield from zip(batch, restored, strict=False)


def score(
    tasks: Sequence[task_sets.Task],
    restored: Iterable[tuple[pipeline.Sample, np.ndarray]],
    judge: Judge | None,
    pictures: "PictureSheet",
) -> Evaluation:
    """Means per class, and the confusion table where the classifier knows all classes."""
    names = [task.name for task in tasks]
    unknown = [name for name in names if judge is not None and name not in judge.classes]
    if unknown:
        logging.warning(
            "classification is not measured: the classifier knows %s, but not %s",
            ", ".join(judge.classes),
            ", ".join(unknown),
        )
        judge = None
    scores: dict[int, list[tuple[float, ...]]] = {i: [] for i in range(len(tasks))}
    confusion = np.zeros((len(tasks), len(judge.classes)), int) if judge is not None else None
    for sample, image in restored:
        degraded = np.clip(sample.degraded, 0, 1)
        pairs = ((degraded, sample.clean), (image, sample.clean))
        psnr = [min(metrics.psnr(*pair), PSNR_LIMIT) for pair in pairs]
        scores[sample.task].append((*psnr, *(metrics.ssim(*pair) for pair in pairs)))
        pictures.offer(sample, image, *psnr)
        if judge is not None:
            confusion[sample.task, judge.predict(sample.degraded[None])[0]] += 1
    classes = tuple(
        ClassResult(name, len(scores[i]), *np.mean(scores[i], axis=0).tolist())
        for i, name in enumerate(names)
    )
    convention = f"{metrics.convention()}, at most {PSNR_LIMIT:.0f} dB a sample"
    return Evaluation(classes, convention, confusion, judge.classes if judge is not None else ())


class PictureSheet:
    """Two samples of each class, of different crops: degraded | restored | clean."""

    def __init__(self, names: Sequence[str], crops: int):
        """Decides which crops to show: not the same in every row.

        Args:
            names: of the classes.
            crops: how many samples each class has.
        """
        self._names = names
        self._chosen = {
            task: {task % crops, (task + crops // 2) % crops} for task in range(len(names))
        }
        self._seen = dict.fromkeys(self._chosen, 0)
        self._rows: dict[int, list[np.ndarray]] = {task: [] for task in self._chosen}
        self._captions: dict[int, list[str]] = {task: [] for task in self._chosen}

    def offer(
        self, sample: pipeline.Sample, restored: np.ndarray, before: float, after: float
    ) -> None:
        """Keeps a sample that is to be shown; `before` and `after` are its PSNR in dB."""
        task = sample.task
        if self._seen[task] in self._chosen[task]:
            self._rows[task] += [sample.degraded, restored, sample.clean]
            name = f"{self._names[task]}, {before:.1f} dB"
            self._captions[task] += [name, f"{after:.1f} dB", sample.name]
        self._seen[task] += 1

    def draw(self) -> np.ndarray:
        """The sheet, uint8 [h, w, 3]."""
        headings = ["degraded", "restored", "clean"] * (len(self._rows[0]) // 3)
        return gallery.sheet(
            list(self._rows.values()), headings=headings, captions=list(self._captions.values())
        )


def _write(
    workdir: Path,
    config: ml_collections.ConfigDict,
    description: dict[str, Any],
    evaluation: Evaluation,
    pictures: PictureSheet,
) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    content = {
        "weights": str(config.init_from),
        "mode": description.get("mode"),
        "steps": description.get("steps"),
        "config": configs.to_json(config),
        **evaluation.to_json(),
    }
    (workdir / "evaluation.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    (workdir / "evaluation.md").write_text(evaluation.to_markdown())
    images.write_image(workdir / "sheet.png", pictures.draw().astype(np.float32) / 255)
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


@functools.partial(jax.jit, static_argnums=0)
def _restore(network: nn.Module, params: Any, degraded: jax.Array) -> jax.Array:
    return network.apply({"params": params}, degraded)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classify(network: nn.Module, classifier: nn.Module, params: Any, degraded: jax.Array):
    features = network.apply({"params": params["network"]}, degraded, method="features")
    return classifier.apply({"params": params["classifier"]}, features).argmax(-1)
