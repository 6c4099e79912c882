"""The table of the compared forms from saved results: accuracy of each seed beside its controls, and work.

Work is GFLOP of one question without the tower, and "again" of one about a picture that is known. Of each kind of
question the mean of its seeds is told, in brackets what it is with another's picture.

    python tools/compare_forms.py docs/results/forms

The folder holds what `llava-mini evaluate shapes --json` printed of each training, as `<recipe>-<seed>.json`.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava_mini.checkpoints.embedded import assemble
from llava_mini.profiling.flops import count_run
from llava_mini.training.embedded_recipes import COMPARED

QUESTION = "How many stars are in the picture?"


@torch.no_grad()
def work(changes: dict[str, Any]) -> tuple[int, float, float]:
    """Return vision tokens, and GFLOP of a question before and after which its picture is known, without the tower."""
    model, processor = assemble(None, **changes)
    picture = Image.new("RGB", (260, 260), "grey")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    inputs = processor.tokenize_conversations([[{"role": "user", "content": content}]], add_generation_prompt=True)
    features = model.model.get_vision_features(processor.prepare_frames([picture])[None])
    prefix = model.model.encode_images(vision_features=features)
    picture_flops = count_run(lambda: model.model.encode_images(vision_features=features))
    again = count_run(lambda: model(**inputs, vision_prefix=prefix, logits_to_keep=1))
    return model.config.tokens_per_frame, (picture_flops + again) / 1e9, again / 1e9


def main(folder: Path) -> None:
    """Print the table in Markdown, the forms in the order of `COMPARED`."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("compare-*.json")):
        recipe, _, seed = path.stem.rpartition("-")
        found = json.loads(path.read_text(encoding="utf-8")).get("shapes")
        if found is None or recipe not in COMPARED or not seed.isdecimal():
            sys.exit(f"{path} is no result of 'llava-mini evaluate shapes --json' as <recipe>-<seed>.json")
        results.setdefault(recipe, {})[int(seed)] = found
    if not results:
        sys.exit(f"no compare-*.json in {folder}")
    every = [one for of_form in results.values() for one in of_form.values()]
    asked = {kind: sorted({one.get(kind, {"n": 0})["n"] for one in every}) for result in every for kind in result}
    if unequal := [kind for kind, counts in asked.items() if len(counts) > 1]:
        sys.exit(f"the results in {folder} are of {asked[unequal[0]]} questions; give all the same --limit")
    kinds = [kind for kind in asked if kind != "all"]
    seeds = sorted({seed for of_form in results.values() for seed in of_form})
    heads = ("form", "tokens", "GFLOP", "again", *(f"seed {seed}" for seed in seeds), "shuffled", "blank", *kinds)
    print(f"| {' | '.join(heads).replace('_', '-')} |")
    print("|---" * len(heads) + "|")
    for recipe, (summary, changes) in COMPARED.items():
        if recipe not in results:
            continue
        tokens, first, again = work(changes)
        each = [_right(results[recipe][seed]["all"]) if seed in results[recipe] else "–" for seed in seeds]
        mean = partial(_mean, list(results[recipe].values()))
        controls = [f"{mean('all', control):.1f}" for control in ("shuffled", "blank")]
        by_kind = [f"{mean(kind, 'accuracy'):.0f} ({mean(kind, 'shuffled'):.0f})" for kind in kinds]
        cells = [summary, str(tokens), f"{first:.1f}", f"{again:.1f}", *each, *controls, *by_kind]
        print(f"| {' | '.join(cells)} |")


def _right(row: dict[str, Any]) -> str:
    right, low, high = (100 * float(row[name]) for name in ("accuracy", "low", "high"))
    return f"{right:.1f} ({low:.0f}–{high:.0f})"


def _mean(seeds: Sequence[dict[str, Any]], kind: str, value: str) -> float:
    """Return the mean over seeds, in percent."""
    return 100 * sum(float(seed[kind][value]) for seed in seeds) / len(seeds)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
