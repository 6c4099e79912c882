"""Run a recipe stage by stage; a run that was stopped goes on, and what it was made with lies beside the weights."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainingArguments, set_seed

from llava_mini.checkpoints.embedded import LORA_SCALE, load_adapter
from llava_mini.checkpoints.lora import plain_names, put_into, save_peft
from llava_mini.data.collator import Skipped
from llava_mini.errors import ConfigError, DataError, TrainingError
from llava_mini.lines import mend
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.training.batches import MicroBatches
from llava_mini.training.lora import add_lora, check_lora, lora_config
from llava_mini.training.overrides import override
from llava_mini.training.record import write_record
from llava_mini.training.stage_setup import (
    build_collator,
    build_objective,
    check_scenes,
    count_steps,
    divide_step,
    open_data,
    seed_of,
    take_share,
)
from llava_mini.training.stages import Embedded, Files, Recipe, Stage, check_parts, learn_only, part_of
from llava_mini.training.trainer import JsonLines, StageTrainer, StopsOnSignal, last_checkpoint
from llava_mini.training.workshop import (
    Workshop,
    begin_lookup,
    begin_memory,
    begin_projector,
    begin_silence,
    check_memory,
)

_SKIPPED = "skipped.jsonl"


def run(recipe: Recipe, workshop: Workshop, out: Path, *, skip_bad: int = 0, until: str = "") -> Path:
    """Train the stages that are not done yet, and write the result.

    A stage that was stopped goes on from its last checkpoint. Beside the weights lie `recipe.json`, `data.json`,
    `runs.jsonl` with commit and versions, and for each stage `loss.jsonl`.

    Args:
        skip_bad: samples that may be bad; they are listed in `skipped.jsonl`.
        until: name of the last stage that is wanted now; no result is written before all are done.

    Returns:
        The folder of stage `until`; else `model`, a folder that `--model` takes. Beside it lies what was learned alone:
        `adapter.safetensors` in fp16 for the embedded model's parts, `adapter` in PEFT's form where LoRA alone learned.

    Raises:
        TrainingError: when a signal stopped it or a checkpoint could not be written; nothing that was whole is lost.
    """
    if until not in ("", *(stage.name for stage in recipe.stages)):
        raise ConfigError(f"no stage is called {until!r}; there are {', '.join(stage.name for stage in recipe.stages)}")
    override(recipe)  # changes nothing, and says which value is none that could be
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.is_main_process:
        write_record(recipe, workshop.drawn.contents if workshop.drawn else {}, out)
        mend(out / _SKIPPED)  # a line that was torn when something stopped is written again
    state.wait_for_everyone()
    set_seed(recipe.seed)
    model = workshop.model
    check_lora(model, recipe.stages)
    check_memory(recipe, workshop)
    check_parts(model, recipe.stages)
    check_scenes(recipe, workshop)
    fresh = isinstance(recipe.start, Embedded) and not recipe.start.trained
    if fresh:
        begin_projector(workshop)
    looks_up = fresh and isinstance(recipe.start, Embedded) and recipe.start.lookup
    helper: dict[str, Tensor] = {}
    for stage in recipe.stages:
        set_seed(recipe.seed)  # what a stage draws hangs on no other: a run may begin with any of them
        if stage.lora_rank:
            add_lora(model, stage)
        if "memory" in stage.learning_rates:
            begin_memory(workshop)
        done = out / stage.name / "trained.safetensors"
        if looks_up and "pre_fusion" in stage.learning_rates:
            begin_lookup(workshop)
            looks_up = False
        if done.is_file():
            trained = _Trained(load_file(done))
            model.load_state_dict(trained, strict=False)
        else:
            skipped = Skipped(out / _SKIPPED, skip_bad)
            trained = _train(recipe, stage, workshop, out / stage.name, skipped, helper)
            if state.is_main_process:
                _save_whole({name: value for name, value in trained.items() if _is_trained(name, recipe)}, done)
            state.wait_for_everyone()
            more = stage is not recipe.stages[-1] and stage.name != until
            if trained.stopped or (trained.sharded and more):
                raise TrainingError(f"stage {stage.name} is done; the same command goes on from there")
        helper |= _helper(trained)  # what a stage has learned is there when its kind comes again
        if stage.name == until:
            return out / stage.name
    if state.is_main_process:
        _write_result(recipe, workshop, out)
    state.wait_for_everyone()
    return out / "model"


class _Trained(dict[str, Tensor]):
    """Tensors of the whole model by name."""

    sharded = False
    stopped = False
    """Whether a signal came during the last step."""


def _helper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is learned beside the model and goes into no result."""
    return {name: value for name, value in tensors.items() if part_of(name) == "helper"}


def _train(
    recipe: Recipe, stage: Stage, workshop: Workshop, out: Path, skipped: Skipped, helper: Mapping[str, Tensor]
) -> _Trained:
    out.mkdir(parents=True, exist_ok=True)
    objective = build_objective(stage, workshop)
    objective.load_state_dict(helper, strict=False)  # of another kind it has other names
    learn_only(objective, stage.learning_rates)
    checkpoint, step = last_checkpoint(out)
    state = PartialState()
    size, accumulated = divide_step(stage, state.num_processes)
    _same_precision(recipe)
    seed = seed_of(recipe, stage)
    collator = build_collator(take_share(stage, state.num_processes), workshop, seed)
    if isinstance(recipe.start, Embedded) and recipe.start.trained and "helper.silence" not in helper:
        begin_silence(objective, workshop, collator)
    mixture, controls = open_data(stage, workshop, collator, seed, skipped)
    steps = count_steps(stage, mixture)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulated,
        activation_checkpointing=stage.checkpoint_activations,
        bf16=recipe.precision == "bfloat16",
        lr_scheduler_type=stage.schedule,
        warmup_steps=round(stage.warmup_ratio * steps),
        max_grad_norm=stage.max_gradient_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if controls else "no",
        eval_steps=min(stage.evaluate_every or steps, steps),
        save_steps=recipe.save_every,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        report_to=list(recipe.report_to),
        run_name=f"{recipe.name}-{stage.name}",
        remove_unused_columns=False,
        ignore_data_skip=True,  # the batches begin where the run was stopped
        disable_tqdm=not state.is_main_process,
    )
    arguments.device  # noqa: B018 - counts the GPUs, which transformers would share out in threads of one process
    arguments._n_gpu = min(1, arguments.n_gpu)
    stops = StopsOnSignal()
    trainer = StageTrainer(
        stage,
        workers=stage.data.workers if isinstance(stage.data, Files) else 0,
        controls=controls,
        model=objective,
        args=arguments,
        train_dataset=MicroBatches(
            mixture, collator, size, skipped, state.process_index, state.num_processes, first=step * accumulated
        ),
        eval_dataset=[] if controls else None,
        callbacks=[JsonLines(out / "loss.jsonl"), stops],
    )
    divided = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if stage.ema and divided:
        raise ConfigError(
            f"stage {stage.name!r} has ema, which works where every device holds the whole model; set it to 0"
        )
    try:
        if checkpoint and step >= steps and not divided:  # stopped after its last step
            trainer._load_from_checkpoint(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
    except DataError as error:  # of a worker process, it brings that one's traceback; its last line is the message
        raise DataError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from None
    finally:
        stops.end()
    if stops.stopped:
        raise TrainingError(
            f"stopped at step {trainer.state.global_step} of {steps}; the same command goes on from there"
        )
    if trainer.mean is not None:
        trainer.mean.take(objective)
    trained = _Trained({**workshop.model.state_dict(), **_helper(objective.state_dict())})
    if divided:
        trained = _Trained(trainer.accelerator.get_state_dict(trainer.model_wrapped))
        trained.sharded = True
    trained.stopped = stops.asked
    return trained


def _same_precision(recipe: Recipe) -> None:
    """Refuse a launcher that would let a float32 recipe compute in another precision, unseen."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if recipe.precision == "float32" and launched not in ("no", "fp32"):
        raise ConfigError(
            f"the launcher computes in {launched}, the recipe in float32; set precision=bfloat16 or another"
        )


def _is_trained(name: str, recipe: Recipe) -> bool:
    parts = {part for stage in recipe.stages for part in stage.learning_rates}
    if isinstance(recipe.start, Embedded):
        parts |= {"projector", "compression", "memory", "context", "pre_fusion", "lora"}
    return part_of(name) in parts


def _write_result(recipe: Recipe, workshop: Workshop, out: Path) -> None:
    """Write an adapter of the embedded model's parts, or a model folder; where only LoRA learned, PEFT's form too."""
    learned: dict[str, Tensor] = {}
    for stage in recipe.stages:
        learned |= load_file(out / stage.name / "trained.safetensors")
    plain = plain_names({name: value for name, value in learned.items() if part_of(name) != "helper"})
    if workshop.base is None:
        metadata = {"recipe": recipe.name, "lora_scale": str(LORA_SCALE)}
        adapter = {name: value.half() for name, value in plain.items()}
        if not (out / "model").exists():
            _save_model(workshop, adapter, out / "model")
        _save_whole(adapter, out / "adapter.safetensors", metadata)
        return
    only_lora = [stage for stage in recipe.stages if set(stage.learning_rates) == {"lora"}]
    if len(only_lora) == len(recipe.stages):
        save_peft(learned, lora_config(recipe.stages[-1].lora_rank, recipe.stages[-1].lora_on), out / "adapter")
    if not (out / "model").exists():
        put_into(workshop.base, plain, out / "model", scale=lambda _: LORA_SCALE)


def _save_model(workshop: Workshop, adapter: dict[str, Tensor], folder: Path) -> None:
    """Write the model as the adapter makes it, in fp32, LoRA folded in."""
    state = workshop.model.state_dict()
    base = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
    model = LlavaMiniForConditionalGeneration(workshop.model.config)
    model.load_state_dict(base)
    load_adapter(model, adapter)
    model.generation_config = workshop.model.generation_config
    partial = folder.with_suffix(".part")
    model.save_pretrained(partial)
    workshop.processor.save_pretrained(partial)
    partial.rename(folder)


def _save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a file that is there only when it is whole."""
    partial = path.with_suffix(".part")
    whole = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    try:
        save_file(whole, partial, metadata=metadata)
        partial.rename(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"{path} could not be written ({reason}); the last checkpoint is intact") from error
