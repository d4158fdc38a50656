"""Access to the files in `configs/`, in a clone or in the installed package."""

import ast
import runpy
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from dcpt_jax.config.keys import ConfigError
from dcpt_jax.files import expand_home


def folder() -> Path:
    """The folder of config files: inside an installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def load(name: str, preset: str = "") -> ml_collections.ConfigDict:
    """The config of one of these files: `load("restore", "nafnet,5d")`.

    Raises:
        ConfigError: if there is no such file, or the preset is unknown; lists the known ones.
    """
    known = {path.stem: path for path in folder().glob("*.py")}
    if name not in known:
        raise ConfigError(f"unknown config {name!r}; known: {', '.join(sorted(known))}")
    return runpy.run_path(str(known[name]))["get_config"](preset)


def summaries() -> dict[str, str]:
    """First docstring line of each config file, by path: {"configs/pretrain.py": ...}."""
    lines = {}
    for path in sorted(folder().glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines[f"configs/{path.name}"] = text.partition("\n")[0]
    return lines


def locate(argv: Sequence[str]) -> list[str]:
    """Makes `--config=configs/pretrain.py` find the package's file outside a clone.

    An existing file in the working directory takes precedence. In other paths `~` is the home
    folder.
    """
    result, before = [], ""
    for argument in argv:
        flag, value = "", argument
        if argument.startswith(("--config=", "-config=")):
            flag, _, value = argument.partition("=")
            flag += "="
        if flag or before in ("--config", "-config"):
            path, colon, preset = expand_home(value).partition(":")
            packaged = folder() / Path(path).name
            is_named_so = Path(path) == Path("configs", packaged.name)
            if is_named_so and not Path(path).exists() and packaged.is_file():
                path = str(packaged)
            value = f"{path}{colon}{preset}"
        result.append(flag + value)
        before = argument
    return result
