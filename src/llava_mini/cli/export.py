"""`llava-mini export`: write the language model for another engine."""

from pathlib import Path
from typing import Annotated

import typer

from llava_mini.cli import options


def export(
    gguf: Annotated[Path, typer.Option(help="File to write, for --engine.", show_default=False)],
    model: options.Model = None,
    quantization: Annotated[str, typer.Option(help="Q8_0, Q4_K_M or F16.")] = "Q8_0",
) -> None:
    """Write the language model as a GGUF file for llama.cpp; the eyes of the model stay as they are.

    Examples:

      llava-mini export --gguf embedded-q8.gguf

      llava-mini ask cat.jpg "What is this?" --engine embedded-q8.gguf
    """
    from llava_mini.engines.llama_cpp import export_gguf
    from llava_mini.errors import InputError

    if gguf.suffix != ".gguf" or not gguf.absolute().parent.is_dir():
        raise InputError(f"--gguf is {gguf}; it must end in .gguf and lie in a folder that is there")
    export_gguf(options.load_assistant(model, "cpu", "float32").model, gguf, quantization)
    print(f"{gguf}: {gguf.stat().st_size / 1e6:.1f} MB, {quantization}")
