"""Allocator settings that PyTorch on a CPU gains from, made by the program itself."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_memory() -> None:
    """Have glibc keep freed memory instead of returning its pages after every step.

    By default each activation above 32 MiB at most is mapped anew, so that every step pays a page fault for every
    4 KiB it writes; kept, the next step finds its pages in place. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _NEVER)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def trim_memory() -> None:
    """Return what is free by now; the next step pays for the pages that it needs again.

    Batches of changing size leave gaps in kept memory, which grow over hours to several times what a step needs. Once
    in many steps this costs little. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
