"""User modules that extend a run: `config.plugins`, see docs/extending.md."""

import importlib
import os
import sys


def load(names: str) -> None:
    """Imports modules, given as names joined by commas, which register their definitions."""
    modules = [name.strip() for name in names.split(",") if name.strip()]
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # worker processes inherit the path
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # a failed import inside the module
            raise ValueError(
                f"config.plugins: there is no module {name!r} in {os.getcwd()} or among the "
                "installed packages"
            ) from error
