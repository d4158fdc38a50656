"""Entry of `python -m dcpt_jax.inspect`."""

import sys

from dcpt_jax.inspect.command import main

if __name__ == "__main__":
    sys.exit(main())
