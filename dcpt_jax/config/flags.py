"""The flags of commands that take a config: `--config=FILE[:PRESET] --config.KEY=VALUE ...`.

Flags for values of one class, such as `--config.repeats.low_light+haze=3`, are set here, once the
config exists. ml_collections cannot set them: it parses names of flags as Python expressions, and
the key may not exist before.
"""

import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import flags

from dcpt_jax import extras, plugins
from dcpt_jax.config.checks import CLASS_SECTIONS
from dcpt_jax.config.keys import ConfigError
from dcpt_jax.config.presets import BACKBONES
from dcpt_jax.config.recipes import locate, summaries
from dcpt_jax.data import tasks as task_sets
from dcpt_jax.files import expand_home
from dcpt_jax.suggestions import did_you_mean

with extras.needed("train", "training and evaluation"):
    from ml_collections import config_flags

# Section, name and value in a flag for one class; the name as written, such as "l+h".
_CLASS_FLAG = re.compile(
    rf"--config\.({'|'.join(map(re.escape, CLASS_SECTIONS))})\.([^\[=][^=]*)=(.*)", re.DOTALL
)


class _IntegerParser(flags.IntegerParser):
    """Parses integers, which may be written as 1e3."""

    def convert(self, argument: int | str) -> int:
        """The integer; ValueError for other texts."""
        exponent = re.fullmatch(r"-?\d+(\.\d+)?[eE]\+?\d{1,2}", str(argument))
        if exponent and float(argument).is_integer():
            return int(float(argument))
        return super().convert(argument)


def define(values: flags.FlagValues) -> None:
    """Defines `--config`."""
    config_flags.register_flag_parser_for_type(int, _IntegerParser())
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, e.g. configs/pretrain.py[:preset].",
        lock_config=True,
        flag_values=values,
    )


def parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Parses a command line into `values.config`, None without `--config`; returns other arguments.

    If a flag is repeated the last one counts, also for tuples. In all values `~` is the home
    folder, and integers may be written as `1e3`.

    Raises:
        ConfigError: saying in one sentence what is wrong, and which values are allowed.
    """
    before = sys.argv
    try:
        argv = [_without_brackets(argument) for argument in _with_equals(locate(argv))]
        of_classes = [match.groups() for one in argv if (match := _CLASS_FLAG.fullmatch(one))]
        argv = _last_of_each([one for one in argv if not _CLASS_FLAG.fullmatch(one)])
        sys.argv = list(argv)  # the config flag reads its overrides from there
        remaining = values(argv)
        given = _values_of(argv)
        if "config.mode" in given:
            raise ConfigError("--config.mode cannot be set: --config=FILE chooses the stage")
        if values.config is None and "config" in given:
            raise ConfigError("")
        if values.config is not None:
            plugins.load(values.config.plugins)  # raises if there is no such config file
            for flag in of_classes:
                _set_class_flag(values.config, *flag)
            _expand_home(values.config)
    except Exception as error:  # a user's config file may raise anything
        raise ConfigError(_explain(argv, values) or _last_line(error)) from error
    finally:
        sys.argv = before
    return list(remaining[1:])


def usage(values: flags.FlagValues, names: Sequence[str]) -> str:
    """The text of `--help`: stages, presets and flags."""
    return "\n".join(
        [
            "usage: python -m dcpt_jax.main --config=FILE[:PRESET] --workdir=DIR "
            "[--config.KEY=VALUE ...]\n",
            "FILE is one of these stages, or your own file:",
            *(f"  {path:<25} {line}" for path, line in summaries().items()),
            "\nPRESET is a backbone, a task set or class, or both: nafnet,5d (default: the small "
            "demo).",
            f"  backbones                 {' '.join(BACKBONES)}",
            f"  task sets                 {' '.join(task_sets.TASK_SETS)}",
            f"  classes                   {' '.join(task_sets.class_names())}",
            "\nKEY: --config=FILE[:PRESET] --help lists the keys of a stage with their values.",
            "\nFlags:",
            *(f"  --{name:<23} {values[name].help}" for name in names),
        ]
    )


def keys(config: ml_collections.ConfigDict, path: str = "config") -> Iterator[str]:
    """The keys of a config with their values, in the syntax of the command line."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from keys(value, f"{path}.{name}")
        else:
            yield f"--{path}.{name}={shlex.quote(str(value))}"


def _with_equals(argv: Sequence[str]) -> list[str]:
    """Writes `--config.KEY VALUE` and `-config.KEY=VALUE` as `--config.KEY=VALUE`."""
    result: list[str] = []
    for argument in argv:
        before = result[-1] if result else ""
        if re.fullmatch(r"--config\.[^=]+", before) and not argument.startswith("--"):
            result[-1] = f"{before}={argument}"
        else:
            result.append(re.sub(r"^-(?=config\.)", "--", argument))
    return result


def _without_brackets(argument: str) -> str:
    """Removes brackets and quotes from the list of tasks, if this is its flag."""
    name, _, value = argument.partition("=")
    if name != "--config.tasks":
        return argument
    value = re.sub(r"\s*,\s*", ",", re.sub(r"[\[\]()'\"]", "", value).strip())
    return f"{name}={value}"


def _last_of_each(argv: Sequence[str]) -> list[str]:
    """Removes flags that a later `--config.KEY=VALUE` overrides; tuples would be concatenated."""
    names = [
        argument.partition("=")[0] if argument.startswith("--config.") and "=" in argument else ""
        for argument in argv
    ]
    last = {name: position for position, name in enumerate(names)}
    return [
        argument
        for position, (name, argument) in enumerate(zip(names, argv, strict=True))
        if not name or last[name] == position
    ]


def _set_class_flag(config: ml_collections.ConfigDict, path: str, name: str, text: str) -> None:
    """Sets the value of one class in the section `path`, adding a key that does not exist yet."""
    try:
        section = config
        for part in path.split("."):
            section = section[part]
    except KeyError:
        raise ConfigError(
            f"unknown key --config.{path}.{name}: {config.mode} has no config.{path}"
        ) from None
    class_name = task_sets.class_named(name)
    if class_name is None:
        raise ConfigError(
            f"unknown key --config.{path}.{name}; known in config.{path}: "
            f"{', '.join(sorted(section))}, and mixtures of them such as low_light+haze (for a "
            f"class of your own see docs/extending.md){did_you_mean(name, section)}"
        )
    try:
        value = text if CLASS_SECTIONS[path] is str else _IntegerParser().convert(text)
    except ValueError:
        raise ConfigError(f"config.{path}.{name} is {text!r}; it must be an integer") from None
    with section.unlocked():
        section[class_name] = value


def _expand_home(config: ml_collections.ConfigDict) -> None:
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            _expand_home(value)
        elif isinstance(value, str):
            config[name] = expand_home(value)


def _explain(argv: Sequence[str], known_flags: Container[str]) -> str:
    """Names the flag of the command line that does not exist, with similar ones."""
    values = _values_of(argv)
    if "config" not in values:
        return "--config=FILE is missing, e.g. --config=configs/pretrain.py"
    path, _, preset = values["config"].partition(":")
    if not Path(path).is_file():
        known = summaries()
        near = f"configs/{path}.py"
        return f"no such config file: {path!r}" + did_you_mean(
            near if near in known else path, known
        )
    try:
        config = runpy.run_path(path).get("get_config", lambda _: None)(preset)
        if not isinstance(config, ml_collections.ConfigDict) or "plugins" not in config:
            return f"{path} must have a function get_config that calls dcpt_jax.config.base(MODE)"
    except ValueError as error:
        return str(error)
    except Exception as error:  # a user's config file may raise anything
        return f"{path}: {type(error).__name__}: {_last_line(error)}"
    for key in (name for name in values if name.startswith("config.")):
        node = config
        for depth, part in enumerate(key.split(".")[1:], start=1):
            known = sorted(node.keys()) if hasattr(node, "keys") else []
            name, bracket, _ = part.partition("[")
            if bracket and name in known and not hasattr(node[name], "keys"):
                full_key = ".".join([*key.split(".")[:depth], name])
                return f"--{key}: set all elements, --{full_key}={shlex.quote(str(node[name]))}"
            if part not in known:
                section = ".".join(key.split(".")[:depth])
                return (
                    f"unknown key --{key}; known in {section}: {', '.join(known) or 'nothing'}"
                    + did_you_mean(part, known, f"--{section}.")
                )
            node = node[part]
        if hasattr(node, "keys"):
            within = ", ".join(f"--{key}.{name}" for name in sorted(node.keys()))
            return f"--{key} is a section; set its keys: {within or 'it has none'}"
    for name in values:
        if not name.startswith("config.") and name not in known_flags:
            end = "." + name.rpartition(".")[2].replace("-", "_")
            flags_of_keys = (line.partition("=")[0] for line in keys(config))
            similar = next((flag for flag in flags_of_keys if flag.endswith(end)), "")
            return f"unknown flag --{name}" + (f"; did you mean {similar}?" if similar else "")
    return ""


def _values_of(argv: Sequence[str]) -> dict[str, str]:
    """Flag -> value of a command line."""
    values = {}
    for arg, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        if re.match(r"--?[a-zA-Z]", arg):  # unlike -1, a value
            name, equals, value = arg.lstrip("-").partition("=")
            values[name] = value if equals else following
    return values


def _last_line(error: BaseException) -> str:
    """The text of an error; for an error in a config file without its location."""
    text = str(error).strip()
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not an integer", text)
    text = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", text)
    text = re.sub(r"\('Non-boolean .*?', (.*)\)", r"\1 is neither True nor False", text)
    return text.splitlines()[-1].partition(": ")[2] if "Traceback" in text else text
