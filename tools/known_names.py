"""Which part of a model knows what a picture shows, and which of them the answer is made of.

Of each naming question: the known name nearest to the vision token; the one nearest to what pre-fusion adds to the last
word of "What do you see in the picture", without the scale that training learns beside it and throws away; the answer;
the answer with words that have not read the picture. The first two choose out of a list, which has a right name for so
many (*listed*), an answer may say anything. Percent right (95 %) / with another's picture. At last the answer with the
vision token of another picture beside the words that have read this one: percent that say what this one shows / what
the other does. Of development scenes and of the benchmark's photographs, whole ones and those cut out on white.

    python tools/known_names.py data/sources embedded runs/mine/model
"""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Reading:
    """What is read of one picture and its question."""

    token: str
    """The name nearest to the vision token."""
    word: str
    """The name nearest to a fused word."""
    answer: str
    unfused: str
    """The answer with words that have not read the picture."""
    swapped: str
    """The answer with the vision token of another picture."""


@torch.no_grad()
def read_names(
    assistant: Assistant, questions: Sequence[str], shown: Sequence[Media], others: Sequence[Media], table: WordTable
) -> Iterator[Reading]:
    """Read each picture; the other one lends its vision token."""
    rows = grounding_batch([[_READ]] * BATCH, table, assistant.processor.tokenizer, random.Random(0))
    for start in range(0, len(shown), BATCH):
        asked, some = questions[start : start + BATCH], shown[start : start + BATCH]
        prefix, other = (
            VisionPrefix.concatenate([assistant.encode(one) for one in media[start : start + BATCH]])
            for media in (shown, others)
        )
        words = {name: rows[name][: len(some)] for name in ("input_ids", "attention_mask")}
        row, column = rows["mentions"][: len(some)].T
        fused = added_to_words(assistant.model.model, prefix, words)[row, column]
        forms = (prefix, replace(prefix, states=[]), replace(prefix, tokens=other.tokens))
        said = [answer(assistant, asked, some, form, 16) for form in forms]
        for read in zip(_nearest(prefix.tokens.mean(1), table), _nearest(fused, table), *said, strict=True):
            yield Reading(*read)


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
    print(f"| names out of {len(names)} | n | listed | vision token | word | answer | unread words | another's token |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in folders:
        assistant = Assistant.load(None if folder == EMBEDDED else folder, device="cpu", dtype="float32")
        embedded = embed_words(names, assistant.model.word_embeddings, assistant.processor.tokenizer)
        table = WordTable(tuple(names), F.normalize(embedded, dim=-1))
        for which, (items, media) in asked.items():
            listed = sum(any(item.is_right(_say(name)) for name in names) for item in items)
            row = _row(assistant, items, media, table)
            print(f"| {folder}: {which} | {len(items)} | {listed} | {row} |", flush=True)


def _row(assistant: Assistant, items: Sequence[Item], media: Sequence[Media], table: WordTable) -> str:
    questions, shown = [item.question for item in items], [media[item.picture] for item in items]
    half = len(shown) // 2  # neighbours may show the same thing
    others, other_items = [*shown[half:], *shown[:half]], [*items[half:], *items[:half]]
    own = list(read_names(assistant, questions, shown, others, table))
    blind = list(read_names(assistant, questions, others, shown, table))
    cells = []
    for part in ("token", "word", "answer", "unfused"):
        right = [item.is_right(getattr(one, part)) for item, one in zip(items, own, strict=True)]
        low, high = wilson(sum(right), len(right))
        without = _percent(items, [getattr(one, part) for one in blind])
        cells.append(f"{100 * sum(right) / len(right):.0f} ({100 * low:.0f}–{100 * high:.0f}) / {without:.0f}")
    swapped = [one.swapped for one in own]
    return " | ".join([*cells, f"{_percent(items, swapped):.0f} / {_percent(other_items, swapped):.0f}"])


def _percent(items: Sequence[Item], said: Sequence[str]) -> float:
    return 100 * sum(item.is_right(one) for item, one in zip(items, said, strict=True)) / len(items)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
