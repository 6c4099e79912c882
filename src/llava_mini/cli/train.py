"""`llava-mini train`: list recipes, plan one, run one stage by stage."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llava_mini.training.stages import Recipe


def train(
    recipe: Annotated[str | None, typer.Argument(help="A name of --list.", show_default=False)] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the recipes, and end.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print sizes, memory and work of each stage, and end.")] = False,
    devices: Annotated[int, typer.Option(min=1, help="Devices that --plan reckons with.")] = 8,
    data: Annotated[
        list[Path] | None, typer.Option(help="File of examples in place of the last stage's; may be repeated.")
    ] = None,
    media: Annotated[Path | None, typer.Option(help="Folder of their pictures; default: the file's own.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder of the model to begin with; 'embedded'.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value: stages.stage2.steps=100.")
    ] = None,
    config: Annotated[list[Path] | None, typer.Option(help="YAML file of values to change.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of weights, logs and checkpoints.")] = None,
    until: Annotated[str, typer.Option(metavar="STAGE", help="End after this stage.")] = "",
    skip_bad: Annotated[int, typer.Option(min=0, help="Bad samples that are left out and listed, at most.")] = 0,
    scenes: Annotated[Path, typer.Option(help="Folder of 'llava-mini data scenes'.")] = Path("data/scenes"),
    videos: Annotated[Path, typer.Option(help="Folder of 'llava-mini data videos'.")] = Path("data/videos"),
    texts: Annotated[Path, typer.Option(help="File of 'llava-mini data texts'.")] = Path("data/texts.jsonl"),
    sources: Annotated[Path, typer.Option(help="Folder of 'llava-mini data fetch'.")] = Path("data/sources"),
) -> None:
    """Train a recipe; a run that was stopped goes on from its last checkpoint.

    Examples:

      llava-mini train lora --data my/data.json --out runs/mine

      llava-mini train vicuna-7b --plan
    """
    from llava_mini.errors import ConfigError
    from llava_mini.training.recipes import RECIPES, find_recipe

    if list_:
        for name in RECIPES:
            print(f"{name:16} {find_recipe(name).summary}")
        return
    if recipe is None:
        raise ConfigError("no recipe is named; 'llava-mini train --list' shows them")
    from llava_mini.training.overrides import override

    settings = [*([f"start.model={model}"] if model else []), *(set_ or [])]
    chosen = override(find_recipe(recipe), settings=settings, files=config or ())
    if media and not data:
        raise ConfigError(f"--media is {media}, but no --data is given whose pictures it could hold")
    if data:
        chosen = _with_data(chosen, data, media)
    if plan:
        from llava_mini.training.plan import plan as reckon

        print(reckon(chosen, devices=devices))
        return
    import torch
    import transformers

    from llava_mini.devices import multiplies_bfloat16
    from llava_mini.training.run import run
    from llava_mini.training.workshop import open_workshop

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    out = out or Path("runs") / chosen.name
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.precision == "bfloat16" and not multiplies_bfloat16(where):
        print("this CPU has no instructions for bfloat16; here --set precision=float32 is faster", file=sys.stderr)
    workshop = open_workshop(chosen, out, scenes=scenes, videos=videos, texts=texts, sources=sources)
    print(run(chosen, workshop, out, skip_bad=skip_bad, until=until))


def _with_data(recipe: "Recipe", data: list[Path], media: Path | None) -> "Recipe":
    """Let the recipe's last stage on files learn from other ones."""
    from llava_mini.data.readers import DataFile
    from llava_mini.errors import ConfigError
    from llava_mini.training.stages import Files

    *before, last = recipe.stages
    if not isinstance(last.data, Files):
        raise ConfigError(f"recipe {recipe.name!r} draws its own data; --data is for recipes that learn from files")
    files = tuple(DataFile(str(path), media=str(media or "")) for path in data)
    stage = dataclasses.replace(last, data=dataclasses.replace(last.data, files=files))
    return dataclasses.replace(recipe, stages=(*before, stage))
