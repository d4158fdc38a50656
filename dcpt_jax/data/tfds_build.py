"""`python -m dcpt_jax.data.tfds_build`: builds a TFDS dataset from local folders of pairs.

The image files are stored unchanged in ArrayRecord files; nothing is decoded or downloaded. Pairs
whose headers show that they are unusable are named and left out. Read the result with
`--config.data.sources.CLASS=tfds:OUT/NAME`, or with TFDS alone:
`tfds.builder_from_directory(OUT/NAME/1.0.0).as_data_source("train")`. Features: the images
`degraded` and `clean`, and the text `name`.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcpt_jax import images
from dcpt_jax.command_line import UsageError, expanded, expanded_path, run_command
from dcpt_jax.data import dataset_files, datasets, pair_files, pairs, spec
from dcpt_jax.data.pair_files import Pairing
from dcpt_jax.data.sources import unique_names
from dcpt_jax.data.tfds import first_line, import_tfds

SET_VERSION = "1.0.0"
_SPLITS = {"train": "train", "held_out": "test"}


class BuildError(Exception):
    """A dataset cannot be built; the message says why."""


def build(
    name: str, splits: dict[str, Pairing], data_dir: Path | str, *, overwrite: bool = False
) -> Path:
    """Builds a dataset.

    Args:
        name: its name: lower-case letters, digits and "_", starting with a letter.
        splits: the pairs of each split.
        data_dir: folder of TFDS datasets; the result is `data_dir/name/1.0.0`.
        overwrite: whether to replace an existing dataset, once the new one is complete.

    Returns:
        The folder of the dataset.

    Raises:
        BuildError: if the name is invalid, the dataset exists, or TFDS cannot write it.
        ImportError: if tensorflow-datasets is not installed.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BuildError(
            f"{name!r} is not a name for a TFDS dataset: use lower-case letters, digits and _"
        )
    folder = Path(data_dir, name, SET_VERSION)
    if folder.exists() and not overwrite:
        raise BuildError(f"{folder} already exists; --overwrite replaces it")
    for split, pairing in splits.items():
        if pairing.border:
            raise BuildError(
                f"the clean photos of {name}, {split}, have a border of {pairing.border} pixels "
                "that must be cut off, but files are stored unchanged; use their folder instead"
            )
    tfds = import_tfds()
    Path(data_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=data_dir) as temporary:
        builder = _builder_class(tfds, name, splits)(data_dir=temporary, file_format="array_record")
        try:
            builder.download_and_prepare()
        except Exception as error:  # TFDS raises many types
            raise BuildError(f"TFDS cannot write {name}: {first_line(error)}") from error
        if folder.exists():
            folder.rename(Path(temporary, "old"))
        folder.parent.mkdir(exist_ok=True)
        Path(temporary, name, SET_VERSION).rename(folder)
    return folder


def pairings_of(name: str, folder: Path | str, *, task: str = "") -> dict[str, Pairing]:
    """The pairs of a public dataset by the names of their TFDS splits."""
    pairings, errors = {}, []
    for split, tfds_split in _SPLITS.items():
        if not datasets.get(name).split(split):
            continue
        try:
            files = dataset_files.find(name, folder, split, task=task)
        except dataset_files.DatasetError as error:
            errors.append(error)
            continue
        if files.pairing is None:
            raise BuildError(f"{name} contains clean photos, not pairs")
        pairings[tfds_split] = files.pairing
    if not pairings:
        raise errors[0]
    return pairings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, or 2 where nothing was built."""
    parser = argparse.ArgumentParser(
        prog="python -m dcpt_jax.data.tfds_build", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("name", help="name of a public dataset (docs/data.md), or a new one")
    parser.add_argument("--manual", type=expanded, help="folder of the unpacked public dataset")
    parser.add_argument("--task", default="", help="class of a dataset that holds several (cdd11)")
    for split in _SPLITS.values():
        parser.add_argument(
            f"--{split}",
            type=expanded,
            metavar="DEGRADED_DIR,CLEAN_DIR[,RULE]",
            help=f"pairs of the {split} split of a new dataset",
        )
    parser.add_argument(
        "--data_dir", type=expanded_path, required=True, help="folder of TFDS datasets to write to"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset that already exists"
    )
    return run_command(parser, run, argv)


def run(options: argparse.Namespace) -> int:
    """Builds the dataset described by `options`."""
    given_sources = {s: getattr(options, s) for s in _SPLITS.values() if getattr(options, s)}
    if bool(options.manual) == bool(given_sources):
        raise UsageError("give either --manual, or --train and / or --test")
    name = options.name
    try:
        if given_sources:
            splits = {
                s: pair_files.pair_folders(*spec.parse_pairs(text))
                for s, text in given_sources.items()
            }
        else:
            splits = pairings_of(name, options.manual, task=options.task)
            name += f"_{dataset_files.cdd11_folder(options.task)}" if options.task else ""
        for split, pairing in splits.items():
            for warning in pairing.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(f"{name}, {split}: {len(pairing)} pairs, {len(pairing.unpaired)} files without")
        folder = build(name, splits, options.data_dir, overwrite=options.overwrite)
    except (BuildError, ValueError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error
    print(f"wrote {folder}; read it with --config.data.sources.CLASS=tfds:{folder.parent}")
    return 0


def _builder_class(tfds: Any, name: str, splits: dict[str, Pairing]) -> type:
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")

    class Pairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Pairs of a degraded and a clean photo."""

        VERSION = tfds.core.Version(SET_VERSION)
        # Else TFDS would look for checksums of downloads beside this file, with a library that it
        # does not require.
        code_path = None

        def _info(self) -> Any:
            features = {"degraded": image, "clean": image, "name": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {split: self._generate_examples(p) for split, p in splits.items()}

        def _generate_examples(self, pairing: Pairing) -> Any:
            names = unique_names(pairing.degraded)
            for key, degraded, clean in zip(names, pairing.degraded, pairing.clean, strict=True):
                try:
                    pairs.check_pair(degraded, clean)
                except images.ImageError as error:
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                key = key.encode("utf-8", "backslashreplace").decode()  # for invalid text
                contents = {"degraded": degraded.read_bytes(), "clean": clean.read_bytes()}
                yield key, {**contents, "name": key}

    Pairs.name = name
    return Pairs


if __name__ == "__main__":
    sys.exit(main())
