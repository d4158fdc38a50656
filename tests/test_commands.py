import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dcpt_jax import __main__ as commands
from dcpt_jax import command_start

ROOT = Path(__file__).resolve().parents[1]
ENTRY = '\nif __name__ == "__main__":\n'


def dcpt_jax(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "dcpt_jax", *map(str, arguments)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_all_commands_are_listed(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dcpt-jax", *arguments])
    assert commands.main() == 0
    shown = capsys.readouterr().out
    for name, module, purpose in commands.COMMANDS:
        assert f"  {name} " in shown and f"python -m {module}\n" in shown and purpose in shown


def test_an_unknown_command_names_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dcpt-jax", "mend"])
    assert commands.main() == 2
    assert "unknown command 'mend'; known: train, evaluate" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["dcpt-jax", "restor"])
    assert commands.main() == 2
    assert capsys.readouterr().err.endswith("; did you mean restore?\n")


def is_command(module):
    spec = find_spec(module)
    if spec.submodule_search_locations:
        return find_spec(f"{module}.__main__") is not None
    return ENTRY in Path(spec.origin).read_text()


def test_every_command_is_a_module_that_runs():
    for name, module, _ in commands.COMMANDS:
        assert is_command(module), name


def test_every_module_that_runs_is_a_command():
    package = Path(commands.__file__).parent
    modules = set()
    for path in package.rglob("*.py"):
        if ENTRY in path.read_text():
            parts = path.relative_to(package.parent).with_suffix("").parts
            modules.add(".".join(parts).removesuffix(".__main__"))
    assert modules - {"dcpt_jax"} == {m for _, m, _ in commands.COMMANDS}


def test_arguments_and_exit_status_pass_through(tmp_path):
    done = dcpt_jax("pack", tmp_path / "gone", "--output", tmp_path / "packed")
    assert done.returncode == 2
    assert (
        done.stderr == f"error: {tmp_path}/gone does not exist: name a folder of photos, or "
        "another source, see --help\n"
    )
    shown = dcpt_jax("pack", "--help")
    assert shown.returncode == 0 and "python -m dcpt_jax.data.pack SOURCE" in shown.stdout


def test_a_missing_extra_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dcpt-jax", "train"])
    monkeypatch.delitem(sys.modules, "dcpt_jax.config", raising=False)
    monkeypatch.setitem(sys.modules, "ml_collections", None)
    assert commands.main() == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and 'the extra "train"' in shown
    assert len(shown.splitlines()) == 1


def test_importing_the_list_loads_nothing_else():
    code = "import sys, dcpt_jax.__main__; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not {"numpy", "jax", "absl"} & set(done.stdout.split())


# Sends a signal to its own process at the first import of `command_line`, as all commands do.
SITE = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "dcpt_jax.command_line":
            os.kill(os.getpid(), int(os.environ["SENT"]))
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        *((module, signal.SIGINT) for module in sorted({m for _, m, _ in commands.COMMANDS})),
        *(("dcpt_jax", number) for number in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_a_signal_while_a_command_imports_ends_it_in_one_line(module, number, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    places = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": places, "SENT": str(int(number))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "interrupted\n")


@pytest.mark.parametrize("module", ["dcpt_jax.main", "dcpt_jax.data.check", "dcpt_jax.tables"])
def test_modules_report_a_missing_extra_in_one_line(module, tmp_path):
    (tmp_path / "ml_collections.py").write_text("raise ImportError('not here')")
    places = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ") and 'the extra "train"' in done.stderr


@pytest.mark.parametrize(
    ("file", "is_one"), [("lib/jax/_src/config.py", True), ("lib/jax/x.py", False)]
)
def test_an_odd_environment_variable_of_jax_is_told_in_one_line(file, is_one, capsys):
    code = "raise ValueError(\"invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'\")"
    try:
        exec(compile(code, file, "exec"))
    except ValueError as error:
        command_start._show(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "'JAX_ENABLE_X64'" in shown and (len(shown.splitlines()) == 1) == is_one


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed):
    code = f"exec {sys.executable} -m dcpt_jax --help {closed}"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (closed == "2>&-")


def test_importing_the_package_leaves_the_signals_of_others_alone():
    code = """
import signal
before = signal.getsignal(signal.SIGINT)
import dcpt_jax
print(signal.getsignal(signal.SIGINT) is before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True\n"
