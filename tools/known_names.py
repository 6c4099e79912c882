"""Which part of a model knows what a picture shows: its vision token, a fused word, or its answer.

Of each naming question: the known name nearest to the vision token; the one nearest to what pre-fusion adds to the last
word of "What do you see in the picture", without the scale that training learns beside it and throws away; the answer.
The first two choose out of a list, which has a right name for so many (*listed*), the answer may say anything. Words
read the patches and not the token, so neither stands before the other. Percent right (95 %) / with another's picture,
of development scenes and of the benchmark's photographs, whole ones and those cut out on white.

    python tools/known_names.py data/sources embedded runs/mine/model
"""

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_mini.assistant import EMBEDDED, Assistant
from llava_mini.data.class_names import load_class_names
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.mentions import Mention
from llava_mini.data.names import with_article
from llava_mini.evaluation.asking import answer
from llava_mini.evaluation.controls import Item
from llava_mini.evaluation.suites import photographs, scenes
from llava_mini.inputs.processor import Media
from llava_mini.intervals import wilson
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.training.alignment import WordTable, embed_words
from llava_mini.training.grounding import added_to_words, grounding_batch

SCENES = 240
BATCH = 24
_READ = Mention("picture", lead="What do you see in the", joined=True)


@torch.no_grad()
def read_names(
    assistant: Assistant, questions: Sequence[str], shown: Sequence[Media], table: WordTable
) -> Iterator[tuple[str, str, str]]:
    """Read each picture in three ways: the name nearest to its token, the one nearest to the word, the answer."""
    rows = grounding_batch([[_READ]] * BATCH, table, assistant.processor.tokenizer, random.Random(0))
    for start in range(0, len(shown), BATCH):
        some = shown[start : start + BATCH]
        prefix = VisionPrefix.concatenate([assistant.encode(one) for one in some])
        words = {name: rows[name][: len(some)] for name in ("input_ids", "attention_mask")}
        row, column = rows["mentions"][: len(some)].T
        fused = added_to_words(assistant.model.model, prefix, words)[row, column]
        said = answer(assistant, questions[start : start + BATCH], some, prefix, 16)
        yield from zip(_nearest(prefix.tokens.mean(1), table), _nearest(fused, table), said, strict=True)


def _nearest(vectors: Tensor, table: WordTable) -> list[str]:
    scores = F.normalize(vectors, dim=-1) @ table.embeddings.T
    return [_say(table.words[best]) for best in scores.argmax(-1).tolist()]


def _say(name: str) -> str:
    return f"It is {with_article(name)}."


def main(sources: Path, folders: Sequence[str]) -> None:
    """Print the table in Markdown."""
    names = sorted({*(cutout.name for cutout in load_cutouts(sources, "train")), *load_class_names(sources)})
    drawn, photos = scenes(sources, SCENES), photographs(sources)
    asked: dict[str, tuple[list[Item], list[Media]]] = {
        "drawn scenes": ([item for item in drawn.items if item.kind == "name"], drawn.media),
        "photographs": ([item for item in photos.items if item.kind != "stamps"], photos.media),
        "cut out": ([item for item in photos.items if item.kind == "stamps"], photos.media),
    }
    print(f"| names out of {len(names)} | n | listed | vision token | word | answer |\n|---|---|---|---|---|---|")
    for folder in folders:
        assistant = Assistant.load(None if folder == EMBEDDED else folder, device="cpu", dtype="float32")
        embedded = embed_words(names, assistant.model.word_embeddings, assistant.processor.tokenizer)
        table = WordTable(tuple(names), F.normalize(embedded, dim=-1))
        for which, (items, media) in asked.items():
            listed = sum(any(item.is_right(_say(name)) for name in names) for item in items)
            questions, shown = [item.question for item in items], [media[item.picture] for item in items]
            half = len(shown) // 2  # neighbours may show the same thing
            own = read_names(assistant, questions, shown, table)
            other = read_names(assistant, questions, [*shown[half:], *shown[:half]], table)
            cells = [
                _told([item.is_right(one) for item, one in zip(items, said, strict=True)], items, without)
                for said, without in zip(zip(*own, strict=True), zip(*other, strict=True), strict=True)
            ]
            print(f"| {folder}: {which} | {len(items)} | {listed} | {' | '.join(cells)} |", flush=True)


def _told(right: Sequence[bool], items: Sequence[Item], without: Sequence[str]) -> str:
    low, high = wilson(sum(right), len(right))
    blind = sum(item.is_right(one) for item, one in zip(items, without, strict=True)) / len(items)
    return f"{100 * sum(right) / len(right):.0f} ({100 * low:.0f}–{100 * high:.0f}) / {100 * blind:.0f}"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
