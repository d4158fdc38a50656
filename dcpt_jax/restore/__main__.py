"""Entry of `python -m dcpt_jax.restore`."""

import sys

from dcpt_jax.restore.command import main

if __name__ == "__main__":
    sys.exit(main())
