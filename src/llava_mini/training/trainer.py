"""transformers' Trainer with what a stage needs beside it: a rate a part, whole checkpoints, exact resume, controls."""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from llava_mini.data.mixture import StreamMixture
from llava_mini.errors import TrainingError
from llava_mini.training.batches import MicroBatches
from llava_mini.training.stages import Stage, part_of

_UNFINISHED = "unfinished"
_CHECKPOINTS_KEPT = 1
_NO_NUMBERS = ("epoch", "total_flos")
"""What transformers logs of data sets without an end: shares of `max_steps`, and nothing."""
_TOLD_EVERY_S = 30.0


class StageTrainer(Trainer):
    """A Trainer with one learning rate a part, and checkpoints of the learned tensors that are whole or not there."""

    def __init__(
        self,
        stage: Stage,
        *,
        workers: int = 0,
        controls: Mapping[str, Iterable[dict[str, Tensor]]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Join a stage to transformers' Trainer.

        Args:
            workers: processes that prepare batches beside the training.
            controls: held-out batches by name: with their own pictures, and with others'.
        """
        super().__init__(**kwargs)
        self.stage = stage
        self.workers = workers
        self.controls = controls or {}
        self.mean = WeightMean(stage.ema) if stage.ema else None
        self._saving = False
        if self.mean is not None:
            self.add_callback(self.mean)
        self.remove_callback(ProgressCallback)
        if not self.args.disable_tqdm:
            self.add_callback(Progress())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Group the parameters by part."""
        if self.optimizer is None:
            groups: dict[str, list[nn.Parameter]] = {}
            for name, parameter in (model or self.model).named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(str(part_of(name)), []).append(parameter)
            self.optimizer: Any = torch.optim.AdamW(
                [{"params": group, "lr": self.stage.learning_rates[part]} for part, group in groups.items()],
                weight_decay=self.stage.weight_decay,
            )
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Give each process its own micro-batches; they are divided already, so nobody divides them again."""
        assert isinstance(self.train_dataset, MicroBatches)
        # The threads that read a stream do not survive a fork: such workers begin afresh.
        fresh = self.workers > 0 and isinstance(self.train_dataset.reader, StreamMixture)
        return DataLoader(
            self.train_dataset,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="spawn" if fresh else None,
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and stop at once when numbers are lost, before a checkpoint is written of them."""
        super().log(logs, *args, **kwargs)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                told = f"{name} is {logs[name]} at step {self.state.global_step}; try a lower learning rate"
                raise TrainingError(f"{told}, or go on from the checkpoint before")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out loss with the right pictures and with others'; log both and what pictures are worth."""
        self.model.eval()
        metrics = {f"eval_loss{name}": self._held_out_loss(batches) for name, batches in self.controls.items()}
        self.model.train()
        if "eval_loss_shuffled" in metrics:
            metrics["eval_gain"] = metrics["eval_loss_shuffled"] - metrics["eval_loss"]
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _held_out_loss(self, batches: Iterable[dict[str, Tensor]]) -> float:
        """Return the mean loss of a supervised token; of a batch, where none is supervised."""
        total, count = 0.0, 0
        for batch in batches:
            answers = {"num_items_in_batch": 1} if "labels" in batch else {}
            with self.compute_loss_context_manager():
                out = self.model_wrapped(**self._prepare_inputs(batch), **answers)
            total += float(out["answer_loss"] if answers else out["loss"])
            count += int((batch["labels"][:, 1:] != -100).sum()) if answers else 1
        return total / max(1, count)

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)
        return str(Path(folder) / _UNFINISHED) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside and rename it: whoever is killed in the middle leaves the one before it intact."""
        folder = Path(self.args.output_dir)
        unfinished, name = folder / _UNFINISHED, f"checkpoint-{self.state.global_step}"
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
            if self.args.world_size > 1:
                torch.distributed.barrier()
            if self.args.should_save:
                _flush(unfinished / name)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{folder / name} could not be written ({reason}); the one before it is intact"
            ) from error
        finally:
            self._saving = False
        if self.args.should_save:
            shutil.rmtree(folder / name, ignore_errors=True)
            (unfinished / name).rename(folder / name)
            shutil.rmtree(unfinished, ignore_errors=True)
            for older in sorted(checkpoints(folder))[:-_CHECKPOINTS_KEPT]:
                shutil.rmtree(folder / f"checkpoint-{older}", ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(self.learned(state_dict), folder / "model.safetensors")
            if self.mean is not None:
                save_file(self.mean.tensors, folder / "mean.safetensors")

    def learned(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the tensors that learn, by name; whole ones also where the model is sharded, if `state` is given."""
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        whole = dict(self.model.named_parameters()) if state is None else state
        return {name: whole[name].detach().clone().contiguous() for name in names}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        tensors, options = load_file(folder / "model.safetensors"), StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(model or self.model, dict(tensors), options=options)  # also where they are divided
        if self.mean is not None:
            self.mean.tensors = load_file(folder / "mean.safetensors", device=str(self.args.device))


def checkpoints(folder: Path) -> Iterator[int]:
    """Give the steps of the whole checkpoints in a stage's folder."""
    for path in folder.glob("checkpoint-*"):
        with suppress(ValueError):
            yield int(path.name.removeprefix("checkpoint-"))


def last_checkpoint(folder: Path) -> tuple[str | None, int]:
    """Return the last whole checkpoint of a stage and its step; remains of a torn one are taken away."""
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return found, max(checkpoints(folder), default=0)


class WeightMean(TrainerCallback):
    """A running mean of the learned weights: mean ← decay · mean + (1 − decay) · weights, after every step."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Begin with the weights, unless a checkpoint brought the mean."""
        if not self.tensors:
            self.tensors = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Move the mean towards the weights."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.tensors[name].lerp_(parameter.detach(), 1 - self.decay)

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Put the mean in the place of the weights."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(self.tensors[name])


class JsonLines(TrainerCallback):
    """Write every logged step to `loss.jsonl`; a run that goes on from a checkpoint writes what came after it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop the lines of steps that will be taken again."""
        if state.is_world_process_zero and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
            partial = self.path.with_suffix(".part")
            with self._told_apart():
                partial.write_text("".join(kept), encoding="utf-8")
                partial.rename(self.path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):  # a sum over this start alone
            told = {name: value for name, value in (logs or {}).items() if name not in _NO_NUMBERS}
            with self._told_apart(), self.path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": state.global_step, "time": round(time.time()), **told}) + "\n")

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (error.strerror or "unknown error").lower()
            raise TrainingError(f"{self.path} cannot be written: {reason}; the last checkpoint is intact") from error


class Progress(TrainerCallback):
    """Loss and time left: a bar in a terminal, elsewhere a line now and then."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show how far an earlier run came."""
        if state.is_world_process_zero:
            self.name, self.first, self.began, self.told = (
                Path(args.output_dir).name,
                state.global_step,
                time.monotonic(),
                0.0,
            )
            begin = f", from step {state.global_step}" if state.global_step else ""
            print(f"{self.name}: {state.max_steps} steps{begin}", file=sys.stderr, flush=True)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step", disable=None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Show the loss."""
        if self.bar is None or not logs:
            return
        shown = {name: f"{logs[name]:.3f}" for name in ("loss", "eval_loss", "eval_loss_shuffled") if name in logs}
        self.bar.set_postfix(shown, refresh=False)
        last = state.global_step == state.max_steps
        if self.bar.disable and "loss" in logs and (last or time.monotonic() - self.told > _TOLD_EVERY_S):
            done = state.global_step - self.first
            left = (time.monotonic() - self.began) / max(1, done) * (state.max_steps - state.global_step)
            where = f"{self.name}: step {state.global_step} of {state.max_steps}"
            print(f"{where}, loss {shown['loss']}, {left / 60:.0f} min left", file=sys.stderr, flush=True)
            self.told = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move on by one."""
        if self.bar is not None:
            self.bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class StopsOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C: finish the step, write a checkpoint, stop; on all processes at the same step.

    A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.asked = self.stopped = False
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen; only a program's main thread may."""
        with suppress(ValueError):
            self._before = {one: signal.signal(one, self._ask) for one in (signal.SIGTERM, signal.SIGINT)}

    def _ask(self, *_: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _any_asked(self, args: Any) -> bool:
        if args.world_size == 1:
            return self.asked
        votes = torch.tensor(int(self.asked), device=args.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return bool(votes)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if any process was asked to."""
        if self._any_asked(args) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen no more; from here on all processes know whether any was asked."""
        self.asked = self._any_asked(args)
        self.end()

    def end(self) -> None:
        """Listen no more, as after an error too."""
        while self._before:
            signal.signal(*self._before.popitem())


def _flush(folder: Path) -> None:
    """Let the disk have what was written, before a name says that it is whole."""
    paths: Sequence[Path] = [*folder.rglob("*"), folder]
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
