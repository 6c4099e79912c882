"""Where this package keeps what it has made on a machine and can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `LLAVA_MINI_CACHE`, or `llava-mini` in the user's cache folder; it may not exist yet."""
    if own := os.environ.get("LLAVA_MINI_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava-mini"
