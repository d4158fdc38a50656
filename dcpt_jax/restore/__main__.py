"""Entry of `python -m dcpt_jax.restore`."""

import sys

from dcpt_jax.host_memory import keep_freed_memory
from dcpt_jax.restore.command import main

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
