"""How a command takes memory from the operating system: in huge pages."""

import contextlib
import glob
import os
import platform
import sys
from pathlib import Path

_SETTING = "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def start_with_huge_pages(module: str) -> None:
    """Starts a command over, in the same process, so that the C library asks for huge pages.

    On CPUs XLA takes the memory of a step, gigabytes in one block, when the step begins and frees
    it when it ends. The operating system then has to find and clear every page again in the next
    step: hundreds of thousands of 4 KB for one step of SwinIR or PromptIR, or a few hundredths to
    thousandths as many of 2 MB, which saves about a tenth of the step. glibc asks for those only if
    the environment variable GLIBC_TUNABLES tells it so before the program starts; for your own
    programs set `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`.

    Returns, and changes nothing, where that cannot be or would not help: if this process is not
    `python -m module`, if the variable already sets it (0 leaves it off), if glibc is older than
    2.35 or there is none, if the kernel does not give huge pages on request, or gives them unasked,
    and where a GPU or TPU is at hand, which has memory of its own.

    Args:
        module: what the command is called by, such as "dcpt_jax.main". Nothing of it may have been
            done yet: it begins anew.
    """
    if ["-m", module] not in [sys.orig_argv[i : i + 2] for i in range(len(sys.orig_argv))]:
        return
    if variables := huge_pages():
        os.environ.update(variables)
        with contextlib.suppress(OSError):  # then it goes on without
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def huge_pages() -> dict[str, str]:
    """The environment variable with which a new process gets huge pages; empty as said above."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _SETTING in tunables or not _are_given_on_request() or any(map(glob.glob, _ACCELERATORS)):
        return {}
    return {"GLIBC_TUNABLES": ":".join(filter(None, (tunables, f"{_SETTING}=1")))}


def _are_given_on_request() -> bool:
    """Whether the C library can ask for huge pages, and the kernel waits to be asked."""
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:
        return False
