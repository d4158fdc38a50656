"""Commands start over with huge pages, once, where the system gives them on request."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcpt_jax import host_memory

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import os, sys
from pathlib import Path
from dcpt_jax import host_memory

host_memory._KERNEL = Path(__file__).parent / "enabled"
host_memory._ACCELERATORS = ()
with open(Path(__file__).parent / "starts", "a") as file:
    print(os.getpid(), file=file)
if __name__ == "__main__":
    host_memory.start_with_huge_pages("the_command")
    print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.flags.optimize)
"""

glibc_that_asks = pytest.mark.skipif(
    host_memory.platform.libc_ver() < ("glibc", "2.35"), reason="needs glibc 2.35 or newer"
)


def start(folder, *command, kernel="always [madvise] never", tunables=None):
    """What the program prints, and the processes in which it was started."""
    (folder / "the_command.py").write_text(PROGRAM)
    (folder / "enabled").write_text(kernel + "\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    environment.pop("GLIBC_TUNABLES", None)
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    command = [sys.executable, "-O", *command, "a b", "--c"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), (folder / "starts").read_text().split()


@glibc_that_asks
def test_a_command_starts_over_once_in_its_process(tmp_path):
    printed, starts = start(tmp_path, "-m", "the_command")
    assert printed == "glibc.malloc.hugetlb=1 ['a b', '--c'] 1"
    assert len(starts) == 2 and len(set(starts)) == 1


@glibc_that_asks
def test_other_tunables_stay(tmp_path):
    printed, _ = start(tmp_path, "-m", "the_command", tunables="glibc.malloc.arena_max=2")
    assert printed.startswith("glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1 ")


@pytest.mark.parametrize(
    ("command", "how"),
    [
        (("-m", "the_command"), {"kernel": "[always] madvise never"}),
        (("-m", "the_command"), {"kernel": "always madvise [never]"}),
        (("-m", "the_command"), {"tunables": "glibc.malloc.hugetlb=0"}),
        (("the_command.py",), {}),
        (("-c", "import runpy; runpy.run_module('the_command', run_name='__main__')"), {}),
    ],
)
def test_others_go_on_as_they_are(tmp_path, command, how):
    printed, starts = start(tmp_path, *command, **how)
    assert printed.startswith(f"{how.get('tunables')} [")
    assert len(starts) == 1


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("", ""), ("musl", "1.2.5")])
def test_only_a_c_library_that_can_ask_is_told(monkeypatch, tmp_path, library):
    kernel = tmp_path / "enabled"
    kernel.write_text("always [madvise] never")
    monkeypatch.setattr(host_memory, "_KERNEL", kernel)
    monkeypatch.setattr(host_memory.platform, "libc_ver", lambda: ("glibc", "2.35"))
    assert host_memory._are_given_on_request()
    monkeypatch.setattr(host_memory.platform, "libc_ver", lambda: library)
    assert not host_memory._are_given_on_request()


def test_a_kernel_without_huge_pages_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(host_memory, "_KERNEL", tmp_path / "missing")
    assert not host_memory._are_given_on_request()


def test_accelerators_are_left_alone(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(host_memory.os, "execv", lambda *command: started.append(command))
    monkeypatch.setattr(host_memory, "_are_given_on_request", lambda: True)
    monkeypatch.setattr(host_memory.sys, "orig_argv", ["python", "-m", "the_command", "x"])
    monkeypatch.setattr(host_memory, "_ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    (tmp_path / "nvidia0").touch()
    host_memory.start_with_huge_pages("the_command")
    assert not started
    (tmp_path / "nvidia0").unlink()
    host_memory.start_with_huge_pages("the_command")
    assert started == [(sys.executable, [sys.executable, "-m", "the_command", "x"])]
