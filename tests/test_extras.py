import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dcpt_jax import extras

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
EVERYTHING = [*PROJECT["dependencies"], *itertools.chain.from_iterable(OPTIONAL.values())]
# Import names of packages that the core does without. Flax depends on optax and installs it.
NOT_IN_CORE = (
    *("array_record", "clu", "grain", "ml_collections", "pywt", "skimage", "sklearn"),
    *("matplotlib", "optax", "tensorboard", "tensorflow_datasets"),
)


def run_with_core_only(code):
    """Runs Python text where only the packages of the core can be imported."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({NOT_IN_CORE}))"
    return subprocess.run(
        [sys.executable, "-c", f"{hidden}\n{code}"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_missing_package_names_its_extra():
    with (
        pytest.raises(extras.MissingExtraError) as caught,
        extras.needed("probe", "the picture", instead="leave --picture out"),
    ):
        import no_such_package  # noqa: F401
    assert str(caught.value) == (
        "the picture needs the extra \"probe\" (No module named 'no_such_package'): "
        'pip install "dcpt_jax[probe]", or in a clone pip install -e ".[probe]"; '
        "or leave --picture out"
    )


def test_the_innermost_extra_is_named():
    with (
        pytest.raises(ImportError, match='needs the extra "tfds"'),
        extras.needed("train", "outer"),
        extras.needed("tfds", "inner"),
    ):
        raise ModuleNotFoundError("tensorflow_datasets")


def test_the_core_needs_no_extra():
    done = run_with_core_only(
        "import dcpt_jax, dcpt_jax.convert.command, dcpt_jax.restore.command\n"
        "import dcpt_jax.inspect.command, dcpt_jax.data.classes\n"
        "[getattr(dcpt_jax, name) for name in dcpt_jax.__all__]\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["main", "config", "train.loop", "evaluate.run", "data.check"])
def test_training_without_its_extra(module):
    done = run_with_core_only(f"import dcpt_jax.{module}")
    assert done.returncode != 0
    assert 'needs the extra "train"' in done.stderr.splitlines()[-1], done.stderr


def test_every_extra_that_code_names_exists():
    named = {
        name
        for path in (ROOT / "dcpt_jax").rglob("*.py")
        for name in re.findall(r'extras\.needed\(\s*"(\w+)"', path.read_text())
    }
    assert {"train", "tfds"} <= named <= set(OPTIONAL)


def imported_distributions():
    """Distributions that the package imports, by the file that does."""
    names = packages_distributions()
    found = {}
    for path in (ROOT / "dcpt_jax").rglob("*.py"):
        for module in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE):
            for distribution in names.get(module, ()):
                found[canonicalize_name(distribution)] = path
    return found


def test_every_import_is_a_declared_dependency():
    declared = {canonicalize_name(Requirement(line).name) for line in EVERYTHING}
    indirect = {"absl-py", "ml-dtypes"}  # dependencies of orbax-checkpoint and of jax
    undeclared = {
        name: str(path)
        for name, path in imported_distributions().items()
        if name not in declared | indirect and name != "dcpt-jax"
    }
    assert not undeclared


def lines_of(file):
    lines = (ROOT / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_are_those_of_the_project():
    declared = [
        *PROJECT["dependencies"],
        *(r for e in ("train", "tfds", "cuda12") for r in OPTIONAL[e]),
    ]
    found = lines_of("requirements.txt")
    assert {str(Requirement(line)) for line in found} == {str(Requirement(d)) for d in declared}
    assert len(found) == len(set(found))


def test_constraints_meet_the_requirements():
    """Each requirement has an exact version for every Python that is claimed, within its bounds."""
    pins = {}
    for line in lines_of("constraints.txt"):
        pin = Requirement(line)
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    for requirement in map(Requirement, EVERYTHING):
        if canonicalize_name(requirement.name) == "dcpt-jax":
            continue
        for minor in ("3.11", "3.12", "3.13"):
            python = {"python_version": minor, "python_full_version": f"{minor}.5"}
            linux = {**python, "sys_platform": "linux"}
            versions = [
                next(iter(pin.specifier)).version
                for pin in pins.get(canonicalize_name(requirement.name), [])
                if pin.marker is None or pin.marker.evaluate(linux)
            ]
            assert len(versions) == 1, (requirement.name, minor, versions)
            assert requirement.specifier.contains(versions[0]), (str(requirement), versions)


def test_the_version_is_written_once():
    assert "version" in PROJECT["dynamic"]
    spec = importlib.util.find_spec("dcpt_jax")
    assert (
        len(re.findall(r'^__version__ = "\d+\.\d+\.\d+"$', Path(spec.origin).read_text(), re.M))
        == 1
    )
