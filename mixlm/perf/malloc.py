"""Keeps glibc from returning freed pages: page faults cost a fifth of a CPU step."""

import ctypes

# <malloc.h>: the names and values of glibc's mallopt.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
AT_ONCE = 2**28  # Ours: the bytes that malloc requests from the system at a time.


def keep_freed() -> None:
    """Makes malloc keep freed pages for the next step, where malloc is glibc's; it changes the whole process.

    A step on a CPU allocates and frees all of its temporaries. Pages returned to the system fault when they are
    allocated again: a fifth of a step (see benchmarks/NOTES.md).
    """
    malloc = ctypes.CDLL(None)
    if hasattr(malloc, "gnu_get_libc_version"):
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1), (M_TOP_PAD, AT_ONCE)):
            malloc.mallopt(name, value)
