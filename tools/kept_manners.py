"""How well a language model still gives its own answers without a picture, after it has learned pictures.

The texts hold what the embedded model's language model answered as it came (`llava-mini data texts`); take some that no
training has seen. Loss is in nats a token, the mean over texts; how much it is above the language model's own has the
95 % interval of pairs drawn anew; alike are the tokens that are still the likeliest, each after those before it.

    python tools/kept_manners.py data/texts-unseen.jsonl embedded runs/mine/model
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional as F

from llava_mini.assistant import EMBEDDED, Assistant
from llava_mini.checkpoints.embedded import assemble
from llava_mini.data.collator import IGNORED, ExampleCollator
from llava_mini.data.examples import example_of
from llava_mini.data.texts import read_texts
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.intervals import paired_difference
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration


@torch.no_grad()
def read_answers(
    model: LlavaMiniForConditionalGeneration, processor: LlavaMiniProcessor, texts: Sequence[tuple[str, str]]
) -> tuple[list[float], list[float]]:
    """Return, of each text, the loss of its answer and the share of its tokens that are the likeliest."""
    collator = ExampleCollator(processor, model.config.tokens_per_frame)
    losses, alike = [], []
    for question, answer in texts:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        batch = collator.join([collator.prepare(example_of({"messages": messages}, question, Path()))])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0, :-1]
        targets = batch["labels"][0, 1:]
        logits, targets = logits[targets != IGNORED], targets[targets != IGNORED]
        losses.append(float(F.cross_entropy(logits, targets)))
        alike.append(float((logits.argmax(-1) == targets).float().mean()))
    return losses, alike


def main(path: Path, folders: Sequence[str]) -> None:
    """Print the table in Markdown."""
    texts = read_texts(path)
    own, alike = read_answers(*assemble(None), texts)
    print(f"| {len(texts)} answers without a picture | loss | above its own (95 %) | alike |\n|---|---|---|---|")
    print(f"| the language model as it came | {fmean(own):.3f} |  | {100 * fmean(alike):.1f} % |")
    for folder in folders:
        assistant = Assistant.load(None if folder == EMBEDDED else folder, device="cpu", dtype="float32")
        losses, alike = read_answers(assistant.model, assistant.processor, texts)
        more, low, high = paired_difference(own, losses)
        row = f"{fmean(losses):.3f} | {more:.3f} ({low:.3f}–{high:.3f}) | {100 * fmean(alike):.1f} %"
        print(f"| {folder} | {row} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
