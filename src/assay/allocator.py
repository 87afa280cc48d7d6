"""What the C library (glibc) does with freed memory on a CPU. Both functions do nothing where it is another library."""

import ctypes
import time

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 32 << 20
"""Above this a block is always given back; glibc allows no more."""
SECONDS = 20.0
"""Between two times at which what is free is given back."""

_given_back = time.monotonic()


def keep_freed() -> None:
    """Let freed blocks of up to 32 MB stay with the process: by default they go back to the system after every pass and are asked for again in the next, page by page (a tenth faster in steps of many small tensors, a third in a server)."""
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
    except OSError:
        return


def give_back() -> None:
    """Give free memory back to the system, every twenty seconds at most: blocks of ever other sizes leave holes that cannot be used, and a process would grow."""
    global _given_back
    if time.monotonic() - _given_back < SECONDS:
        return
    _given_back = time.monotonic()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
