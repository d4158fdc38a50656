"""Memory that is freed stays with the process: no page is faulted in twice."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from dcpt_jax.host_memory import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.empty(200_000_000, np.uint8)
    block[::4096] = 1
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def faults_of_a_second_block(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 3:
        pytest.skip("not glibc, or there is an accelerator")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_second_large_block_takes_the_pages_of_the_first():
    assert faults_of_a_second_block("kept") < 100


def test_without_it_the_c_library_gives_large_blocks_back():
    """What the module is for; numpy asks for huge pages, so there may be as few as 96 faults."""
    assert faults_of_a_second_block("returned") >= 90
