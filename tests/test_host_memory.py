"""Commands start over with huge pages that they keep, once, where the system gives them."""

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
    host_memory.start_with_huge_pages("the_command", kept="--keep" in sys.argv)
    print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.flags.optimize)
    print("jax" in sys.modules)
"""

glibc_that_asks = pytest.mark.skipif(
    host_memory.platform.libc_ver() < ("glibc", "2.35"), reason="needs glibc 2.35 or newer"
)


STEPS = """
import resource
import jax, jax.numpy as jnp
from dcpt_jax import host_memory

host_memory.use_kept_memory()

@jax.jit
def step(x):
    tall = x + jnp.ones((4096, 64))
    return ((tall @ tall.T) @ tall).sum()  # 64 MB in between


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

step(0.0).block_until_ready()
before = faults()
for i in range(5):
    step(float(i)).block_until_ready()
print(faults() - before)
"""


def start(folder, *command, kernel="always [madvise] never", tunables=None):
    """What the program prints, and the processes in which it was started."""
    (folder / "the_command.py").write_text(PROGRAM)
    (folder / "enabled").write_text(kernel + "\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    environment.pop("GLIBC_TUNABLES", None)
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    command = [sys.executable, "-O", *command, "a b", "--keep"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), (folder / "starts").read_text().split()


@glibc_that_asks
@pytest.mark.parametrize(
    ("kernel", "left"),
    [
        ("always [madvise] never", "glibc.malloc.hugetlb=1"),
        ("[always] madvise never", None),
    ],
)
def test_a_command_starts_over_once_in_its_process(tmp_path, kernel, left):
    """What keeps memory is gone again from the variable, so that processes do not inherit it."""
    printed, starts = start(tmp_path, "-m", "the_command", kernel=kernel)
    assert printed == [f"{left} ['a b', '--keep'] 1", "True"]
    assert len(starts) == 2 and len(set(starts)) == 1


@glibc_that_asks
def test_without_keeping_only_huge_pages_are_asked_for(monkeypatch, tmp_path):
    kernel = tmp_path / "enabled"
    monkeypatch.setattr(host_memory, "_KERNEL", kernel)
    monkeypatch.setattr(host_memory, "_ACCELERATORS", ())
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    kernel.write_text("always [madvise] never")
    assert host_memory.huge_pages(kept=False) == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    kernel.write_text("[always] madvise never")
    assert host_memory.huge_pages(kept=False) == {}


@glibc_that_asks
def test_other_tunables_stay(tmp_path):
    printed, _ = start(tmp_path, "-m", "the_command", tunables="glibc.malloc.arena_max=2")
    assert printed[0].startswith("glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1 ")


@pytest.mark.parametrize(
    ("command", "how"),
    [
        (("-m", "the_command"), {"kernel": "always madvise [never]"}),
        (("-m", "the_command"), {"tunables": "glibc.malloc.hugetlb=0"}),
        (("-m", "the_command"), {"tunables": "glibc.malloc.trim_threshold=1000000"}),
        (("the_command.py",), {}),
        (("-c", "import runpy; runpy.run_module('the_command', run_name='__main__')"), {}),
    ],
)
def test_others_go_on_as_they_are(tmp_path, command, how):
    printed, starts = start(tmp_path, *command, **how)
    assert printed[0].startswith(f"{how.get('tunables')} [") and printed[1] == "False"
    assert len(starts) == 1


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("", ""), ("musl", "1.2.5")])
def test_only_a_c_library_that_can_ask_is_told(monkeypatch, tmp_path, library):
    kernel = tmp_path / "enabled"
    kernel.write_text("always [madvise] never")
    monkeypatch.setattr(host_memory, "_KERNEL", kernel)
    monkeypatch.setattr(host_memory.platform, "libc_ver", lambda: ("glibc", "2.35"))
    assert host_memory._kernel_setting() == "madvise"
    monkeypatch.setattr(host_memory.platform, "libc_ver", lambda: library)
    assert host_memory._kernel_setting() == "never"


def test_a_kernel_without_huge_pages_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(host_memory, "_KERNEL", tmp_path / "missing")
    assert host_memory._kernel_setting() == "never"


def test_accelerators_are_left_alone(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(host_memory.os, "execv", lambda *command: started.append(command))
    monkeypatch.setattr(host_memory, "_kernel_setting", lambda: "madvise")
    monkeypatch.setattr(host_memory, "use_kept_memory", lambda: None)
    monkeypatch.setattr(host_memory.sys, "orig_argv", ["python", "-m", "the_command", "x"])
    monkeypatch.setattr(host_memory, "_ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    (tmp_path / "nvidia0").touch()
    host_memory.start_with_huge_pages("the_command", kept=True)
    assert not started
    (tmp_path / "nvidia0").unlink()
    host_memory.start_with_huge_pages("the_command", kept=True)
    assert started == [(sys.executable, [sys.executable, "-m", "the_command", "x"])]


@pytest.mark.slow
@glibc_that_asks
@pytest.mark.skipif(host_memory._kernel_setting() == "never", reason="needs huge pages")
def test_steps_find_the_memory_of_the_last_step(monkeypatch):
    """Compared with a process that gives it back each time.

    Slow, as the numbers of page faults depend on how fragmented the machine's memory is: one with
    little of it in one piece counted 573 to 932 against 2,177 to 3,418.
    """
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(host_memory, "_ACCELERATORS", ())
    kept = host_memory.huge_pages(kept=True)
    given_back = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

    def faults(variables):
        environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", STEPS]
        return int(subprocess.run(command, capture_output=True, env=environment, check=True).stdout)

    assert faults(kept) < faults(given_back) / 4
