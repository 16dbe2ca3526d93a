"""Freed memory stays with the process."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from everclip.system.memory import collector_held

FAULTS = """
import resource, sys
import torch
from everclip.system.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(5):
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_large_blocks_are_used_again() -> None:
    """64 MB are 15,600 pages; given back and got again, each block costs as many faults."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "plain")
    }
    if faults["plain"] < 100_000:
        pytest.skip("this C library keeps freed memory by itself")
    assert faults["keep"] < faults["plain"] / 2


def test_the_collector_rests_while_it_is_held_and_works_again() -> None:
    before = gc.get_freeze_count()
    try:
        with collector_held():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > before + len(kept)  # what was made inside is never looked at again
    finally:
        gc.unfreeze()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_held():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
