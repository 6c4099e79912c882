"""`llava-mini export`: write the language model for another engine."""

from pathlib import Path
from typing import Annotated

import typer

from llava_mini.cli import options


def export(
    gguf: Annotated[
        Path | None, typer.Option(help="File to write for llama.cpp (ask --engine FILE).", show_default=False)
    ] = None,
    llm: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to make for vLLM: DIR/llm and DIR/vision.", show_default=False),
    ] = None,
    model: options.Model = None,
    quantization: Annotated[str, typer.Option(help="Of the GGUF file: Q8_0, Q4_K_M or F16.")] = "Q8_0",
    dtype: Annotated[str, typer.Option(help="Of the folder's weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write the language model for another engine: a GGUF file for llama.cpp, or a plain folder for vLLM.

    Beside the plain folder lies all else: `ask`, `batch` and `serve` run from it without the language model's layers.

    Examples:

      llava-mini export --gguf embedded-q8.gguf

      llava-mini export --llm apart
    """
    from llava_mini.errors import InputError

    if (gguf is None) == (llm is None):
        raise InputError("give either --gguf FILE or --llm DIR")
    if gguf is not None:
        _export_gguf(gguf, model, quantization)
    if llm is not None:
        _export_apart(llm, model, dtype)


def _export_gguf(file: Path, model: str | None, quantization: str) -> None:
    from llava_mini.engines.llama_cpp import export_gguf
    from llava_mini.errors import InputError

    if file.suffix != ".gguf" or not file.absolute().parent.is_dir():
        raise InputError(f"--gguf is {file}; it must end in .gguf and lie in a folder that is there")
    export_gguf(options.load_assistant(model, "cpu", "float32").model, file, quantization)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {quantization}")


def _export_apart(folder: Path, model: str | None, dtype: str) -> None:
    import shlex

    from llava_mini.engines.apart import LANGUAGE_MODEL, VISION, check_new, export_apart

    check_new(folder)
    assistant = options.load_assistant(model, "cpu", dtype)
    name = export_apart(assistant.model, assistant.processor, folder)
    for part in (LANGUAGE_MODEL, VISION):
        size = sum(file.stat().st_size for file in (folder / part).iterdir())
        print(f"{folder / part}: {size / 1e6:.1f} MB, {dtype}")
    where = shlex.quote(str(folder / LANGUAGE_MODEL))
    print(f"vllm serve {where} --served-model-name {name} --enable-prompt-embeds --dtype {dtype} --port 8001")
