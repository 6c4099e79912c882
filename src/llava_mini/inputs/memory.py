"""What the C library does with freed memory: keep it while frames come and go, and give it back now and then.

Linux with glibc only; elsewhere nothing is done.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 2**30


def keep_freed() -> None:
    """Let the process reuse large buffers in place of asking the system for new pages each time.

    The maps of a convolutional tower are such buffers: twelve pictures at once went through at 34 a second before and
    84 after. It concerns the whole process, so the command line does it; who uses the library may call it.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def release_freed() -> None:
    """Give freed memory back to the system: kept buffers break up, and a long video would seem to need ever more."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
