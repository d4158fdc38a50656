"""`python -m dcpt_jax.probe`: measures how well features of networks separate degradations.

JAX is imported only when there is something to compute.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dcpt_jax import files, images
from dcpt_jax.command_line import (
    UsageError,
    expanded,
    expanded_path,
    positive_int,
    run_command,
)
from dcpt_jax.images import listing

_DETAILS = """
what is computed
  Features of all networks are computed on the same degraded images, at every level that the
  degradation classifier uses. A 5-nearest-neighbour classifier is fitted to two thirds of the
  images and tested on the rest, for five random splits: once on the flattened features, as in the
  paper, and once on the mean and standard deviation of each channel. docs/probing.md explains the
  results.

images
  Every image is a different crop. With enough photos (images times classes), the centre of each
  photo is used for one class; otherwise, several crops spread over each photo are distributed to
  the classes in turn. The default is three bundled photos that the demo does not train on; use
  your own --photos for results to publish.

what is written
  DIR/probe.md (the table), DIR/probe.json (all numbers, with the coordinates of the picture) and
  DIR/probe.png: the t-SNE of each level (columns) of each network (rows).

space
  The flattened features of one network at a time are stored in a temporary folder (set TMPDIR to
  change it), in float32: about 4 GB for the paper's NAFNet and 500 crops of 128 pixels, 18 GB for
  its SwinIR. They are removed at the end.

exit status
  0: success; 2: invalid options, weights or photos; 130: interrupted.
"""
FILES = ("probe.md", "probe.json", "probe.png")


class Network(NamedTuple):
    """A network to probe."""

    name: str  # in the table and the picture
    model: Any  # the Flax module
    params: Any  # its parameters
    about: dict[str, Any]  # JSON-serialisable facts


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.probe",
        usage="%(prog)s [--random NAME,...] [--weights W...] --output DIR [options]",
        description="Measures how well the features of networks separate degradations.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add(
        "--weights",
        type=expanded_path,
        nargs="+",
        action="extend",
        default=[],
        metavar="W",
        help="weights folders or work directories of training runs; one row each",
    )
    add(
        "--random",
        type=expanded,
        default="",
        metavar="NAME,...",
        help="untrained networks, in the first rows: nafnet, restormer, promptir or swinir in the "
        "paper's size, or a weights folder whose architecture is used",
    )
    add("--output", type=expanded_path, required=True, metavar="DIR", help="output folder")
    add(
        "--tasks",
        default="5d",
        metavar="SET",
        help="task set (5d, 10d, cdd11) or classes separated by commas (default: %(default)s)",
    )
    add(
        "--photos",
        type=expanded_path,
        metavar="DIR",
        help="folder of clean photos (default: bundled photos)",
    )
    add(
        "--images",
        type=positive_int,
        default=100,
        metavar="N",
        help="number of images per class (default: %(default)s)",
    )
    add(
        "--crop",
        type=positive_int,
        default=128,
        metavar="N",
        help="side of the crops in pixels (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="random seed of degradations, untrained networks and t-SNE (default: %(default)s)",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Probes the networks named by the options; returns the exit status, see --help."""
    from dcpt_jax.probe import picture
    from dcpt_jax.probe.report import Report

    tasks = _tasks(options)
    random = [name.strip() for name in options.random.split(",") if name.strip()]
    if not random and not options.weights:
        raise UsageError("no network to probe: set --weights W, --random NAME or both")
    try:
        picture.check_matplotlib()
        files.check_writable(options.output)
    except (ImportError, OSError) as error:
        raise UsageError(f"--output {options.output}: {error}") from error
    options.interruption.check()
    networks = _networks(random, options.weights, options.seed)
    probed, where = _images(tasks, options)
    options.interruption.check()
    text = f"{len(tasks)} classes x {options.images} crops of {options.crop} pixels, {where}"
    print(text, flush=True)
    report = Report(
        classes=tuple(task.name for task in tasks),
        labels=probed.labels,
        images=text,
        settings={
            "tasks": options.tasks,
            "photos": where,
            "images_per_class": options.images,
            "crop": options.crop,
            "seed": options.seed,
        },
        networks=tuple(_probe(network, probed, options.seed) for network in networks),
    )
    written = [options.output / name for name in FILES]
    files.write_text(written[0], report.to_markdown())
    files.write_json(written[1], report.to_json(), indent=None)
    picture.draw(report, written[2])
    print(f"\n{report.to_markdown()}")
    for file in written:
        print(f"wrote {file}", flush=True)
    return 0


def _tasks(options: argparse.Namespace) -> tuple[Any, ...]:
    """The classes; UsageError for invalid options."""
    from dcpt_jax.data import tasks as task_sets
    from dcpt_jax.probe.neighbours import NEIGHBOURS, TEST_SHARE

    try:
        tasks = task_sets.resolve_tasks(options.tasks)
    except ValueError as error:
        raise UsageError(f"--tasks: {error}") from error
    if len(tasks) < 2:
        raise UsageError(f"--tasks {options.tasks}: at least two classes are required")
    least = math.ceil((NEIGHBOURS + 1) / (1 - TEST_SHARE) / len(tasks))
    if options.images < least:
        raise UsageError(
            f"--images {options.images}: must be at least {least} for {NEIGHBOURS} nearest "
            "neighbours"
        )
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed {options.seed}: must be at least 0 and below 2^32")
    return tasks


def _images(tasks: Sequence[Any], options: argparse.Namespace) -> tuple[Any, str]:
    """The images and a description of them for people; UsageError if there are none."""
    from dcpt_jax.data.photos import PhotoSource, bundled_photos
    from dcpt_jax.probe.crops import probe_images

    try:
        if options.photos is None:
            paths, where = bundled_photos("held_out"), "bundled photos"
        else:
            paths, _ = listing.find_images(options.photos)
            where = f"photos in {options.photos.name}"
        probed = probe_images(
            tasks,
            PhotoSource(paths),
            per_class=options.images,
            crop=options.crop,
            seed=options.seed,
        )
    except (OSError, ImportError, ValueError, images.ImageError) as error:
        named = "" if options.photos is None else f" {options.photos}"
        raise UsageError(f"--photos{named}: {error}") from error
    return probed, f"of {probed.num_photos} {where}"


def _networks(random: Sequence[str], paths: Sequence[Path], seed: int) -> Iterator[Network]:
    """The networks in order, each loaded when it is needed; UsageError if one cannot be used."""
    from dcpt_jax import models, weights
    from dcpt_jax.probe.untrained import untrained_params

    names = files.short_names(
        [*paths, *(Path(name) for name in random if name not in models.BACKBONES)]
    )
    descriptions = {}
    for path in names:  # checks all networks before any computation
        if not path.exists():
            known = ", ".join(models.BACKBONES)
            flag = "--weights" if path in paths else "--random"
            raise UsageError(
                f"{flag} {path}: no such folder; give a weights folder or work directory"
                + (f", or one of {known}" if flag == "--random" else "")
            )
        try:
            descriptions[path] = weights.load_weights(path)[1]
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot use {path}: {error}") from error

    def generate() -> Iterator[Network]:
        for name in random:
            if name in models.BACKBONES:
                model = models.create_model(name)
            else:
                model, name = descriptions[Path(name)].network(), names[Path(name)]
            params = untrained_params(model, seed)
            yield Network(f"random {name}", model, params, _about(model, weights=None))
        for path in paths:
            model, params = weights.load(path)
            facts = {key: getattr(descriptions[path], key) for key in ("mode", "steps", "task_set")}
            about = _about(model, weights=str(path), **facts)
            yield Network(names[path], model, params, about)

    return generate()


def _about(model: Any, **facts: Any) -> dict[str, Any]:
    return {"architecture": model.architecture, "arguments": model.arguments(), **facts}


def _probe(network: Network, probed: Any, seed: int) -> Any:
    """Probes one network on all images: a `NetworkResult`."""
    from dcpt_jax.probe import embedding, levels, neighbours
    from dcpt_jax.probe.report import LevelResult, NetworkResult

    start = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory(prefix="dcpt_jax_probe_") as folder:
        try:
            computed = levels.features(
                network.model, network.params, probed.degraded, folder=folder
            )
            for level in computed:
                products = neighbours.inner_products(level.flattened)
                results.append(
                    LevelResult(
                        shape=level.shape,
                        flattened=neighbours.knn_accuracy_of(products, probed.labels),
                        pooled=neighbours.knn_accuracy(level.pooled, probed.labels),
                        coordinates=embedding.tsne_of(products, seed=seed),
                    )
                )
        except (OSError, ValueError) as error:  # no disk space, or features that are not finite
            raise UsageError(f"{network.name}: {error}") from error
    print(f"probed {network.name} in {time.monotonic() - start:.0f} s", flush=True)
    return NetworkResult(network.name, network.about, tuple(results))
