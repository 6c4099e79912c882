"""`llava-mini merge`: fold a LoRA adapter into plain weights."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    model: Annotated[
        Path, typer.Argument(help="Folder of the model that the adapter was made for.", show_default=False)
    ],
    adapter: Annotated[
        Path, typer.Argument(help="PEFT's folder: adapter_config.json and weights.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="New folder.", show_default=False)],
) -> None:
    """Fold a LoRA adapter into plain weights, tensor by tensor.

    Examples:

      llava-mini merge llava-mini-8b runs/mine/adapter llava-mini-8b-mine

      llava-mini ask photo.jpg "What is this?" --model llava-mini-8b-mine
    """
    from llava_mini.checkpoints.lora import merge as fold

    print(f"{out}: {fold(model, adapter, out)} tensors changed")
