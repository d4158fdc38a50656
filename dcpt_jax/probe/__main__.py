"""Entry of `python -m dcpt_jax.probe`."""

import sys

from dcpt_jax.probe.command import main

if __name__ == "__main__":
    sys.exit(main())
