"""Entry of `python -m dcpt_jax.restore`."""

import sys

from dcpt_jax.host_memory import start_with_huge_pages

if __name__ == "__main__":
    start_with_huge_pages("dcpt_jax.restore", kept=False)
    from dcpt_jax.restore.command import main

    sys.exit(main())
