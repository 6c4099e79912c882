"""Options that several verbs share, and how a verb loads its model."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llava_mini.assistant import Assistant

Model = Annotated[str | None, typer.Option(help="Folder or hub name of a model; default: the embedded model.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampling.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")]


def load_assistant(model: str | None, device: str, dtype: str) -> "Assistant":
    """Load a model quietly; say so when the embedded one has to be assembled first."""
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    from llava_mini.assistant import Assistant
    from llava_mini.checkpoints import embedded

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if model is None and not embedded.is_assembled():
        print("joining the embedded model's parts, this once (about half a minute)", file=sys.stderr)
    return Assistant.load(model, device=device, dtype=dtype)
