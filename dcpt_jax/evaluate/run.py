"""`--config=configs/evaluate.py`: measures restoration and classification on held-out photos."""

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from dcpt_jax import config as configs
from dcpt_jax import files, images, metrics, weights
from dcpt_jax.data import classes as data_classes
from dcpt_jax.data import held_out
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.evaluate import baselines, comparison, formats, gallery, markdown, saving, scores
from dcpt_jax.evaluate.classification import Confusion, Detections
from dcpt_jax.evaluate.evaluation import BaselineScores, ClassScores, Evaluation
from dcpt_jax.inspect.inspector import Inspector
from dcpt_jax.interruption import Interruption
from dcpt_jax.labels import Labels
from dcpt_jax.precision import matmul_precision
from dcpt_jax.restore import predictor
from dcpt_jax.weights import WeightsDescription

SHEET_HEIGHT = 2400  # largest total height of the sheet's images, in pixels
SHOWN_SIDE = 256  # only the centre of larger images is shown
CLASSIFIED_SIDE = 512  # only the centre is classified, as classifiers are trained on crops
WHOLE = "whole images"


def evaluate(config: ml_collections.ConfigDict, workdir: Path | str) -> Evaluation:
    """Measures the weights in `config.init_from`; prints and writes the tables.

    Args:
        config: see `configs/evaluate.py`.
        workdir: folder for `evaluation.md`, `evaluation.json` and `sheet.png`.

    Returns:
        The results.

    Raises:
        ConfigError: if the config is wrong.
        FileNotFoundError: if there are no weights or no photos.
        ImportError: if baselines are requested and a library they need is not installed.
        OSError: if the folder cannot be written.
    """
    configs.validate(config)
    workdir = Path(workdir)
    try:  # before the computation
        files.check_writable(workdir)
    except OSError as error:
        raise OSError(
            f"the work directory {workdir} cannot be written: {error.strerror or error}. Correct "
            "that, or use another --workdir"
        ) from error
    methods = baselines.available() if config.baselines else ()
    params, description = weights.load_weights_of_key("init_from", config.init_from)
    if config.tasks:
        tasks = task_sets.resolve_tasks(config.tasks)
    else:
        tasks = task_sets.resolve_trained(description.task_set, description.classes)
    if config.local_pooling:
        _check_local_pooling(config.init_from, description)
    network = description.network(**_changes(config, description))
    classifier = find_classifier(config, params, description)
    data = config.data
    classes = data_classes.open_classes(tasks, split="held_out", **data_classes.options_from(data))
    crops = {"size": data.crop_size, "per_photo": data.crops_per_photo}
    counts = [held_out.count(c, **crops) for c in classes]
    setting = f"crops of {data.crop_size}x{data.crop_size} pixels" if data.crop_size else WHOLE
    print(f"evaluate {config.init_from}: {sum(counts)} samples, {setting}", flush=True)
    for c, count in zip(classes, counts, strict=True):
        print(f"  {c.name}: {count} of {c.origin}", flush=True)
    # A class of published test photos may have a fixed strength.
    tasks = tuple(c.task for c in classes)
    samples = held_out.samples(classes, **crops, seed=config.seed)
    if data.crop_size:
        restored = restore_each(network, params["network"], samples, config.batch_size)
    else:
        restored = restore_whole(network, params["network"], samples)
    if config.save_images:
        restored = saving.save_each(restored, [task.name for task in tasks], config.save_images)
    pictures = PictureSheet([task.name for task in tasks], counts, data.crop_size)
    convention = metrics.Convention(config.channel, config.rounding)
    # `restored` is a generator: images are restored while they are scored.
    with matmul_precision(config.matmul_precision), Interruption() as interruption:
        restored = _until_interrupted(restored, interruption)
        evaluation = score(
            tasks, restored, classifier, pictures, metric=convention, methods=methods
        )
    evaluation = dataclasses.replace(
        evaluation,
        convention=f"{evaluation.convention}, {setting}",
        data=tuple(c.origin for c in classes),
        # Published figures are of whole images, not of crops.
        test_sets=tuple("" if data.crop_size else c.test_set for c in classes),
        crop_size=data.crop_size,
    )
    _write(workdir, config, description, evaluation, pictures)
    if config.save_images:
        # Last, so that the same command runs again after an interruption.
        saving.finish(config.save_images)
        print(f"wrote the images of all samples to {config.save_images}", flush=True)
    return evaluation


def find_classifier(
    config: ml_collections.ConfigDict, params: weights.Params, description: WeightsDescription
) -> Inspector | None:
    """Finds the classifier to measure, and prints its folder.

    It is that of `config.classifier_from`, that of the weights, or the nearest one among the runs
    that they were initialised from: for each run first its `classifier_from`, then its `init_from`.
    """
    path = config.classifier_from or config.init_from
    if config.classifier_from:
        params, description = weights.load_weights_of_key("classifier_from", path)
        if description.classifier is None:
            raise configs.ConfigError(
                f"config.classifier_from: the weights in {path} contain no classifier; give the "
                "work directory of a pre-training"
            )
    elif description.classifier is None and (ancestor := _nearest_classifier(path, description)):
        path, params, description = ancestor
    if description.classifier is None:
        logging.warning("no classifier to evaluate; select one with --config.classifier_from")
        return None
    print(f"classification: by the classifier in {path}", flush=True)
    return Inspector(params, description, path, **_changes(config, description))


def _nearest_classifier(
    path: str, description: WeightsDescription
) -> tuple[Path, weights.Params, WeightsDescription] | None:
    """Folder, parameters and description of the nearest ancestor run with a classifier."""
    queue, visited = [(Path(path).absolute(), description)], set()
    while queue:
        folder, description = queue.pop(0)
        source = description.source
        origins = [source.get("classifier_from", {}).get("path"), source.get("init_from")]
        for origin in filter(None, origins):
            # The recorded path, or beside the weights if both folders were moved together.
            for candidate in (Path(origin).absolute(), folder.parent / Path(origin).name):
                if candidate in visited or candidate == folder:
                    continue
                visited.add(candidate)
                try:
                    params, description = weights.load_weights(candidate)
                except FileNotFoundError:
                    continue
                if description.classifier is not None:
                    return candidate, params, description
                queue.append((candidate, description))
                break
    return None


def restore_each(
    network: nn.Module, params: Any, samples: Iterable[held_out.Sample], batch_size: int
) -> Iterator[tuple[held_out.Sample, np.ndarray]]:
    """Each sample with its restored image, clipped to [0, 1]; one batch is in memory at a time."""
    samples = iter(samples)
    while batch := list(itertools.islice(samples, batch_size)):
        degraded = [sample.degraded for sample in batch]
        # The last batch is padded, so that only one program is compiled.
        degraded += degraded[-1:] * (batch_size - len(batch))
        restored = np.clip(_restore(network, params, np.stack(degraded)), 0, 1)
        yield from zip(batch, restored, strict=False)


def restore_whole(
    network: nn.Module, params: Any, samples: Iterable[held_out.Sample]
) -> Iterator[tuple[held_out.Sample, np.ndarray]]:
    """Each sample with its restored image, clipped to [0, 1]; restored as by `dcpt_jax.restore`.

    Images of any size, one at a time; in tiles if too large for the memory.
    """
    restore = predictor.Predictor(network, params)
    for sample in samples:
        yield sample, restore(sample.degraded)


def score(
    tasks: Sequence[task_sets.Task],
    restored: Iterable[tuple[held_out.Sample, np.ndarray]],
    classifier: Inspector | None,
    pictures: "PictureSheet",
    *,
    metric: metrics.Convention = scores.DEFAULT,
    methods: Sequence[baselines.Method] = (),
) -> Evaluation:
    """Mean scores per class, also of other methods, and the classifier's predictions.

    Nothing is classified if the classifier lacks one of the classes.
    """
    names = tuple(task.name for task in tasks)
    # Per class and sample: PSNR and SSIM of the degraded, the restored and each method's image.
    measured: dict[int, list[tuple[list[float], list[float]]]] = {i: [] for i in range(len(tasks))}
    truth = _truth(classifier.labels, tasks) if classifier is not None else None
    predictions: list[list[np.ndarray]] = [[] for _ in tasks]
    for sample, image in restored:
        images_to_score = (
            *(np.clip(sample.degraded, 0, 1), image),
            *(method(sample.degraded) for method in methods),
        )
        scored = [
            scores.of_image(candidate, sample.clean, convention=metric)
            for candidate in images_to_score
        ]
        psnr, ssim = map(list, zip(*scored, strict=True))
        measured[sample.task].append((psnr, ssim))
        pictures.offer(sample, image, *psnr[:2])
        if truth is not None:
            degraded = _middle(sample.degraded, CLASSIFIED_SIDE)
            logits = classifier.logits(np.ascontiguousarray(degraded)[None])[0]
            predictions[sample.task].append(classifier.labels.predictions(logits))
    means = np.array([np.mean(measured[i], axis=0) for i in range(len(tasks))])
    classes = tuple(
        ClassScores(name, len(measured[i]), *means[i, :, :2].ravel().tolist())
        for i, name in enumerate(names)
    )
    baseline_scores = tuple(
        BaselineScores(m.name, m.library, m.citation, *map(tuple, means[:, :, 2 + i].T.tolist()))
        for i, m in enumerate(methods)
    )
    classification = None
    if truth is not None:
        labels, kind = classifier.labels, Detections if classifier.labels.multi_hot else Confusion
        classification = kind(names, labels.names, truth, [np.array(rows) for rows in predictions])
    return Evaluation(
        classes,
        scores.describe(metric),
        classification,
        metric=metric,
        baselines=baseline_scores,
    )


def _truth(labels: Labels, tasks: Sequence[task_sets.Task]) -> np.ndarray | None:
    """The label of each task, see `Labels.rows`; None if a classifier lacks one of them."""
    if unknown := labels.unknown(tasks):
        logging.warning(
            "classification is not measured: the classifier knows %s, but not %s",
            ", ".join(labels.names),
            ", ".join(unknown),
        )
        return None
    return labels.rows(tasks)


def _until_interrupted(items: Iterable[Any], interruption: Interruption) -> Iterator[Any]:
    """Yields the items; raises KeyboardInterrupt before the next one after Ctrl-C or SIGTERM."""
    for item in items:
        interruption.check()
        yield item


class PictureSheet:
    """Two samples of each class: degraded | restored | clean.

    Images are downscaled by an integer factor if the sheet would be too high.
    """

    def __init__(self, names: Sequence[str], counts: Sequence[int], side: int):
        """Selects the samples to show, with different crops in different rows."""
        self._names = names
        self._side = side or SHOWN_SIDE
        self._chosen = {
            task: {task % count, (task + count // 2) % count} for task, count in enumerate(counts)
        }
        self._seen = dict.fromkeys(self._chosen, 0)
        self._rows: dict[int, list[np.ndarray]] = {task: [] for task in self._chosen}
        self._captions: dict[int, list[str]] = {task: [] for task in self._chosen}

    def offer(
        self, sample: held_out.Sample, restored: np.ndarray, before: float, after: float
    ) -> None:
        """Keeps a sample if it is selected; `before` and `after` are its PSNR in dB."""
        task = sample.task
        if self._seen[task] in self._chosen[task]:
            shown = (sample.degraded, restored, sample.clean)
            self._rows[task] += [_padded(_middle(image, self._side), self._side) for image in shown]
            name = f"{self._names[task]}, {before:.1f} dB"
            self._captions[task] += [name, f"{after:.1f} dB", sample.name]
        self._seen[task] += 1

    def draw(self) -> np.ndarray:
        """The sheet, uint8 [h, w, 3]."""
        rows, captions = list(self._rows.values()), list(self._captions.values())
        columns = max(map(len, rows))
        for row, texts in zip(rows, captions, strict=True):  # of photos that cannot be read
            row += [np.ones((self._side, self._side, 3))] * (columns - len(row))
            texts += [""] * (columns - len(texts))
        headings = ["degraded", "restored", "clean"] * (columns // 3)
        factor = math.ceil(len(rows) * rows[0][0].shape[0] / SHEET_HEIGHT)
        rows = [[gallery.shrink(image, factor) for image in row] for row in rows]
        return gallery.sheet(rows, headings=headings, captions=captions)


def _write(
    workdir: Path,
    config: ml_collections.ConfigDict,
    description: WeightsDescription,
    evaluation: Evaluation,
    pictures: PictureSheet,
) -> None:
    print(evaluation.to_text())  # first, in case that the disk is full
    content = {
        "weights": str(config.init_from),
        "mode": description.mode,
        "steps": description.steps,
        "architecture": description.architecture,
        "task_set": trained_on(description, config.tasks),
        "config": configs.to_json(config),
        **evaluation.to_json(),
    }
    files.write_json(workdir / "evaluation.json", content)
    files.write_text(workdir / "evaluation.md", evaluation.to_markdown())
    images.write_image(workdir / "sheet.png", pictures.draw().astype(np.float32) / 255)
    compared = comparison.compare([comparison.parse_run(content, workdir.name)])
    if compared.methods:
        print(f"\n{markdown.aligned(formats.to_markdown(compared))}\n")
    for name in ("evaluation.md", "evaluation.json", "sheet.png"):
        print(f"wrote {workdir / name}", flush=True)


def trained_on(description: WeightsDescription, evaluated: str) -> str:
    """Name of the task set that weights were trained on, or their classes joined by commas.

    Args:
        description: of the weights.
        evaluated: the evaluated tasks; used for converted weights, which do not state theirs.
    """
    classes = set(description.classes)
    for name, tasks in task_sets.TASK_SETS.items():
        if classes == {task.name for task in tasks}:
            return name
    try:
        known = task_sets.resolve_trained(description.task_set, description.classes)
    except ValueError:
        known = ()
    return description.task_set if known else evaluated or description.task_set


def _check_local_pooling(path: str, description: WeightsDescription) -> None:
    """Raises ConfigError if these weights cannot be used with the local converter."""
    if "tlc_size" not in description.arguments:
        reason = f"{description.architecture} has no local converter"
    elif description.crop_size is None:
        reason = "their model.json has no crop_size, the size of the training crops in pixels"
    else:
        return
    raise configs.ConfigError(
        f"config.local_pooling is True, but the weights in {path} cannot use it: {reason}"
    )


def _changes(config: ml_collections.ConfigDict, description: WeightsDescription) -> dict[str, Any]:
    """Keyword arguments of the network that differ from those of the training."""
    changes = {"dtype": config.dtype}
    crop = description.crop_size
    if config.local_pooling and crop and "tlc_size" in description.arguments:
        size = weights.local_converter_size(description.network(), crop)
        crop_size = config.data.crop_size
        changes["tlc_size"] = size if not crop_size or size < crop_size else None
    return changes


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    """The centre of an image, at most `side` pixels high and wide."""
    top, left = (max(length - side, 0) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _padded(image: np.ndarray, side: int) -> np.ndarray:
    """Pads an image to `side` x `side` pixels with white at the bottom and right."""
    h, w = image.shape[:2]
    return np.pad(image, ((0, side - h), (0, side - w), (0, 0)), constant_values=1.0)


@functools.partial(jax.jit, static_argnums=0)
def _restore(network: nn.Module, params: Any, degraded: jax.Array) -> jax.Array:
    return network.apply({"params": params}, degraded)
