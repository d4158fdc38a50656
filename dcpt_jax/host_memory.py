"""How this process takes memory from the operating system: large blocks again and again."""

import ctypes
import glob
import platform

# Names and numbers of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def keep_freed_memory() -> bool:
    """Lets the C library keep what is freed for the next allocation; for programs on the CPU.

    On CPUs XLA takes the memory of a step, gigabytes in one block, when the step begins and frees
    it when it ends. glibc returns such blocks to the operating system at once, which then has to
    find and clear every page again in the next step: a quarter of the processor time of a training
    step of SwinIR or PromptIR on two cores, and far more in virtual machines whose host takes free
    pages away. Kept, they cost nothing. The process then stays as large as its largest step.

    Not for every program: the demo's pre-training, whose steps are small and which has threads for
    data and checkpoints beside them, made 1.27 steps a second with it and 1.45 without. So the
    commands leave it to their users.

    Call it before JAX starts: threads that have allocated already keep a heap of their own.

    Returns:
        True if the C library took the setting; False where it is not glibc, or where a GPU or TPU
        is at hand, which has memory of its own.
    """
    if platform.libc_ver()[0] != "glibc" or any(map(glob.glob, _ACCELERATORS)):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No block by mmap, no shrinking of the heap, and one heap, as only the first can hold those.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_ARENA_MAX, 1)])
