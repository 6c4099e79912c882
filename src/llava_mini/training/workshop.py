"""What a recipe works with: the model as training starts, and what its stages learn from."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.nn import functional as F

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints.embedded import assemble, embedded_folder, load_adapter, read_adapter
from llava_mini.checkpoints.parts import check_folders, join_parts
from llava_mini.data.class_names import load_class_names
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.mixture import check_named
from llava_mini.data.prepared import PreparedScenes
from llava_mini.data.scenes import SHAPES, SceneLibrary
from llava_mini.data.texts import read_texts
from llava_mini.errors import ConfigError, ModelError, TrainingError
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.projector import SemanticProjector
from llava_mini.training.alignment import WordTable, embed_words
from llava_mini.training.grounding import FACT_WORDS, MentionReader, added_to_words
from llava_mini.training.lora import take_over_lora
from llava_mini.training.record import Contents, claim
from llava_mini.training.scene_batches import SceneCollator
from llava_mini.training.stages import Embedded, Files, Parts, Pretrained, Recipe, Scenes
from llava_mini.training.starts import start_lookup, start_projector

_LOOKED_AT = 60
"""Pictures of which the patches are compared with words."""


@dataclass(frozen=True)
class Drawn:
    """Prepared scenes, and the words that are asked for in them."""

    scenes: PreparedScenes
    table: WordTable
    """Words that patches are aligned with."""
    class_names: list[str]
    """A plain name for each class of the tower's classifier."""
    names: tuple[str, ...]
    """Names that scenes can show."""
    videos: PreparedScenes | None = None
    """Made videos, where a stage asks for them."""
    texts: Sequence[tuple[str, str]] = ()
    """Questions without pictures and their answers, likewise."""

    @property
    def nouns(self) -> tuple[str, ...]:
        """Return the names of all that scenes and imagined classes can show, in order."""
        return tuple(sorted({*self.names, *self.class_names, *SHAPES}))

    @property
    def contents(self) -> dict[str, Contents]:
        """Return what is learned from, by kind: how many there are, and a digest of what is said of them."""
        found = {"scenes": Contents(len(self.scenes), self.scenes.digest)}
        if self.videos is not None:
            found["videos"] = Contents(len(self.videos), self.videos.digest)
        if self.texts:
            found["texts"] = Contents(len(self.texts), hashlib.sha256(json.dumps(self.texts).encode()).hexdigest())
        return found


@dataclass(frozen=True)
class Workshop:
    """What a recipe works with."""

    model: LlavaMiniForConditionalGeneration
    processor: LlavaMiniProcessor
    base: Path | None = None
    """Folder that the model came from; None for the embedded model's parts, whose result is an adapter."""
    drawn: Drawn | None = field(default=None)
    """What stages on drawn scenes need."""


def open_workshop(recipe: Recipe, out: Path, *, scenes: Path, videos: Path, texts: Path, sources: Path) -> Workshop:
    """Build the model as training starts, after a look whether all that it learns from is there.

    Args:
        out: folder of the run; parts are joined there once.
        scenes: folder of prepared training scenes, looked into when a stage learns from them.
        videos: folder of prepared training videos, likewise.
        texts: file of texts and answers, likewise.
        sources: folder of the fetched packages, likewise.
    """
    if isinstance(recipe.start, Parts):
        check_folders(Path(recipe.start.language_model), Path(recipe.start.vision_tower))
    if isinstance(recipe.start, Pretrained) and recipe.start.model != "embedded":
        _trained(recipe.start)
    for stage in recipe.stages:
        if isinstance(stage.data, Files) and not (out / stage.name / "trained.safetensors").is_file():
            check_named(stage.data.files)
    kinds = [stage.data for stage in recipe.stages if isinstance(stage.data, Scenes)]
    if not kinds:
        return _begin(recipe, out)
    pictures = PreparedScenes(scenes)  # what is missing is said before a model is built
    films = PreparedScenes(videos) if any(data.videos for data in kinds) else None
    read = read_texts(texts) if any(data.texts for data in kinds) else []
    class_names = load_class_names(sources)
    names = SceneLibrary(load_cutouts(sources, "train")).names
    pictures[0].known  # noqa: B018 - says whether these are scenes at all
    shop = _begin(recipe, out)
    words = sorted({*names, *class_names, *SHAPES, *chain(*FACT_WORDS.values())})
    embedded = embed_words(words, shop.model.word_embeddings, shop.processor.tokenizer)
    drawn = Drawn(pictures, WordTable(tuple(words), F.normalize(embedded, dim=-1)), class_names, names, films, read)
    return replace(shop, drawn=drawn)


def begin_projector(workshop: Workshop) -> None:
    """Start the semantic projector, which no package brings: a codebook of class names."""
    drawn, model = workshop.drawn, workshop.model
    projector = model.model.multi_modal_projector
    if drawn is not None and isinstance(projector, SemanticProjector):
        words = embed_words(drawn.class_names, model.word_embeddings, workshop.processor.tokenizer)
        start_projector(projector, words, drawn.scenes)


@torch.no_grad()
def begin_memory(workshop: Workshop) -> None:
    """Fill an empty word memory with the names of all that drawn scenes can show, and of the tower's classes."""
    drawn, memory = workshop.drawn, workshop.model.model.word_memory
    if drawn is None or memory is None or bool(memory.words.any()):
        return
    words = embed_words(list(drawn.nouns), workshop.model.word_embeddings, workshop.processor.tokenizer)
    memory.words.copy_(F.normalize(words, dim=-1))


def check_memory(recipe: Recipe, workshop: Workshop) -> None:
    """Check that a memory that a stage teaches is there, and has or can be given words.

    Raises:
        ConfigError: for a stage that teaches a memory which is not there, or has room for more or fewer words.
    """
    stage = next((stage.name for stage in recipe.stages if "memory" in stage.learning_rates), None)
    memory = workshop.model.model.word_memory
    if stage is None or (memory is not None and bool(memory.words.any())):
        return
    wanted = 0 if workshop.drawn is None else len(workshop.drawn.nouns)
    size = 0 if memory is None else len(memory.words)
    if size != wanted or not size:
        there = f"there are {wanted} names" if wanted else "only scenes bring names"
        raise ConfigError(
            f"memory_words is {size}, but {there}; give that, or 0 and stages.{stage}.learning_rates.memory=null"
        )


@torch.no_grad()
def begin_lookup(workshop: Workshop) -> None:
    """Start pre-fusion's first layer with words that look at their like among the patches, aligned by now."""
    drawn, model = workshop.drawn, workshop.model
    if drawn is None or model.model.pre_fusion is None:
        return
    model.cpu()  # alignment may have left it on a GPU
    words = embed_words(list(drawn.table.words), model.word_embeddings, workshop.processor.tokenizer)
    chosen = range(0, len(drawn.scenes), max(1, len(drawn.scenes) // _LOOKED_AT))
    core = model.model
    patches = torch.cat([core._rows_to_read(core._project(drawn.scenes[i].features)).flatten(0, 1) for i in chosen])
    start_lookup(model.model.pre_fusion.decoder.layers[0], words, patches)


@torch.no_grad()
def begin_silence(objective: nn.Module, workshop: Workshop, collator: object) -> None:
    """Let a reader's silence begin as what a trained model's words say that name nothing, where there is a reader."""
    drawn, model = workshop.drawn, workshop.model
    reader = getattr(objective, "helper", None)
    if drawn is None or not isinstance(reader, MentionReader) or not isinstance(collator, SceneCollator):
        return
    model.cpu()  # an earlier stage may have left it on a GPU
    chosen = [drawn.scenes[i] for i in range(0, len(drawn.scenes), max(1, len(drawn.scenes) // _LOOKED_AT))]
    rows = replace(collator, stage=replace(collator.stage, objective="grounding")).join(chosen)
    frames = torch.ones(len(chosen), dtype=torch.long)
    added = added_to_words(model.model, model.model.encode_features(rows["vision_features"], frames), rows["mentions"])
    reader.begin_silence(added, rows["mentions"]["silent"])


def _begin(recipe: Recipe, out: Path) -> Workshop:
    start = recipe.start
    if isinstance(start, Embedded):
        changes: dict[str, Any] = dict(start.changes)
        model, processor = assemble(copy_layers=start.copy_layers, seed=recipe.seed, **changes)
        if start.trained:
            adapter = read_adapter()
            lora = {name: adapter.pop(name) for name in list(adapter) if ".lora_" in name}
            load_adapter(model, adapter)
            take_over_lora(model, lora)
        return Workshop(model, processor)
    folder = _joined(recipe, start, out / "start") if isinstance(start, Parts) else _trained(start)
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
        if not start.model:
            raise ModelError("the recipe names no model to begin with; give its folder with --model")
        inside = f"; did you mean {folder / 'model'}?" if (folder / "model" / "config.json").is_file() else ""
        raise ModelError(
            f"start.model is {start.model!r}, which is no folder of a model{inside or '; give one with --model'}"
        )
    return folder


def _joined(recipe: Recipe, start: Parts, folder: Path) -> Path:
    """Join the parts once; the other processes wait for the first."""
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.local_main_process_first():
        if state.is_local_main_process:
            claim(recipe, folder.parent)  # parts that another recipe has joined are not these
        if not (folder / "config.json").is_file():
            join_parts(
                Path(start.language_model),
                Path(start.vision_tower),
                folder,
                template=start.template,
                copy_layers=start.copy_layers,
                seed=recipe.seed,
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

    ours = ["lm_head", "vision_tower", "compressor", "multi_modal_projector", "patch_context", "pre_fusion"]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=ours,
    )
    return {"quantization_config": quantised}
