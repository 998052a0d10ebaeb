"""Freed memory is kept while a network runs on a CPU."""

import platform
import resource
import subprocess
import sys

import numpy as np
import pytest

from vol3d.io import resident_bytes
from vol3d.workflows import allocator
from vol3d.workflows.allocator import freed_memory_kept, freed_memory_returned

GLIBC = platform.libc_ver()[0] == "glibc"


def faults_of_large_blocks():
    """Pages the system had to find for blocks that were freed and asked for again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(8 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_blocks_are_used_again_and_given_back_at_the_end():
    pages = (8 << 20) // resource.getpagesize()
    with freed_memory_kept():
        np.ones(256 << 20, np.uint8)
        inside = resident_bytes()
        assert faults_of_large_blocks() < 3 * pages
    assert resident_bytes() < inside - (200 << 20)


BETWEEN = """
import numpy as np
from vol3d.io import resident_bytes
from vol3d.workflows.allocator import freed_memory_kept, freed_memory_returned

with freed_memory_kept():
    pass
with freed_memory_returned() if {returned} else freed_memory_kept():
    blocks = [np.ones(2 << 20, np.uint8) for _ in range(200)]
    inside = resident_bytes()
    del blocks[::2]
    print(inside - resident_bytes())
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_blocks_between_others_are_given_back_at_once():
    """In a process of its own: what is free in a heap already would be used first."""
    freed = [
        int(subprocess.run([sys.executable, "-c", BETWEEN.format(returned=on)], capture_output=True, check=True).stdout)
        for on in (True, False)
    ]
    assert freed[0] > 150 << 20
    assert freed[1] < 50 << 20


@pytest.mark.parametrize("keeper", [freed_memory_kept, freed_memory_returned])
@pytest.mark.parametrize("version", [("", ""), ("musl", "1.2")])
def test_elsewhere_nothing_is_changed(monkeypatch, version, keeper):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: version)

    @keeper()
    def doubled(number, *, times=2):
        """Double it."""
        return number * times

    assert doubled(4) == 8
    assert doubled(4, times=3) == 12
    assert doubled.__doc__ == "Double it."
