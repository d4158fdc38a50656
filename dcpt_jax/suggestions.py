"""Suggestions for mistyped names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The most similar known name as the end of an error message; "" if none is similar.

    >>> did_you_mean("batchsize", ["batch_size", "seed"], "--config.")
    '; did you mean --config.batch_size?'
    """
    folded = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(name.lower(), folded, 1)
    return f"; did you mean {prefix}{folded[matches[0]]}?" if matches else ""
