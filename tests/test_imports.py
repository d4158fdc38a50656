"""Imports go one way, and the data side starts without JAX."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "dcpt_jax"

# A part may import the parts named here, and itself.
ALLOWED = {
    "losses": set(),
    "metrics": set(),
    "precision": set(),
    "colour": set(),
    "image_headers": set(),
    "files": set(),
    "interruption": set(),
    "images": {"colour", "files", "image_headers"},
    "metadata": {"image_headers"},
    "photo": {"colour", "files", "image_headers", "images", "metadata"},
    "degradations": {"files"},
    "models": set(),
    "data": {"command_line", "degradations", "extras", "files", "images"},
    "convert": {"command_line", "files", "models", "weights"},
    "weights": {"models"},
    "config": {"data", "extras", "modes"},
    "train": {
        *("config", "data", "evaluate", "extras", "files", "images", "interruption", "losses"),
        *("metrics", "models", "modes", "precision", "weights"),
    },
    "evaluate": {
        *("config", "data", "extras", "files", "images", "metrics", "precision", "restore"),
        "weights",
    },
    "restore": {
        *("command_line", "convert", "host_memory", "images", "inspect", "metadata", "models"),
        *("photo", "weights"),
    },
    "inspect": {"command_line", "images", "models", "weights"},
    "probe": {
        *("command_line", "data", "degradations", "extras", "files", "images", "models"),
        "weights",
    },
    "command_line": {"files", "interruption"},
    "extras": set(),
    "modes": {"data"},
    "tables": {"command_line", "evaluate"},
    "data_check": {"config", "data", "extras", "modes"},
    "main": {"config", "data", "evaluate", "extras", "host_memory", "modes", "train"},
    "__main__": {"extras"},
    "host_memory": set(),
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Parts of this package that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("dcpt_jax.")}
    return found


def test_imports_go_one_way():
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    wrong = {
        str(path.relative_to(PACKAGE)): sorted(extra)
        for path in files
        if (extra := imported_parts(path) - ALLOWED[part_of(path)] - {part_of(path)})
    }
    assert not wrong
    assert {part_of(path) for path in files} == set(ALLOWED)


def test_only_training_and_configs_know_the_config():
    """Models, losses and degradations are usable without this project's configs."""
    for part in ("models", "losses", "metrics", "degradations", "data", "restore", "weights"):
        assert "config" not in ALLOWED[part]


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_the_data_side_does_not_load_jax():
    loaded = loaded_modules(
        "import dcpt_jax, dcpt_jax.data.pipeline, dcpt_jax.images, dcpt_jax.degradations, "
        "dcpt_jax.data.opening, dcpt_jax.data.held_out, dcpt_jax.data_check"
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
        "import dcpt_jax.probe.command, dcpt_jax.probe.photos, dcpt_jax.probe.picture; "
        "from dcpt_jax.probe import features, knn_accuracy, tsne"
    )
    assert "jax" in loaded and not loaded & {"optax", "grain", "clu", "ml_collections"}
    assert not loaded & {"sklearn", "matplotlib"}


def test_public_names_resolve():
    import dcpt_jax

    for name in dcpt_jax.__all__:
        assert getattr(dcpt_jax, name) is not None
    assert set(dcpt_jax.__all__) <= set(dir(dcpt_jax))
