"""How a command takes memory from the operating system: in huge pages, which training keeps."""

import contextlib
import glob
import os
import platform
import sys
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb"
_KEPT = ("glibc.malloc.trim_threshold", "glibc.malloc.mmap_threshold")  # what is freed is kept
_KEEP = ":".join(f"{setting}={2**40}" for setting in _KEPT)
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def start_with_huge_pages(module: str, *, kept: bool) -> None:
    """Starts a command over, in the same process, with memory in huge pages.

    On CPUs XLA takes the memory of a step, gigabytes in one block, when the step begins and frees
    it when it ends. The operating system then has to find and clear every page again in the next
    step: hundreds of thousands of 4 KB for one step of SwinIR or PromptIR, a seventh of the time
    still where they are of 2 MB. So the C library is told to ask for huge pages, and to keep what
    is freed. It reads that, from the environment variable GLIBC_TUNABLES, only when a program
    starts. It keeps blocks of this size for the first thread only, so JAX is told to run steps in
    the thread that calls them: calling a step then takes until it is done.

    Returns, and changes nothing, where that cannot be or would not help: if this process is not
    `python -m module`, if the variable has one of these settings (`glibc.malloc.hugetlb=0` leaves
    all off), if glibc is older than 2.35 or there is none, if the kernel gives no huge pages, and
    where a GPU or TPU is at hand, which has memory of its own.

    Args:
        module: what the command is called by, such as "dcpt_jax.main". Nothing of it may have been
            done yet: it begins anew.
        kept: whether to keep memory, for commands that run the same step again and again. Where
            sizes vary, a fifth more memory was needed, and nothing won.
    """
    if ["-m", module] not in [sys.orig_argv[i : i + 2] for i in range(len(sys.orig_argv))]:
        return
    if variables := huge_pages(kept=kept):
        os.environ.update(variables)
        with contextlib.suppress(OSError):  # then it goes on without
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    use_kept_memory()


def huge_pages(*, kept: bool) -> dict[str, str]:
    """The environment variable with which a new process gets huge pages; empty as said above.

    Args:
        kept: whether it keeps them; it has to call `use_kept_memory`.
    """
    tunables = os.environ.get(_VARIABLE, "")
    if any(setting in tunables for setting in (_HUGE_PAGES, *_KEPT)):
        return {}
    kernel = _kernel_setting()
    if kernel not in ("madvise", "always") or any(map(glob.glob, _ACCELERATORS)):
        return {}
    ask = f"{_HUGE_PAGES}=1" if kernel == "madvise" else ""
    settings = ":".join(filter(None, (tunables, ask, _KEEP if kept else "")))
    return {_VARIABLE: settings} if settings != tunables else {}


def use_kept_memory() -> None:
    """Lets steps run where memory is kept, in a process that began with kept `huge_pages`.

    Processes that it starts, for data, do not inherit the setting: they would keep the memory of
    the largest photo that they have seen. Does nothing in other processes.
    """
    tunables = os.environ.get(_VARIABLE, "")
    if not tunables.endswith(_KEEP):
        return
    if rest := tunables.removesuffix(_KEEP).rstrip(":"):
        os.environ[_VARIABLE] = rest
    else:
        del os.environ[_VARIABLE]
    import jax  # only here: what is above runs before anything of a command is imported

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def _kernel_setting() -> str:
    """When the kernel gives huge pages to a C library that can ask: always, madvise or never."""
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return "never"
    try:
        return _KERNEL.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "never"
