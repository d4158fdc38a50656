"""Optional dependencies: the extras of `pyproject.toml`."""

import contextlib
from collections.abc import Iterator


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message names the extra."""


@contextlib.contextmanager
def needed(extra: str, purpose: str, *, instead: str = "") -> Iterator[None]:
    """Names the extra to install if an import in the `with` block fails.

        with extras.needed("probe", "the t-SNE picture"):
            from sklearn.manifold import TSNE

    Args:
        extra: of the imported packages, such as "train".
        purpose: what they are used for; starts the message.
        instead: an alternative for the user, such as "set --config.baselines=False".

    Raises:
        MissingExtraError: in place of an ImportError.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f'{purpose} needs the extra "{extra}" ({error}): pip install "dcpt_jax[{extra}]", or '
            f'in a clone pip install -e ".[{extra}]"' + (f"; or {instead}" if instead else "")
        ) from error
