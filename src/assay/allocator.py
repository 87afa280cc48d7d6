"""What the C library (glibc) does with freed memory on a CPU. Both functions do nothing where it is another library."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 32 << 20
"""Above this a block is always given back; glibc allows no more."""
LONG_LIVED = 1 << 20


def keep_freed() -> None:
    """Let freed blocks of up to 32 MB stay with the process: by default they go back to the system after every pass and are asked for again in the next, page by page (a tenth faster in steps of many small tensors)."""
    _set(TRIM_THRESHOLD, 2**31 - 1)
    _set(MMAP_THRESHOLD, LARGEST)


def return_freed() -> None:
    """Give every freed block from 1 MB on back at once: by default glibc keeps ever larger ones, between which the small ones of a process that runs for days leave holes that it cannot use."""
    _set(MMAP_THRESHOLD, LONG_LIVED)


def _set(what: int, value: int) -> None:
    try:
        ctypes.CDLL("libc.so.6").mallopt(what, value)
    except OSError:
        return
