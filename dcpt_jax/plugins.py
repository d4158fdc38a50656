"""Modules of a user's own that take part in a run: `config.plugins`, docs/extending.md."""

import importlib
import os
import sys


def load(names: str) -> None:
    """Imports modules, joined by commas, which then register what they define; each runs once."""
    modules = [name.strip() for name in names.split(",") if name.strip()]
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # worker processes are given the path, too
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # something that it imports
            raise ValueError(
                f"config.plugins: there is no module {name!r} in {os.getcwd()} or among the "
                "installed packages"
            ) from error
