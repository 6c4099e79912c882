"""Run a recipe stage by stage on transformers' Trainer: checkpoints, resume, a loss log, progress with time left."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from llava_mini.checkpoints.embedded import LORA_SCALE, assemble
from llava_mini.data.class_names import load_class_names
from llava_mini.data.colours import COLOURS
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.prepared import PreparedScenes
from llava_mini.data.scenes import SHAPES
from llava_mini.errors import ConfigError
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.projector import SemanticProjector
from llava_mini.training.alignment import ACROSS, DOWN, PatchAlignment, WordTable, embed_words
from llava_mini.training.batches import SceneCollator
from llava_mini.training.objectives import Answers
from llava_mini.training.stages import Recipe, Stage, learn_only, part_of
from llava_mini.training.starts import start_lookup, start_projector

_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_TRAINED = ("model.multi_modal_projector.", "model.projector_norm.", "model.compressor.", "model.pre_fusion.")


@dataclass(frozen=True)
class Workshop:
    """What a recipe works with."""

    model: LlavaMiniForConditionalGeneration
    processor: LlavaMiniProcessor
    scenes: PreparedScenes
    table: WordTable
    """Words that patches are aligned with."""
    class_names: list[str]
    """A plain name for each class of the tower's classifier."""
    videos: PreparedScenes | None = None
    """Made videos, where a stage asks for them."""


def embedded_workshop(recipe: Recipe, *, scenes: Path, videos: Path, sources: Path) -> Workshop:
    """Assemble the embedded model as training starts.

    Args:
        scenes: folder of prepared training scenes.
        videos: folder of prepared training videos, looked into when a stage asks for them.
        sources: folder of the fetched packages.
    """
    pictures = PreparedScenes(scenes)  # what is missing is said before a model is built
    films = PreparedScenes(videos) if any(stage.videos_per_step for stage in recipe.stages) else None
    class_names = load_class_names(sources)
    names = {cutout.name for cutout in load_cutouts(sources, "train")}
    model, processor = assemble(None, copy_layers=recipe.copy_layers, **recipe.changes)
    words = sorted({*names, *class_names, *COLOURS, *SHAPES, *ACROSS, *DOWN})
    table = WordTable(tuple(words), F.normalize(embed_words(words, model.word_embeddings, processor.tokenizer), dim=-1))
    return Workshop(model, processor, pictures, table, class_names, films)


def run(recipe: Recipe, workshop: Workshop, out: Path, *, save_steps: int = 200) -> Path:
    """Train the stages that are not done yet, and write the adapter.

    A stage that was stopped goes on from its last checkpoint. Beside the weights lie `recipe.json` and, for each
    stage, `loss.jsonl`.

    Returns:
        The adapter's file, safetensors in fp16.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write_recipe(recipe, out / "recipe.json")
    set_seed(recipe.seed)
    model = workshop.model
    _start(recipe, workshop)
    for stage in recipe.stages:
        if stage.lora_rank:
            _add_lora(model.model.language_model, stage.lora_rank)
        done = out / stage.name / "trained.safetensors"
        if done.is_file():
            model.load_state_dict(load_file(done), strict=False)
        else:
            _train(stage, workshop, out / stage.name, recipe.seed, save_steps)
            save_file(_trained(model), done)
    adapter = out / "adapter.safetensors"
    save_file(export_adapter(model), adapter, metadata={"recipe": recipe.name, "lora_scale": str(LORA_SCALE)})
    return adapter


def _add_lora(language_model: nn.Module, rank: int) -> None:
    """Add LoRA to the linear layers, once: a later stage goes on with what an earlier one has learned."""
    ranks = {len(value) for name, value in language_model.named_parameters() if "lora_A" in name}
    if ranks - {rank}:
        raise ConfigError(f"lora_rank is {rank}, but an earlier stage has {ranks.pop()}; all stages share one LoRA")
    if not ranks:
        alpha = int(LORA_SCALE * rank)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_LINEAR), language_model)


def export_adapter(model: LlavaMiniForConditionalGeneration) -> dict[str, Tensor]:
    """Return what was trained, in fp16, under the model's own names; LoRA as `<module>.lora_A/lora_B`."""
    adapter = {}
    for name, value in _trained(model).items():
        if "multi_modal_projector.classifier" not in name:  # it comes with the tower
            plain = name.replace(".lora_A.default.weight", ".lora_A").replace(".lora_B.default.weight", ".lora_B")
            adapter[plain] = value.half()
    return adapter


class StageTrainer(Trainer):
    """A Trainer with one learning rate a part and checkpoints of the learned tensors only."""

    def __init__(self, stage: Stage, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Group the parameters by part."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(part_of(name) or "projector", []).append(parameter)
        self.optimizer: Any = torch.optim.AdamW(
            [{"params": group, "lr": self.stage.learning_rates[part]} for part, group in groups.items()],
            weight_decay=0.0,
        )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        learned = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        save_file(learned, folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / "model.safetensors"), strict=False)


class JsonLines(TrainerCallback):
    """Append every logged step to `loss.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write one line."""
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": state.global_step, "time": round(time.time()), **(logs or {})}) + "\n")


def _train(stage: Stage, workshop: Workshop, out: Path, seed: int, save_steps: int) -> None:
    objective = _objective(stage, workshop)
    learn_only(objective, stage.learning_rates)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.pictures_per_step,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(stage.warmup_ratio * stage.steps)),
        max_grad_norm=1.0,
        logging_steps=20,
        save_steps=save_steps,
        save_total_limit=1,
        seed=seed,
        data_seed=seed,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
    )
    trainer = StageTrainer(
        stage,
        model=objective,
        args=arguments,
        train_dataset=workshop.scenes,
        data_collator=_collator(stage, workshop, seed),
        callbacks=[JsonLines(out / "loss.jsonl")],
    )
    out.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)))


def _objective(stage: Stage, workshop: Workshop) -> nn.Module:
    model = workshop.model
    if stage.objective == "alignment":
        return PatchAlignment(model, workshop.table)
    if stage.objective == "shallow" and model.model.pre_fusion is None:
        raise ConfigError(f"stage {stage.name!r} trains pre-fusion, but the model has no fusion_layers")
    objective = Answers(model, through=stage.objective, helper_weight=stage.helper_weight)
    objective.helper.weight.data.copy_(model.model.language_model.norm.weight.data)
    return objective


def _collator(stage: Stage, workshop: Workshop, seed: int) -> SceneCollator:
    config = workshop.model.config
    if stage.imagined and config.tiles > 1:
        raise ConfigError(f"stage {stage.name!r} imagines classes, but pictures are in tiles; set imagined to 0")
    projector = workshop.model.model.multi_modal_projector
    return SceneCollator(
        stage,
        workshop.processor,
        workshop.table,
        projector.classifier if isinstance(projector, SemanticProjector) else None,
        workshop.class_names,
        config.parts_per_frame * config.patches_per_side**2
        if stage.objective == "all_tokens"
        else config.tokens_per_frame,
        seed,
        workshop.videos,
    )


def _start(recipe: Recipe, workshop: Workshop) -> None:
    """Start what no package brings; a finished stage overwrites it."""
    model, tokenizer = workshop.model, workshop.processor.tokenizer
    projector = model.model.multi_modal_projector
    if isinstance(projector, SemanticProjector):
        names = embed_words(workshop.class_names, model.word_embeddings, tokenizer)
        start_projector(projector, names, workshop.scenes)
    if recipe.lookup and model.model.pre_fusion is not None:
        words = embed_words(list(workshop.table.words), model.word_embeddings, tokenizer)
        start_lookup(model.model.pre_fusion.decoder.layers[0], words)


def _write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe beside the weights; finished stages of another recipe are never gone on with."""
    text = json.dumps(asdict(recipe), indent=1)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path} is of another recipe; choose another folder with --out")
    path.write_text(text, encoding="utf-8")


def _trained(model: LlavaMiniForConditionalGeneration) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items() if _is_trained(name)}


def _is_trained(name: str) -> bool:
    return name.startswith(_TRAINED) or "lora_" in name
