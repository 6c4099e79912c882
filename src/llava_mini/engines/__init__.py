"""Where the language model runs: in PyTorch, with its weights laid out for a CPU or in 8 bits, or in llama.cpp.

An engine takes embeddings and gives logits; everything before it, from pixels to fused words, stays as it is.
"""

from pathlib import Path
from typing import Any

from llava_mini.errors import InputError


def attach(model: Any, engine: str) -> None:
    """Let a model's language model run elsewhere.

    Args:
        engine: "torch" changes nothing; "packed" lays out the weights of all linear layers for oneDNN; "int8" keeps
            those of the language model in 8 bits; a `.gguf` file that `llava-mini export` wrote runs in llama.cpp.

    Raises:
        InputError: for another word, or a file that is not there.
        ModelError: when the file is of another model, or what the engine needs is not installed.
    """
    if engine == "torch":
        return
    if engine == "packed":
        from llava_mini.engines.packed import pack

        pack(model)
        return
    if engine == "int8":
        from llava_mini.engines.int8 import quantize

        quantize(model)
        return
    if not engine.endswith(".gguf"):
        raise InputError(
            f"--engine is {engine!r}; it must be torch, packed, int8, or a .gguf file of 'llava-mini export'"
        )
    path = Path(engine)
    if not path.is_file():
        raise InputError(f"there is no file {engine}; write it with 'llava-mini export --gguf {engine}'")
    from llava_mini.engines.llama_cpp import LlamaCppLanguageModel

    LlamaCppLanguageModel.take_over(model, path)
