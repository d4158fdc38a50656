"""Command line: `python -m dcpt_jax.main --config=configs/pretrain.py --workdir=W`."""

import itertools
import logging
import os
import runpy
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from dcpt_jax import config as configs
from dcpt_jax import extras, plugins
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.devices import start_devices
from dcpt_jax.host_memory import start_with_huge_pages
from dcpt_jax.modes import MODES

with extras.needed("train", "training and evaluation"):
    from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File in configs/, e.g. configs/pretrain.py[:preset].", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, weights, TensorBoard files, tables."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes on a cluster that JAX knows: Slurm, TPU pods."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Elsewhere: address and port of process 0, e.g. 10.0.0.1:1234."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_HELP = {"-h", "-help", "--help"}
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the program an error arose.")


def main(argv: Sequence[str]) -> None:
    """Runs what the config says; errors of use end in one message, not in a traceback."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected {argv[1]!r}; everything is set by --flags")
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            raise app.UsageError(
                f"--{name} is missing, e.g. --config=configs/pretrain.py --workdir=runs/pretrain"
            )
    _set_up_logging()
    try:
        _join_processes(_CONFIG.value.mode)
        start_devices()
        run(_CONFIG.value, _WORKDIR.value)
    except (ValueError, OSError, FloatingPointError, RuntimeError, ImportError) as error:
        if _TRACEBACK.value:
            raise
        print(f"error: {error}", file=sys.stderr)
        _end(1)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        _end(130)
    except Exception:
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        _end(1)


def _end(code: int) -> None:
    """Ends this process, and so the others that train with it.

    An orderly end would first wait for the others, for minutes: they are in the middle of a step
    that waits for this one.
    """
    if _is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_one_of_several() -> bool:
    return _DISTRIBUTED.value or _COORDINATOR.value is not None


def run(config, workdir: str) -> None:
    """Dispatches on the config's mode.

    Args:
        config: see `dcpt_jax.config`.
        workdir: where everything is written.
    """
    if MODES[config.mode].trains:
        from dcpt_jax.train import loop, processes

        processes.say(f"workdir: {workdir}")
        loop.train(config, workdir)
    else:
        print(f"workdir: {workdir}", flush=True)
        from dcpt_jax.evaluate import run as evaluation

        evaluation.evaluate(config, workdir)


def _join_processes(mode: str) -> None:
    """Makes this process one of several if the flags say that it is."""
    given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not _DISTRIBUTED.value and given == (None, None, None):
        return
    if not MODES[mode].trains:
        raise ValueError("evaluation is the work of one process: leave the flags of several out")
    if not _DISTRIBUTED.value and None in given:
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id belong together: set all "
            "three, or --distributed on a cluster that JAX knows"
        )
    from dcpt_jax.train import processes

    processes.initialise(*given)


def parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parses the command line; an unknown config key or preset lists the known ones and ends."""
    wants_help = bool(_HELP & set(argv[1:]))
    argv = configs.locate([arg for arg in argv if arg not in _HELP])
    argv, of_classes = configs.take_class_flags(argv)
    sys.argv = argv  # the config's flag looks there for what it overrides
    try:
        others = flags.FLAGS(argv)
        config = _CONFIG.value
        if config is not None:
            plugins.load(config.plugins)  # raises if there is no such config file
        if of_classes and config is not None:
            configs.set_class_flags(config, of_classes)
        if wants_help:
            print(_usage() if config is None else "\n".join(_keys(config)))
            sys.exit(0)
        return others
    except (flags.Error, AttributeError, KeyError, ValueError, OSError) as error:
        message = _explain(argv) or str(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _usage() -> str:
    """What `--help` prints: stages, presets and flags."""
    stages = [f"  {path:<25} {line}" for path, line in configs.summaries().items()]
    own = (_CONFIG, _WORKDIR, _DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _TRACEBACK)
    return "\n".join(
        [
            "usage: python -m dcpt_jax.main --config=FILE[:PRESET] --workdir=DIR "
            "[--config.KEY=VALUE ...]\n",
            "FILE is one of these stages, or a file of your own like them:",
            *stages,
            "\nPRESET is a backbone, a task set or class, or both: nafnet,5d. Without one: the "
            "small demo.",
            f"  backbones                 {' '.join(configs.BACKBONES)}",
            f"  task sets                 {' '.join(task_sets.TASK_SETS)}",
            f"  classes                   {' '.join(task_sets.class_names())}",
            "\nKEY: --config=FILE[:PRESET] --help lists the keys of a stage with their values.",
            "\nFlags:",
            *(f"  --{one.name:<23} {flags.FLAGS[one.name].help}" for one in own),
        ]
    )


def _keys(node: Any, path: str = "config") -> Iterator[str]:
    """The keys of a config with their values, as they would be written on a command line."""
    for name, value in node.items():
        if hasattr(value, "items"):
            yield from _keys(value, f"{path}.{name}")
        else:
            yield f"--{path}.{name}={shlex.quote(str(value))}"


def _explain(argv: Sequence[str]) -> str:
    """Which `--config.a.b` of the command line does not exist, and what would."""
    values = {}
    for arg, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        if arg.startswith("--"):
            name, equals, value = arg.lstrip("-").partition("=")
            values[name] = value if equals else following
    path, _, preset = values.get("config", "").partition(":")
    if not Path(path).is_file():
        return f"there is no config file {path!r}" if path else ""
    try:
        config = runpy.run_path(path)["get_config"](preset)
    except ValueError as error:
        return str(error)
    for key in (name for name in values if name.startswith("config.")):
        node = config
        for depth, part in enumerate(key.split(".")[1:], start=1):
            known = sorted(node.keys()) if hasattr(node, "keys") else []
            if part not in known:
                above = ".".join(key.split(".")[:depth])
                return f"unknown key --{key}; known in {above}: {', '.join(known) or 'nothing'}"
            node = node[part]
    return ""


def _set_up_logging() -> None:
    """Warnings of this package go to the terminal, the libraries' chatter does not."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    # Its threads log tracebacks of what is raised, and told, in the main one as well.
    handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    for name in ("orbax", "jax", "grain"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of the threads above
    sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python's own hook, except for what the storage's threads have to say after a failed write.

    Each file that was still to be written finds the loop of the writing closed, and tells so in a
    traceback: hundreds of them around the one message about the write that failed.
    """
    error = unraisable.exc_value
    if not isinstance(error, RuntimeError) or str(error) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    start_with_huge_pages("dcpt_jax.main", kept=True)
    app.run(main, flags_parser=parse_flags)
