"""What makes a verb start sooner: imports are most of what a small model's first answer waits for."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def collect_later() -> Iterator[None]:
    """Let the garbage collector rest while modules and a model are loaded, and never look through them again.

    Importing PyTorch and transformers makes a million objects that stay; looking for garbage among them, again and
    again as they become more, was a quarter of the time to load a small model.
    """
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.freeze()
            gc.enable()


def scan_once() -> None:
    """Import transformers, and have it look through its 1,600 files of models once.

    It looks for their names when it is imported and again for `transformers.models`; here the second look is answered
    from the first, whose result transformers keeps. Where a version works otherwise, nothing is done.
    """
    if "transformers.models" in sys.modules:
        return
    import transformers
    from transformers.utils import import_utils

    look: Any = getattr(import_utils, "define_import_structure", None)
    if not hasattr(look, "cache_info"):
        return
    folder = Path(transformers.__file__).parent / "models"

    def known(path: str, prefix: str | None = None) -> Any:
        if prefix is not None or Path(path) != folder / "__init__.py":
            return look(path, prefix)
        found = look(folder, prefix="models")
        return {
            needed: {name.removeprefix("models."): made for name, made in names.items() if name.startswith("models.")}
            for needed, names in found.items()
        }

    import_utils.define_import_structure = known
    try:
        import transformers.models
    finally:
        import_utils.define_import_structure = look
