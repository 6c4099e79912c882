"""Give freed memory back to the system."""

import ctypes
import sys


def release_freed() -> None:
    """Ask the C library to return what has been freed.

    Its allocator keeps the many buffers of a long video and breaks them up: without this, 10,000 frames ended with
    500 MB more than 100 frames, most of it free. Where there is no glibc, nothing is done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
