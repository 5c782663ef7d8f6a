"""Freed memory stays with the process, so that the next step pays no page faults for it."""

import platform
import subprocess
import sys

import pytest

from newslora.model.memory import keep_memory, trim_memory

FAULTS = """
import resource, sys
import numpy as np
from newslora.model.memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
np.ones(1 << 24)  # 128 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


GAPS = """
import numpy as np
from newslora.model.memory import keep_memory, trim_memory
def resident():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
keep_memory()
before = resident()
freed, pinned = [np.ones(1 << 24) for _ in range(4)], np.ones(1 << 10)
del freed
kept = resident() - before
trim_memory()
print(kept, resident() - before)
"""


def faults(mode: str) -> int:
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_large_blocks_are_used_again_without_page_faults() -> None:
    assert faults("kept") < faults("default") / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_gaps_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    kept, left = map(float, done.stdout.split())
    assert kept > 500
    assert left < 50


def test_elsewhere_than_on_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("no allocator to set"))
    keep_memory()
    trim_memory()
