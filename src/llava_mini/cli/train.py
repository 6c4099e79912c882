"""`llava-mini train`: run a recipe, stage by stage."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="embedded, smoke", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of weights, logs and checkpoints.")] = Path("runs/embedded"),
    scenes: Annotated[Path, typer.Option(help="Folder of 'llava-mini data scenes'.")] = Path("data/scenes"),
    videos: Annotated[Path, typer.Option(help="Folder of 'llava-mini data videos'.")] = Path("data/videos"),
    sources: Annotated[Path, typer.Option(help="Folder of 'llava-mini data fetch'.")] = Path("data/sources"),
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
) -> None:
    """Train a recipe; a run that was stopped goes on from its last checkpoint.

    Examples:

      llava-mini train smoke --out runs/smoke

      llava-mini train embedded --out runs/embedded
    """
    from llava_mini.training.recipes import find_recipe

    chosen = find_recipe(recipe)
    from llava_mini.training.trainer import embedded_workshop, run

    workshop = embedded_workshop(chosen, scenes=scenes, videos=videos, sources=sources)
    print(run(chosen, workshop, out, save_steps=save_steps))
