"""Entry of `python -m dcpt_jax.convert`."""

import sys

from dcpt_jax.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
