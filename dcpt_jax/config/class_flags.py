"""Flags for values of one class: `--config.repeats.low_light+haze=3`.

A name like "low_light+haze" is not allowed in a flag of ml_collections, which parses flags as
Python expressions, and its key does not exist before the flag that selects the classes has been
read. So these flags are removed from the command line and set once the config exists.
"""

import dataclasses
import re
from collections.abc import Sequence

import ml_collections

from dcpt_jax.config.checks import CLASS_SECTIONS
from dcpt_jax.config.keys import ConfigError
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.suggestions import did_you_mean

_FLAG = re.compile(
    rf"--?config\.({'|'.join(map(re.escape, CLASS_SECTIONS))})\.([^\[=][^=]*)(?:=(.*))?", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class ClassFlag:
    """A flag for one class."""

    section: str  # section of the config, "repeats" or "data.sources"
    name: str  # name of the class, as written
    value: str  # as written


def take_class_flags(argv: Sequence[str]) -> tuple[list[str], list[ClassFlag]]:
    """Splits a command line into (arguments for absl, flags for single classes)."""
    remaining, class_flags = [], []
    arguments = iter(argv)
    for argument in arguments:
        match = _FLAG.fullmatch(argument)
        if match is None:
            remaining.append(argument)
            continue
        section, name, value = match.groups()
        class_flags.append(
            ClassFlag(section, name, next(arguments, "") if value is None else value)
        )
    return remaining, class_flags


def set_class_flags(config: ml_collections.ConfigDict, class_flags: Sequence[ClassFlag]) -> None:
    """Sets these flags in a config, in order, adding keys that do not exist yet."""
    for flag in class_flags:
        try:
            section = config
            for part in flag.section.split("."):
                section = section[part]
        except KeyError:
            raise ConfigError(
                f"unknown key --config.{flag.section}.{flag.name}: {config.mode} has no "
                f"config.{flag.section}"
            ) from None
        name = task_sets.class_named(flag.name)
        if name is None:
            raise ConfigError(
                f"unknown key --config.{flag.section}.{flag.name}; known in "
                f"config.{flag.section}: {', '.join(sorted(section))}, and mixtures of them such "
                "as low_light+haze (for a class of your own see docs/extending.md)"
                + did_you_mean(flag.name, section)
            )
        try:
            value = CLASS_SECTIONS[flag.section](flag.value)
        except ValueError:
            raise ConfigError(
                f"config.{flag.section}.{flag.name} is {flag.value!r}; it must be an integer"
            ) from None
        with section.unlocked():
            section[name] = value
