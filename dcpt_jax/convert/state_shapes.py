"""Infers numbers of blocks, sizes and expansion factors from names and shapes of a state dict.

An incomplete state dict must still be recognised, so that the missing parts can be listed. So
nothing here depends on a single name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from dcpt_jax.convert.messages import printable

StateDict = Mapping[str, np.ndarray]


def count_numbered(state: StateDict, pattern: str) -> int:
    """Number of parts, by the highest number that the group of a pattern matches in the names.

    Raises:
        ValueError: if most of the lower numbers are missing.
    """
    names = {int(match[1]): match[0] for name in state if (match := re.match(pattern, name))}
    count = max(names, default=-1) + 1
    if count > 2 * len(names):
        raise ValueError(
            f"the number in '{printable(names[count - 1])}' is too high: there are {len(names)} "
            "such parts"
        )
    return count


def any_matches(state: StateDict, pattern: str) -> bool:
    """Whether a name begins with the pattern."""
    return any(re.match(pattern, name) for name in state)


def size_of(state: StateDict, size_name: str, *axes: tuple[str, int]) -> int:
    """The size of an axis, from the first of several arrays that exists.

    Args:
        state: name -> array.
        size_name: name of the size, for the error message.
        *axes: (name, axis) in order of preference.

    Raises:
        ValueError: if there is no such array.
    """
    for name, axis in axes:
        if name in state and state[name].ndim > axis:
            return int(state[name].shape[axis])
    raise ValueError(
        f"{size_name} cannot be determined: missing {', '.join(name for name, _ in axes)}"
    )


def expansion_factor(pairs: Iterable[tuple[int, int]], default: float) -> float:
    """The factor in hidden = int(channels * factor).

    Many factors give the same widths. Of those that fit the most layers, this is the default if
    possible, else the one with the fewest digits, else the smallest.

    Args:
        pairs: (channels, hidden channels) of each layer; channels > 0.
        default: factor of the published network.
    """
    layers = dict(Counter(pairs).most_common(32))  # real networks have few widths
    # If a factor with that many digits fits some layers, so does the smallest such factor, which is
    # hidden / channels of one of them, rounded up.
    candidates = {(0, float(default))} | {
        (1 + digits, -(-hidden * 10**digits // channels) / 10**digits)
        for channels, hidden in layers
        for digits in range(7)
    }

    def merit(candidate: tuple[int, float]) -> tuple[int, int, float]:
        digits, factor = candidate
        explained = sum(n for (c, hidden), n in layers.items() if int(c * factor) == hidden)
        return -explained, digits, factor

    return min(candidates, key=merit)[1]
