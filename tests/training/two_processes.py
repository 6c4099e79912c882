"""What two processes do in tests/training/test_distributed.py: `torchrun two_processes.py ddp|fsdp FOLDER`."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from own_data import ALL, make_recipe
from test_run import done, opened
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from llava_mini.data.collator import Skipped
from llava_mini.training.objectives import Answers
from llava_mini.training.sharding import save_sharded, shard
from llava_mini.training.stage_setup import build_collator, open_data
from llava_mini.training.stages import learn_only


def train_in_ddp(folder: Path) -> None:
    done(make_recipe(folder, steps=4, save_every=2, workers=1, per_device=1), folder / "ddp")


def one_step(folder: Path, *, sharded: bool) -> tuple[float, dict[str, torch.Tensor], torch.nn.Module]:
    recipe = make_recipe(folder)
    shop = opened(recipe, folder / "none")
    stage = recipe.stages[0]
    objective = Answers(shop.model, through="answers").train()
    learn_only(objective, ALL)
    if sharded:
        shard(objective, init_device_mesh("cpu", (2,)))
        assert all(isinstance(parameter, DTensor) for parameter in objective.parameters())
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    collator = build_collator(stage, shop, 0)
    reader, _ = open_data(stage, shop, collator, 0, Skipped(folder / "skipped.jsonl", 0))
    batch = collator.join([collator.prepare(item) for _, item in zip(range(4), reader.read(0, 1, 4, 0), strict=False)])
    loss = objective(**batch)["loss"]
    loss.backward()
    optimizer.step()
    full = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in objective.named_parameters()}
    return float(loss), full, objective


def step_in_fsdp(folder: Path) -> None:
    dist.init_process_group("gloo")
    plain_loss, plain, _ = one_step(folder, sharded=False)
    loss, weights, objective = one_step(folder, sharded=True)
    furthest = max(float((weights[name] - plain[name]).abs().max()) for name in plain)
    save_sharded(objective, folder / "distributed")
    if dist.get_rank() == 0:
        torch.save({name: value.detach() for name, value in plain.items()}, folder / "plain.pt")
        (folder / "fsdp.json").write_text(json.dumps({"plain": plain_loss, "loss": loss, "furthest": furthest}))
    dist.barrier()  # who leaves first would take the connection from under the other
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"ddp": train_in_ddp, "fsdp": step_in_fsdp}[sys.argv[1]](Path(sys.argv[2]))
