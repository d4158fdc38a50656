"""The command `python -m dcpt_jax.data.check`: flags, progress bar and exit status."""

import logging
import sys
from collections.abc import Sequence

import tqdm
from absl import flags

from dcpt_jax import config as configs
from dcpt_jax import extras
from dcpt_jax.data import check, opening
from dcpt_jax.modes import MODES

with extras.needed("train", "dcpt_jax.data.check"):
    import ml_collections
    from ml_collections import config_flags

_USAGE = """python -m dcpt_jax.data.check --config=configs/restore.py:nafnet,5d \\
    --config.data.datasets=/data

Walks all data of a run and prints what is there, what is wrong and how large it is. The config is
that of the run, with the same --config... flags; that of an evaluation checks test data.

--decode   decode every file instead of reading its header: finds damage inside, and takes as long
           as one pass over the data.
--split    train or held_out; by default what the config's mode uses.

Exit status: 0: all is well; 1: something is missing or bad; 2: wrong use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: command line with the program's name first; None = that of this process.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are not text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    argv = list(sys.argv if argv is None else argv)
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(_USAGE)
        return 0
    # What is bad is shown below the table, not as warnings above it.
    logger = logging.getLogger("dcpt_jax")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _check(argv)
    finally:
        logger.setLevel(level)


def _check(argv: Sequence[str]) -> int:
    try:
        config, values = _parse(argv)
        if not config.tasks:
            raise configs.ConfigError("config.tasks is empty; name the classes: --config.tasks=5d")
        configs.validate_data(config)
        tasks = configs.tasks_of(config)
        data = opening.arguments(config.data)
        data.pop("stand_ins", None)
        data |= {"on_bad_file": "skip", "cache_megabytes": 0}  # all that is bad is to be seen
        mode = MODES[config.mode]
        split = values.split or mode.split
        opened = opening.open_each(
            tasks,
            split=split,
            stage=mode.stage,
            repeats=configs.repeats_of(config),
            **data,
        )
    except (flags.Error, AttributeError, KeyError, ValueError, OSError) as error:
        print(f"error: {_message(error)}", file=sys.stderr)
        return 2
    with tqdm.tqdm(
        total=check.count_items(opened),
        unit="file",
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        found = check.check(opened, decode=values.decode, progress=bar.update)
    print(
        check.report(
            found,
            crop=config.data.crop_size,
            by="decoding every file" if values.decode else "headers, --decode looks inside",
            shares=split == "train",
        )
    )
    return 1 if check.is_bad(found) else 0


def _message(error: Exception) -> str:
    """An error's text; of one inside a config file, the text alone and not where it arose."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if "Traceback" in text else text


def _parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, flags.FlagValues]:
    """The config and the other flags; a set of flags of its own, apart from those of the runs."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Config of the run.", flag_values=values)
    flags.DEFINE_bool("decode", False, "Decode every file.", flag_values=values)
    flags.DEFINE_enum("split", None, ["train", "held_out"], "Which data.", flag_values=values)
    argv, of_classes = configs.take_class_flags(configs.locate(argv))
    before, sys.argv = sys.argv, list(argv)  # the config's flag looks there for its overrides
    try:
        rest = values(argv)
    finally:
        sys.argv = before
    if len(rest) > 1:
        raise ValueError(f"unexpected {rest[1]!r}; everything is set by --flags")
    if values.config is None:
        raise ValueError("--config is missing, e.g. --config=configs/restore.py:nafnet,5d")
    configs.set_class_flags(values.config, of_classes)
    return values.config, values


if __name__ == "__main__":
    sys.exit(main())
