"""`llava-mini convert`: released and LLaVA-1.5 checkpoints to ours, and back to the released form."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="Folder with config.json and weights.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="New folder.", show_default=False)],
    to: Annotated[str, typer.Option(help="llava-mini, or official: the released program's form.")] = "llava-mini",
    vision_tower: Annotated[
        Path | None, typer.Option(help="Folder of the CLIP tower, where the source does not hold it.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer, where it is not the source.")] = None,
    allow_pickle: Annotated[bool, typer.Option(help="Read pytorch_model.bin too, weights only.")] = False,
    shard_size: Annotated[float, typer.Option(help="Size of a written file in GB, about the memory needed.")] = 2.0,
) -> None:
    """Convert a checkpoint without changing a number.

    Examples:

      llava-mini convert llava-mini-llama-3.1-8b llava-mini-8b --vision-tower clip-vit-large-patch14-336

      llava-mini convert llava-mini-8b released --to official
    """
    import transformers

    from llava_mini.checkpoints import convert as conversion
    from llava_mini.errors import ConfigError

    if to not in ("llava-mini", "official"):
        raise ConfigError(f"--to is {to!r}; it must be llava-mini or official")
    if shard_size <= 0:
        raise ConfigError(f"--shard-size is {shard_size}; it must be above 0")
    transformers.logging.set_verbosity_error()
    done = conversion.convert(
        source,
        target,
        to=to,  # type: ignore[arg-type]
        vision_tower=vision_tower,
        tokenizer=tokenizer,
        allow_pickle=allow_pickle,
        shard_bytes=round(shard_size * 1e9),
    )
    print(f"{target}: {done.tensors} tensors of {done.form}; vision tower: {done.tower}")
    if done.dropped:
        print(f"dropped, as they are computed: {', '.join(done.dropped)}")
    if done.set_aside:
        print(f"kept for the way back, never used: {done.set_aside} tensors of the tower's upper layers")
