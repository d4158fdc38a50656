"""Imports go one way, and the data side starts without JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dcpt_jax"

# Parts that are commands; `__main__` runs them by their names.
COMMANDS = {
    *("convert", "data", "data.check", "degradations", "inspect", "main", "probe", "restore"),
    "tables",
}

# A part may import the parts named here, and itself. `data.check` is a part of its own: the command
# that checks the data of a config, which nothing else imports.
ALLOWED = {
    "losses": set(),
    "plugins": set(),
    "metrics": set(),
    "precision": set(),
    "suggestions": set(),
    "files": set(),
    "interruption": set(),
    "images": {"files"},
    "degradations": {"command_line", "files", "images"},
    "models": set(),
    "data": {"command_line", "degradations", "extras", "files", "images"},
    "data.check": {
        *("command_line", "config", "data", "extras", "images", "interruption"),
        "modes",
    },
    "labels": {"data", "degradations"},
    "convert": {"command_line", "devices", "files", "labels", "models", "weights"},
    "weights": {"devices", "files", "labels", "models"},
    "config": {"data", "extras", "files", "labels", "modes", "plugins", "suggestions"},
    "train": {
        *("config", "data", "devices", "evaluate", "extras", "files", "images", "interruption"),
        *("labels", "logs", "losses", "metrics", "models", "modes", "precision", "weights"),
    },
    "evaluate": {
        *("config", "data", "devices", "extras", "files", "images", "inspect", "interruption"),
        *("labels", "metrics", "precision", "restore", "weights"),
    },
    "restore": {
        *("command_line", "convert", "devices", "files", "images", "inspect"),
        *("models", "modes", "weights"),
    },
    "inspect": {"command_line", "devices", "images", "models", "weights"},
    "probe": {
        *("command_line", "data", "degradations", "devices", "extras", "files"),
        *("images", "interruption", "models", "weights"),
    },
    "command_start": {"extras"},
    "command_line": {"devices", "files", "interruption", "suggestions"},
    "devices": set(),
    "extras": set(),
    "modes": set(),
    "tables": {"command_line", "evaluate"},
    "main": {
        *("command_line", "config", "devices", "evaluate", "extras", "files", "interruption"),
        *("logs", "modes", "train"),
    },
    "__main__": {"command_line", "extras", "suggestions", *COMMANDS},
    "logs": set(),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def part_of(module: str) -> str:
    own = module.removeprefix("dcpt_jax.")
    return own if own in ALLOWED else own.split(".")[0]


def imported_modules(module: str) -> set[str]:
    """Modules of this package that one imports, at its top or inside functions, or names in texts.

    A text that is exactly a module's name counts, since `importlib` and `runpy` take such.
    """
    path, names = FILES[module], []
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
            parts = [f"{source}.{alias.name}" for alias in node.names]
            names += [part if part in FILES else source for part in parts]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.append(node.value)
    return {name for name in names if name in FILES and name != "dcpt_jax"} - {module}


def forbidden_imports() -> dict[str, list[str]]:
    found = {}
    for module in FILES.keys() - {"dcpt_jax"}:
        parts = {part_of(name) for name in imported_modules(module)}
        if extra := parts - ALLOWED[part_of(module)] - {part_of(module)}:
            found[module] = sorted(extra)
    return found


def test_imports_go_one_way():
    assert not forbidden_imports()
    assert {part_of(module) for module in FILES if module != "dcpt_jax"} == set(ALLOWED)


@pytest.mark.parametrize(
    "statement",
    [
        "import runpy\nrunpy.run_module('dcpt_jax.config.checks', run_name='__main__')",
        "import importlib\ndef f():\n    return importlib.import_module('dcpt_jax.config')",
        "def f():\n    from dcpt_jax import config",
        "def f():\n    import dcpt_jax.config.keys as keys",
        "def f():\n    from ..config import keys",
    ],
)
def test_hidden_imports_are_seen(statement, tmp_path, monkeypatch):
    path = tmp_path / "mixing.py"
    path.write_text(statement)
    monkeypatch.setitem(FILES, "dcpt_jax.data.mixing", path)
    assert forbidden_imports() == {"dcpt_jax.data.mixing": ["config"]}


def test_no_module_imports_itself_through_others():
    """Neither inside functions nor by names in texts."""
    imports = {module: imported_modules(module) for module in FILES if module != "dcpt_jax"}
    while leaves := [module for module, names in imports.items() if not names & imports.keys()]:
        for module in leaves:
            del imports[module]
    assert not imports


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_the_data_side_does_not_load_jax():
    loaded = loaded_modules(
        "import dcpt_jax, dcpt_jax.data.pipeline, dcpt_jax.images, dcpt_jax.degradations, "
        "dcpt_jax.data.classes, dcpt_jax.data.held_out, dcpt_jax.data.check"
    )
    assert not loaded & {"jax", "flax", "optax", "orbax", "tensorflow"}


def test_training_does_not_load_tensorflow_torch_or_plotting():
    loaded = loaded_modules("import dcpt_jax.train.loop, dcpt_jax.evaluate.run")
    assert "jax" in loaded and "clu.metric_writers" in loaded
    assert not loaded & {"tensorflow", "torch", "matplotlib", "skimage", "sklearn"}


def test_using_a_network_loads_nothing_of_training():
    loaded = loaded_modules(
        "import dcpt_jax.inspect.inspector, dcpt_jax.inspect.command; "
        "import dcpt_jax.restore.predictor, dcpt_jax.restore.command, dcpt_jax.weights; "
        "import dcpt_jax.probe.command, dcpt_jax.probe.crops, dcpt_jax.probe.picture; "
        "from dcpt_jax.probe import features, knn_accuracy, tsne"
    )
    assert "jax" in loaded and not loaded & {"optax", "grain", "clu", "ml_collections"}
    assert not loaded & {"sklearn", "matplotlib"}


def test_public_names_resolve():
    import dcpt_jax

    for name in dcpt_jax.__all__:
        assert getattr(dcpt_jax, name) is not None
    assert set(dcpt_jax.__all__) <= set(dir(dcpt_jax))
