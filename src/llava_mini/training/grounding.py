"""The warm-up between alignment and stage 2: words learn to read the picture, many at once, before any is a question.

Ours, not the paper's; switched by leaving the stage out. A question asks for one fact and costs twenty tokens of
pre-fusion; a name in a list is asked for six facts and costs two.
L text · K mentions · M pictures · N² patches · V words · d width.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.data.answers import NUMBERS, PLACES
from llava_mini.data.colours import COLOURS
from llava_mini.data.mentions import Mention
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.llava_mini import LlavaMiniModel
from llava_mini.model.projector import RMSNorm
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.training.alignment import ACROSS, DOWN, WordTable, third_of

Fact = Literal["present", "number", "colour", "across", "down", "side", "height", "size", "place", "holds", "name"]
FACT_WORDS: dict[Fact, tuple[str, ...]] = {
    "present": ("no", "yes"),
    "number": NUMBERS[1:5],
    "colour": COLOURS,
    "across": ACROSS,
    "down": DOWN,
    "side": ("west", "east"),
    "height": ("above", "below"),
    "size": ("smaller", "bigger"),
    "place": tuple(PLACES),
    "holds": ("no", "yes"),
}
"""The words of each fact; a name may be any word of the table."""
_BETWEEN = ("", "", ",", ".", " the", " a", " and", " or", "?", " is", " in", " of the", " are the")
_ASKING = (
    *("What", "Which", "Is there a", "Are there any", "Do you see", "Can you see a", "Does it show a", "How many"),
    *("Count the", "Where is the", "On which side is the", "In which part is the", "Which one, the"),
    *("What color is the", "What colour is the", "Tell me the color of the", "Which colour does the", "have?"),
    *("do you see?", "are there?", "here?", "What is the number of", "Name the", "Describe"),
)
"""Words of questions; none that a mention says something of, as "left" or "picture"."""
_ENDINGS = (
    "",
    "?",
    "? Answer in one word.",
    "? Answer with one word.",
    "? One word only.",
    "? Reply with a single word.",
)
_ANSWERS = "<|im_end|>\n<|im_start|>assistant\n"
_ASKED = 0.25
"""How often words of questions stand before a name."""


class MentionReader(nn.Module):
    """Reads facts and boxes off what pre-fusion added to a word; thrown away when training is over.

    loss = mean over facts that are known of CE(added, word of the fact) + w_box · |probe(added) − box|
         + w_silence · (1 − cos(added, one vector for all words that name nothing)).
    What is added has one size for all words: a word that says nothing of the picture would say anything, as loud.
    """

    def __init__(self, table: WordTable, *, box_weight: float = 1.0, silence_weight: float = 1.0) -> None:
        super().__init__()
        width = table.embeddings.shape[1]
        self.norm = RMSNorm(width)
        self.box = nn.Linear(width, 4)
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.silence = nn.Parameter(torch.randn(width))
        self.words = nn.Buffer(table.embeddings, persistent=False)
        self.box_weight, self.silence_weight = box_weight, silence_weight
        self.choices = {fact: [table.index(word) for word in words] for fact, words in FACT_WORDS.items()}

    @torch.no_grad()
    def begin_silence(self, added: Tensor, silent: Tensor) -> None:
        """Begin silence as the mean direction of words that name nothing; the arguments are those of `forward`."""
        said = F.normalize(self.norm(added[silent[:, 0], silent[:, 1]]), dim=-1).mean(dim=0)
        self.silence.copy_(F.normalize(said, dim=0) * len(said) ** 0.5)  # as long as a random one

    def forward(self, added: Tensor, mentions: Tensor, boxes: Tensor, silent: Tensor, **facts: Tensor) -> Tensor:
        """Return the loss.

        Args:
            added: `(M, L, d)`, fused words less the words.
            mentions: `(K, 2)`, row and column of each mention's last token.
            boxes: `(K, 4)`, centre and size as shares of the side; not a number where there is no box.
            silent: `(W, 2)`, row and column of words that name nothing.
            facts: `(K,)` each: which of the fact's words is right, −100 where none is.
        """
        read = self.norm(added[mentions[:, 0], mentions[:, 1]])
        scores = F.normalize(read, dim=-1) @ self.words.T * self.scale.exp()
        losses = [
            F.cross_entropy(scores[:, self.choices[fact]] if fact in self.choices else scores, facts[fact])
            for fact in get_args(Fact)
            if fact in facts and bool((facts[fact] >= 0).any())
        ]
        loss = torch.stack(losses).mean()
        placed = boxes.isfinite().all(dim=-1)
        if bool(placed.any()):
            loss = loss + self.box_weight * (self.box(read[placed]) - boxes[placed]).abs().mean()
        quiet = self.norm(added[silent[:, 0], silent[:, 1]])
        return loss + self.silence_weight * (1 - F.cosine_similarity(quiet, self.silence, dim=-1)).mean()


def ground(model: LlavaMiniModel, reader: MentionReader, prefix: VisionPrefix, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of `grounding_batch`'s rows of names, each beside one picture of a prefix."""
    facts = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    loss: Tensor = reader(added_to_words(model, prefix, batch), **facts)
    return loss


def added_to_words(model: LlavaMiniModel, prefix: VisionPrefix, batch: Mapping[str, Tensor]) -> Tensor:
    """Return what pre-fusion adds to each word of `grounding_batch`'s rows, `(M, L, d)`."""
    words: Tensor = model.get_input_embeddings()(batch["input_ids"])
    return model.fuse(words, batch["attention_mask"].bool(), [prefix]).words - words.detach()


class WordGrounding(nn.Module):
    """The loss of `MentionReader` alone."""

    def __init__(self, model: LlavaMiniForConditionalGeneration, table: WordTable, **weights: float) -> None:
        super().__init__()
        self.model = model.model
        self.helper = MentionReader(table, **weights)

    def activation_checkpointing_enable(self, **how: object) -> None:
        """Checkpoint the activations of pre-fusion."""
        self.model.activation_checkpointing_enable(**how)

    def forward(self, vision_features: Tensor, mentions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss.

        Args:
            vision_features: `(M, P, N², d_v)`, one row of names each.
            mentions: what `grounding_batch` returned.
        """
        frames = torch.ones(len(vision_features), dtype=torch.long, device=vision_features.device)
        return {"loss": ground(self.model, self.helper, self.model.encode_features(vision_features, frames), mentions)}


def grounding_batch(
    rows: Sequence[Sequence[Mention]], table: WordTable, tokenizer: Any, rng: random.Random
) -> dict[str, Tensor]:
    """Write each picture's mentions as one row of words.

    Returns:
        `input_ids` and `attention_mask` `(M, L)`; the other arguments of `MentionReader`, of M rows.
    """
    written = [_write(mentions, tokenizer, rng) for mentions in rows]
    longest = max(len(ids) for ids, _, _ in written)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, (ids, _, _) in enumerate(written):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = 1
    where = [(row, place) for row, (_, places, _) in enumerate(written) for place in places]
    silent = [(row, place) for row, (_, _, places) in enumerate(written) for place in places]
    flat = [mention for mentions in rows for mention in mentions]
    targets = [_targets(mention, table) for mention in flat]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mentions": torch.tensor(where),
        "silent": torch.tensor(silent),
        "boxes": torch.tensor([mention.box or (float("nan"),) * 4 for mention in flat]),
        **{fact: torch.tensor([target[fact] for target in targets]) for fact in get_args(Fact)},
    }


def _write(mentions: Sequence[Mention], tokenizer: Any, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens of a row, the places of each mention's last one, and of all words between the mentions."""
    ids: list[int] = []
    places: list[int] = []
    silent: list[int] = []

    def write(text: str) -> None:
        ids.extend(tokenizer(text, add_special_tokens=False)["input_ids"])

    def between(text: str) -> None:
        begin = len(ids)
        write(text)
        silent.extend(range(begin, len(ids)))

    between("<|im_start|>user\n")
    for mention in mentions:
        if not mention.joined:
            between(f" {rng.choice(_ASKING)}" if rng.random() < _ASKED else rng.choice(_BETWEEN))
        if mention.lead:
            between(f" {mention.lead}")
        write(f" {mention.text}")
        places.append(len(ids) - 1)
    between(rng.choice(_ENDINGS) + _ANSWERS)
    return ids, places, silent


def _targets(mention: Mention, table: WordTable) -> dict[Fact, int]:
    """Return which word of each fact is right, −100 for none."""
    said: dict[Fact, str | None] = {
        "present": None if mention.present is None else FACT_WORDS["present"][mention.present],
        "holds": None if mention.holds is None else FACT_WORDS["holds"][mention.holds],
        "number": None if mention.number is None else NUMBERS[mention.number],
        "colour": mention.colour,
        "side": mention.side,
        "height": mention.height,
        "size": mention.size,
        "place": mention.place,
    }
    found: dict[Fact, int] = {
        fact: FACT_WORDS[fact].index(word) if word in FACT_WORDS[fact] else -100 for fact, word in said.items()
    }
    found["across"] = -100 if mention.box is None else third_of(mention.box[0])
    found["down"] = -100 if mention.box is None else third_of(mention.box[1])
    found["name"] = table.index(mention.name)
    return found
