"""What a recipe works with: the model as training starts, and what its stages learn from."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.nn import functional as F

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints.embedded import ADAPTER, assemble, embedded_folder
from llava_mini.checkpoints.parts import join_parts
from llava_mini.data.class_names import load_class_names
from llava_mini.data.colours import COLOURS
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.prepared import PreparedScenes
from llava_mini.data.scenes import SHAPES
from llava_mini.errors import ConfigError, ModelError, TrainingError
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.projector import SemanticProjector
from llava_mini.training.alignment import ACROSS, DOWN, WordTable, embed_words
from llava_mini.training.stages import Embedded, Parts, Pretrained, Recipe, Scenes
from llava_mini.training.starts import start_lookup, start_projector


@dataclass(frozen=True)
class Drawn:
    """Prepared scenes, and the words that are asked for in them."""

    scenes: PreparedScenes
    table: WordTable
    """Words that patches are aligned with."""
    class_names: list[str]
    """A plain name for each class of the tower's classifier."""
    videos: PreparedScenes | None = None
    """Made videos, where a stage asks for them."""


@dataclass(frozen=True)
class Workshop:
    """What a recipe works with."""

    model: LlavaMiniForConditionalGeneration
    processor: LlavaMiniProcessor
    base: Path | None = None
    """Folder that the model came from; None for the embedded model's parts, whose result is an adapter."""
    drawn: Drawn | None = field(default=None)
    """What stages on drawn scenes need."""


def open_workshop(recipe: Recipe, out: Path, *, scenes: Path, videos: Path, sources: Path) -> Workshop:
    """Build the model as training starts, after a look whether all that it learns from is there.

    Args:
        out: folder of the run; parts are joined there once.
        scenes: folder of prepared training scenes, looked into when a stage learns from them.
        videos: folder of prepared training videos, likewise.
        sources: folder of the fetched packages, likewise.
    """
    kinds = [stage.data for stage in recipe.stages if isinstance(stage.data, Scenes)]
    if not kinds:
        return _begin(recipe, out)
    pictures = PreparedScenes(scenes)  # what is missing is said before a model is built
    films = PreparedScenes(videos) if any(data.videos for data in kinds) else None
    class_names = load_class_names(sources)
    names = {cutout.name for cutout in load_cutouts(sources, "train")}
    shop = _begin(recipe, out)
    words = sorted({*names, *class_names, *COLOURS, *SHAPES, *ACROSS, *DOWN})
    embedded = embed_words(words, shop.model.word_embeddings, shop.processor.tokenizer)
    drawn = Drawn(pictures, WordTable(tuple(words), F.normalize(embedded, dim=-1)), class_names, films)
    return Workshop(shop.model, shop.processor, shop.base, drawn)


def start_parts(start: Embedded, workshop: Workshop) -> None:
    """Start what no package brings: the codebook of class names, and words that look at their like."""
    drawn, model, tokenizer = workshop.drawn, workshop.model, workshop.processor.tokenizer
    if start.trained or drawn is None:
        return
    projector = model.model.multi_modal_projector
    if isinstance(projector, SemanticProjector):
        start_projector(projector, embed_words(drawn.class_names, model.word_embeddings, tokenizer), drawn.scenes)
    if start.lookup and model.model.pre_fusion is not None:
        words = embed_words(list(drawn.table.words), model.word_embeddings, tokenizer)
        start_lookup(model.model.pre_fusion.decoder.layers[0], words)


def _begin(recipe: Recipe, out: Path) -> Workshop:
    start = recipe.start
    if isinstance(start, Embedded):
        adapter = ADAPTER if start.trained else None
        changes: dict[str, Any] = dict(start.changes)
        return Workshop(*assemble(adapter, copy_layers=start.copy_layers, seed=recipe.seed, **changes))
    folder = _joined(start, out / "start", recipe.seed) if isinstance(start, Parts) else _trained(start)
    learned = {part for stage in recipe.stages for part in stage.learning_rates}
    half = recipe.precision == "bfloat16" and learned == {"lora"}  # what learns keeps full precision
    options: dict[str, Any] = {"dtype": torch.bfloat16 if half else torch.float32, "use_safetensors": True}
    if isinstance(start, Pretrained) and start.four_bit:
        options |= _four_bit()
    model, info = LlavaMiniForConditionalGeneration.from_pretrained(folder, output_loading_info=True, **options)
    for problem, what in (("missing_keys", "is missing"), ("unexpected_keys", "is left over")):
        if info[problem]:
            raise ModelError(f"{sorted(info[problem])[0]} {what} in the weights of {folder}")
    return Workshop(model, LlavaMiniProcessor.from_pretrained(folder), folder)


def _trained(start: Pretrained) -> Path:
    if start.model == "embedded":
        return embedded_folder()
    folder = Path(start.model)
    if not start.model or not (folder / "config.json").is_file():
        raise ModelError(f"start.model is {start.model!r}, which is no folder of a model; give one with --model")
    return folder


def _joined(start: Parts, folder: Path, seed: int) -> Path:
    """Join the parts once; the other processes wait for the first."""
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.local_main_process_first():
        if not (folder / "config.json").is_file():
            join_parts(
                Path(start.language_model),
                Path(start.vision_tower),
                folder,
                template=start.template,
                copy_layers=start.copy_layers,
                seed=seed,
                **dict[str, Any](start.changes),
            )
    return folder


def _four_bit() -> dict[str, Any]:
    """Quantise what stands in the frozen language model; our own parts stay as they are."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("start.four_bit works on one device; for many use the recipe lora")
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise TrainingError("start.four_bit needs bitsandbytes: pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig

    ours = ["lm_head", "vision_tower", "compressor", "multi_modal_projector"]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=ours,
    )
    return {"quantization_config": quantised}
