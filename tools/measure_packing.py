"""Supervised training steps with samples packed and padded, interleaved in one process: real tokens a second.

    python tools/measure_packing.py [ROUNDS]

The embedded model with LoRA as the recipe `lora` has it; answers of 5 to 200 tokens, log-uniform, seeded; no pictures,
so that the language model alone is measured.
"""

import json
import os
import platform
import statistics
import sys
import time

import numpy as np
import torch

from llava_mini.checkpoints.embedded import assemble
from llava_mini.data.collator import ExampleCollator
from llava_mini.data.examples import Example
from llava_mini.training.lora import add_lora
from llava_mini.training.objectives import Answers
from llava_mini.training.recipes import lora
from llava_mini.training.stages import learn_only

BATCH, WARM_UP = 16, 1


def main(rounds: int = 5) -> None:
    """Print one JSON line."""
    stage = lora().stages[0]
    model, processor = assemble()
    add_lora(model, stage)
    objective = Answers(model.train(), through="answers")
    learn_only(objective, stage.learning_rates)
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {"packed": [], "padded": []}
    shapes: dict[str, list[float]] = {"packed": [], "padded": []}
    for number in range(rounds + WARM_UP):
        words = np.exp(rng.uniform(np.log(5), np.log(200), size=BATCH)).astype(int)
        examples = [
            Example(
                "", [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": " and" * int(count)}]
            )
            for count in words
        ]
        for name in rates:
            collator = ExampleCollator(processor, 1, 512, packing=name == "packed")
            batch = collator.join([collator.prepare(example) for example in examples])
            tokens = int(batch["attention_mask"].sum())
            began = time.perf_counter()
            objective(**batch)["loss"].backward()
            took = time.perf_counter() - began
            if number >= WARM_UP:
                rates[name].append(tokens / took)
                shapes[name].append(1 - tokens / batch.get("packed", batch["input_ids"]).numel())
    line = {
        name: {
            "tokens_per_second": round(statistics.median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
            "padding": round(statistics.mean(shapes[name]), 3),
        }
        for name, values in rates.items()
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(json.dumps({**line, "batch": BATCH, "rounds": rounds, "machine": machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
