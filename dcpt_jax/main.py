"""Command line: `python -m dcpt_jax.main --config=configs/pretrain.py --workdir=W`."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from dcpt_jax import extras
from dcpt_jax.command_line import OutputError, UsageError, guarded
from dcpt_jax.devices import DeviceError, start_devices
from dcpt_jax.files import expand_home
from dcpt_jax.interruption import Interruption
from dcpt_jax.modes import MODES

with extras.needed("train", "training and evaluation"):
    import ml_collections
    from absl import flags

    from dcpt_jax import logs
    from dcpt_jax.config import ConfigError
    from dcpt_jax.config import flags as config_flags

_SEVERAL = ("distributed", "coordinator_address", "num_processes", "process_id")
_HELP = {"-h", "-help", "--help"}
_ERRORS = (ValueError, FloatingPointError, RuntimeError, ImportError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; usage errors end in one message instead of a traceback.

    Returns:
        The exit status: 0, also if SIGTERM stopped a training after a save; 1 for an error, 2 for
        wrong use, 130 after Ctrl-C, also if it stopped a training after a save.
    """
    values = _flags()
    in_order = False  # whether this process ends together with the others

    def work(interruption: Interruption) -> int:
        nonlocal in_order
        status = _run(sys.argv if argv is None else argv, values, interruption)
        in_order = status in (0, interruption.status)
        return status

    status = guarded(work)
    if not in_order and any(values[name].value for name in _SEVERAL):
        sys.stderr.flush()
        os._exit(status)  # exit would wait for other processes, which wait for this one
    return status


def _flags() -> flags.FlagValues:
    """The flags, separate from absl's global ones, so that `main` can run again in a process."""
    values = flags.FlagValues()
    config_flags.define(values)
    flags.DEFINE_string(
        "workdir", None, "Directory for checkpoints, weights, logs and tables.", flag_values=values
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join several processes on a cluster that JAX detects.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "On other clusters: address and port of process 0.",
        flag_values=values,
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Print the traceback of errors.", flag_values=values)
    return values


def _run(argv: Sequence[str], values: flags.FlagValues, interruption: Interruption) -> int:
    try:
        remaining = config_flags.parse(
            [argument for argument in argv if argument not in _HELP], values
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if _HELP & set(argv):
        names = ("config", "workdir", *_SEVERAL, "traceback")
        usage = [config_flags.usage(values, names)]
        print("\n".join(usage if values.config is None else config_flags.keys(values.config)))
        return 0
    if remaining:
        raise UsageError(f"unexpected argument {remaining[0]!r}; use --FLAG=VALUE")
    for name in ("config", "workdir"):
        if not values[name].value:
            raise UsageError(
                f"--{name} is missing, e.g. --config=configs/pretrain.py --workdir=runs/pretrain"
            )
    logs.quiet_libraries()
    try:
        several = [values[name].value for name in _SEVERAL]
        finished = run(values.config, expand_home(values.workdir), several, interruption)
        return 0 if finished or interruption.signal == "SIGTERM" else interruption.status
    except KeyboardInterrupt:
        if MODES[values.config.mode].trains:
            print("the same command continues from the last checkpoint, if any", file=sys.stderr)
        raise
    except Exception as error:
        if isinstance(error, (UsageError, DeviceError, OutputError)):
            raise
        if values.traceback or not isinstance(error, _ERRORS):
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        return 1


def run(
    config: ml_collections.ConfigDict,
    workdir: str,
    several: Sequence[Any],
    interruption: Interruption,
) -> bool:
    """Trains or evaluates, by the mode of a config; writes everything to `workdir`.

    `several` holds the values of the flags for several processes, the arguments of
    `processes.join`.

    Returns:
        False if a signal stopped the training before its last step.
    """
    if MODES[config.mode].trains:
        from dcpt_jax.train import loop, processes

        interruption.check()
        processes.join(*several)
        start_devices()
        processes.say(f"workdir: {workdir}")
        return loop.train(config, workdir).finished
    from dcpt_jax.evaluate import run as evaluation

    interruption.check()
    if any(value not in (None, False) for value in several):
        raise ValueError("evaluation runs in a single process: remove the flags for several")
    print(f"workdir: {workdir}", flush=True)
    evaluation.evaluate(config, workdir)
    return True


if __name__ == "__main__":
    sys.exit(main())
