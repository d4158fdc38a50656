"""Entry of `python -m dcpt_jax.restore`."""

import sys

from dcpt_jax.host_memory import start_with_kept_memory

if __name__ == "__main__":
    start_with_kept_memory("dcpt_jax.restore")
    from dcpt_jax.restore.command import main

    sys.exit(main())
