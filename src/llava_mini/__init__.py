"""LLaVA-Mini: ask about pictures and videos; every picture or frame costs the language model one token."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_mini.assistant import Assistant, Chat
    from llava_mini.config import LlavaMiniConfig
    from llava_mini.errors import LlavaMiniError
    from llava_mini.inputs.processor import LlavaMiniProcessor
    from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
    from llava_mini.model.llava_mini import LlavaMiniModel
    from llava_mini.model.vision_prefix import VisionPrefix
    from llava_mini.reply import Answer, Sampling

__version__ = "0.1.0"

_HOMES = {
    "Answer": "reply",
    "Assistant": "assistant",
    "Chat": "assistant",
    "LlavaMiniConfig": "config",
    "LlavaMiniError": "errors",
    "LlavaMiniForConditionalGeneration": "model.conditional_generation",
    "LlavaMiniModel": "model.llava_mini",
    "LlavaMiniProcessor": "inputs.processor",
    "Sampling": "reply",
    "VisionPrefix": "model.vision_prefix",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llava_mini' has no attribute {name!r}")
    return getattr(importlib.import_module(f"llava_mini.{_HOMES[name]}"), name)


def _is_command() -> bool:
    """Tell whether the process is `llava-mini` or `python -m llava_mini`."""
    as_module = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv) :][:1] == ["llava_mini"]
    return as_module or Path(sys.argv[0] if sys.argv else "").stem == "llava-mini"


# The command registers when a verb needs a model, so that `llava-mini --help` stays instant.
if not _is_command():
    importlib.import_module("llava_mini.auto")
