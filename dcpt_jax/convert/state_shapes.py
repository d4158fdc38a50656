"""What names and shapes of a state dict tell: numbers of blocks, sizes, expansion factors.

A damaged state dict should still be recognised as what it was meant to be, so that what is wrong
with it can be listed. So everything here goes by as many names as there are and not by one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from dcpt_jax.convert.messages import printable

StateDict = Mapping[str, np.ndarray]


def count_numbered(state: StateDict, pattern: str) -> int:
    """How many parts a pattern's one group numbers in the names: one more than the highest number.

    Raises:
        ValueError: if most numbers up to the highest are missing, so that no damage explains it.
    """
    found = {int(match[1]): match[0] for name in state if (match := re.match(pattern, name))}
    count = max(found, default=-1) + 1
    if count > 2 * len(found):
        raise ValueError(
            f"the number in '{printable(found[count - 1])}' is too high: there are {len(found)} "
            "such parts"
        )
    return count


def any_matches(state: StateDict, pattern: str) -> bool:
    """Whether the pattern matches the beginning of a name."""
    return any(re.match(pattern, name) for name in state)


def size_of(state: StateDict, what: str, *places: tuple[str, int]) -> int:
    """A size that stands in several shapes, from the first that is there.

    Args:
        state: name -> array.
        what: what it is the size of, for the message.
        *places: (name, axis) to look at, in this order.

    Raises:
        ValueError: if none of these names is there with such an axis.
    """
    for name, axis in places:
        if name in state and state[name].ndim > axis:
            return int(state[name].shape[axis])
    raise ValueError(
        f"{what} cannot be determined: missing {', '.join(name for name, _ in places)}"
    )


def expansion_factor(pairs: Iterable[tuple[int, int]], default: float) -> float:
    """The factor by which hidden layers are wider, hidden = int(channels * factor).

    Many decimals give the same widths. Of those that explain the most layers, it is the default if
    that is among them, else the one with the fewest digits, else the smallest.

    Args:
        pairs: (channels, hidden channels) of each layer; channels > 0.
        default: the factor of the published network.
    """
    layers = dict(Counter(pairs).most_common(32))  # real networks have a handful of widths
    # If any factor with so many digits fits some layers, then also the smallest such factor, which
    # is hidden / channels of one of them, rounded up.
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
