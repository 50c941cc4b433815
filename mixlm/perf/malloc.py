"""The host's memory: what a step frees is kept for the next one."""

import ctypes

# <malloc.h>: the names and values of glibc's mallopt.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
AT_ONCE = 2**28  # Ours: bytes that are taken from the system at a time.


def keep_freed() -> None:
    """Makes malloc keep what is freed, where it is glibc's.

    A step on a CPU takes and frees all of its temporaries. Given back to the system, each page costs a fault the next
    time: a fifth of a step (see benchmarks/NOTES.md).
    """
    malloc = ctypes.CDLL(None)
    if hasattr(malloc, "gnu_get_libc_version"):
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1), (M_TOP_PAD, AT_ONCE)):
            malloc.mallopt(name, value)
