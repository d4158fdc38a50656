"""Measures the bundled network for its model card: tables, and pictures of photos it never saw.

    python -m benchmarks.model_card --photos DIR --output model_card.json [--weights W]
    python -m benchmarks.model_card --pictures docs/bundled.jpg [--weights W]
    python -m benchmarks.model_card --curves docs/bundled_training.png --runs REFINE CLASSIFY

Every photo of DIR is degraded once by each class and restored whole; every third one also in tiles
of 256 pixels and with the local converter. The classifier predicts each as `dcpt_jax.inspect` does.
The pictures use photos of scikit-image, which the network was not trained on. The curves use the
`metrics.jsonl` of the two runs and need matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dcpt_jax
from dcpt_jax import images
from dcpt_jax.evaluate import gallery, scores
from dcpt_jax.images import listing
from dcpt_jax.inspect.inspector import Inspector
from dcpt_jax.restore.predictor import Predictor

CLASSES = ("noise:25", "noise", "jpeg", "rain", "snow", "haze", "low_light", "motion_blur",
           "defocus_blur", "real", "clean")  # fmt: skip
TILE = 256
# Photo of scikit-image, centre of the shown crop (y, x relative to its size), and degradation.
SHOWN = (
    ("astronaut", (0.25, 0.45), "noise:35"),
    ("coffee", (0.45, 0.5), "low_light"),
    ("chelsea", (0.45, 0.5), "rain"),
    ("rocket", (0.5, 0.5), "haze"),
    ("astronaut", (0.25, 0.45), "jpeg:85"),
    ("chelsea", (0.45, 0.5), "real"),
)
SIDE = 256  # pixels of each picture


def measure(photos: Sequence[Path], weights: Path | None) -> dict[str, Any]:
    """PSNR and SSIM of each class for each way of restoring, and the classifier's predictions."""
    model, params = dcpt_jax.load(*([weights] if weights else []))
    local = model.clone(tlc_size=192)
    restorers = {
        "whole": Predictor(model, params, tile=4096),
        f"tiles of {TILE}": Predictor(model, params, tile=TILE),
        "local converter": Predictor(local, params, tile=4096),
    }
    inspector = Inspector.load(weights)
    clean = {path: images.read_image(path) for path in photos}
    results_by_class: dict[str, Any] = {}
    for name in CLASSES:
        rows, verdicts = [], []
        for seed, (path, target) in enumerate(clean.items()):
            degraded = dcpt_jax.degrade(target, name, seed=seed)
            results = {"degraded": np.clip(degraded, 0, 1)}
            for method, restore in restorers.items():
                if method == "whole" or seed % 3 == 0:
                    results[method] = restore(degraded)
            rows.append(
                {method: scores.of_image(image, target) for method, image in results.items()}
            )
            verdicts.append(inspector.labels.verdict(inspector(degraded)))
            print(f"{name}: {path.name} {rows[-1]['whole'][0]:.2f} dB, {verdicts[-1]}", flush=True)
        results_by_class[name] = {
            method: [round(float(np.mean([row[method][i] for row in rows])), 4) for i in range(2)]
            for method in ("degraded", "whole")
        } | {"verdicts": verdicts}
        for method in [method for method in restorers if method != "whole"]:
            gains = [row[method][0] - row["whole"][0] for row in rows if method in row]
            results_by_class[name][f"{method} - whole"] = round(float(np.mean(gains)), 4)
    return results_by_class


def table(results: dict[str, Any]) -> Iterator[str]:
    """Markdown rows of the results of `measure`."""
    yield ("| class | PSNR degraded | restored | gain | SSIM degraded | restored | in tiles "
           "| with local converter | classified correctly |")  # fmt: skip
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name, result in results.items():
        (before, similar), (after, restored) = result["degraded"], result["whole"]
        right = np.mean([verdict == name.split(":")[0] for verdict in result["verdicts"]])
        yield (
            f"| {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} | {similar:.3f} "
            f"| {restored:.3f} | {result[f'tiles of {TILE} - whole']:+.2f} "
            f"| {result['local converter - whole']:+.2f} | {right:.0%} |"
        )


def draw(weights: Path | None) -> np.ndarray:
    """Two rows of pictures, degraded and restored, uint8 [h, w, 3]."""
    from skimage import data

    restore = Predictor(*dcpt_jax.load(*([weights] if weights else [])))
    rows: list[list[np.ndarray]] = [[], []]
    captions: list[list[str]] = [[], []]
    for seed, (photo, middle, name) in enumerate(SHOWN):
        clean = images.to_float(getattr(data, photo)()[..., :3])
        degraded = dcpt_jax.degrade(clean, name, seed=seed)
        corner = [
            int(np.clip(share * length - SIDE / 2, 0, length - SIDE))
            for share, length in zip(middle, clean.shape[:2], strict=True)
        ]
        for i, image in enumerate((degraded, restore(degraded))):
            rows[i].append(image[corner[0] :, corner[1] :][:SIDE, :SIDE])
            psnr = scores.of_image(np.clip(image, 0, 1), clean)[0]
            captions[i].append(f"{('degraded', 'restored')[i]}  {psnr:.1f} dB")
    headings = [name for _, _, name in SHOWN]
    return gallery.sheet(rows, headings=headings, captions=captions)


def plot(refine: Path, classify: Path, target: Path) -> None:
    """Plots PSNR and accuracy on training batches of two runs, given their folders."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    panels = (
        ("restoration", refine, "quality/psnr", "PSNR of training batches, dB"),
        ("classifier", classify, "quality/accuracy", "share with all outputs correct"),
    )
    for axis, (title, run, key, label) in zip(axes, panels, strict=True):
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        steps, values = np.array([(line["step"], line[key]) for line in lines if key in line]).T
        width = max(1, len(values) // 40)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps, values, color="#9ecae1", linewidth=0.8)
        axis.plot(steps[(width - 1) // 2 :][: len(smooth)], smooth, color="#08519c")
        axis.set(title=title, xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
    figure.savefig(target, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, draws, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of clean photos to measure on")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--pictures", type=Path, help="output file for example pictures")
    parser.add_argument("--weights", type=Path, help="weights to measure (default: bundled)")
    parser.add_argument("--curves", type=Path, help="PNG file for the training curves")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs=2,
        help="work directories of refinement and classifier, for --curves",
    )
    options = parser.parse_args(arguments)
    if options.curves:
        plot(*options.runs, options.curves)
    if options.pictures:
        images.write_image(options.pictures, images.to_float(draw(options.weights)))
    if options.photos:
        results = measure(listing.list_images(options.photos), options.weights)
        if options.output:
            options.output.write_text(json.dumps(results, indent=1) + "\n")
        print("\n".join(table(results)))


if __name__ == "__main__":
    main()
