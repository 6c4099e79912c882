"""`llava-mini merge`: fold a LoRA adapter into plain weights."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    model: Annotated[
        Path, typer.Argument(help="Folder of the model that the adapter was made for; 'embedded'.", show_default=False)
    ],
    adapter: Annotated[
        Path, typer.Argument(help="PEFT's folder: adapter_config.json and weights.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="New folder.", show_default=False)],
) -> None:
    """Fold a LoRA adapter into plain weights, tensor by tensor.

    Examples:

      llava-mini merge embedded runs/mine/adapter mine

      llava-mini ask photo.jpg "What is this?" --model mine
    """
    from llava_mini.checkpoints.embedded import embedded_folder
    from llava_mini.checkpoints.lora import merge as fold

    model = embedded_folder() if str(model) == "embedded" else model
    print(f"{out}: {fold(model, adapter, out)} tensors changed")
