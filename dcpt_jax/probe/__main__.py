"""Entry of `python -m dcpt_jax.probe`."""

import sys

from dcpt_jax.command_line import guarded


def _import_and_run() -> int:
    from dcpt_jax.probe.command import main

    return main()


if __name__ == "__main__":
    sys.exit(guarded(lambda interruption: _import_and_run()))
