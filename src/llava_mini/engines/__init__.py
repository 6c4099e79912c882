"""Where the language model runs: in PyTorch, its weights laid out for a CPU or in 8 bits, in llama.cpp, or in vLLM.

An engine takes embeddings and gives logits, vLLM text; all before it, from pixels to fused words, stays as it is.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mini.errors import InputError

if TYPE_CHECKING:
    from llava_mini.engines.vllm import VllmServers


def is_served(engine: str) -> bool:
    """Tell whether an engine is the address of servers, which give text and nothing to look into."""
    return engine.startswith(("http://", "https://"))


def is_llama_cpp(engine: str) -> bool:
    """Tell whether an engine is llama.cpp: one conversation at a time, and nothing to look into."""
    return engine == "llama.cpp" or engine.endswith(".gguf")


def check_batches(engine: str) -> None:
    """Refuse an engine that cannot answer in batches that rows join and leave.

    Raises:
        InputError: for llama.cpp.
    """
    if is_llama_cpp(engine):
        raise InputError("llama.cpp answers one conversation at a time; take --engine int8, packed or torch")


def attach(model: Any, engine: str) -> "VllmServers | None":
    """Let a model's language model run elsewhere.

    Args:
        engine: "torch" changes nothing; "packed" lays out linear layers and 16-bit attention for a CPU, "auto" does
            where it can; "int8" keeps those of the language model in 8 bits; "llama.cpp" runs it there in Q8_0, a
            `.gguf` file that `llava-mini export` wrote as that file has it; "http://…/v1", or several with commas
            between them, are servers of vLLM.

    Returns:
        Who is to be asked in place of the model's `generate`; None: the model itself.

    Raises:
        InputError: for another word, or a file that is not there.
        ModelError: when the file is of another model, or what the engine needs is not installed.
    """
    if is_served(engine):
        from llava_mini.engines.vllm import VllmServers

        return VllmServers.take_over(model, engine)
    if engine == "torch":
        return None
    if engine in ("auto", "packed"):
        from llava_mini.engines.packed import can_pack, pack

        if engine == "auto" and not can_pack(model.device, model.dtype):
            return None
        pack(model)
        return None
    if engine == "int8":
        from llava_mini.engines.int8 import quantize

        quantize(model)
        return None
    if not is_llama_cpp(engine):
        raise InputError(
            f"--engine is {engine!r}; it must be torch, packed, auto, int8, llama.cpp, a .gguf file of "
            "'llava-mini export', or http://…"
        )
    from llava_mini.engines.llama_cpp import LlamaCppLanguageModel, kept_gguf

    path = kept_gguf(model) if engine == "llama.cpp" else Path(engine)
    if not path.is_file():
        raise InputError(f"there is no file {engine}; write it with 'llava-mini export --gguf {engine}'")
    LlamaCppLanguageModel.take_over(model, path)
    return None
