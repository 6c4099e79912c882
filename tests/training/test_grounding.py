"""Words learn to read the picture: rows of names, what is right of each, and a loss that asks the picture."""

import random
import re

import torch
from tiny import EMBEDDED, tiny_model, tiny_processor
from torch.nn import functional as F

from llava_mini.data.colours import COLOURS
from llava_mini.data.mentions import _ALL, _CLAIMED, _TELLING, _THIS, Mention
from llava_mini.training.alignment import WordTable
from llava_mini.training.grounding import (
    _ASKING,
    _BETWEEN,
    _ENDINGS,
    FACT_WORDS,
    MentionReader,
    WordGrounding,
    grounding_batch,
)

WORDS = tuple(dict.fromkeys(["cat", "star", *(word for words in FACT_WORDS.values() for word in words)]))
CAT = Mention("cat", True, 2, colour="red", box=(0.9, 0.5, 0.2, 0.2))
RED = Mention("red", True, name="star")
DOG = Mention("dog", False)


def table() -> WordTable:
    generator = torch.Generator().manual_seed(0)
    return WordTable(WORDS, F.normalize(torch.randn(len(WORDS), 32, generator=generator), dim=-1))


def batch(*rows: list[Mention]) -> dict[str, torch.Tensor]:
    tokenizer = tiny_processor(tiny_model(**EMBEDDED).config).tokenizer
    return grounding_batch(rows, table(), tokenizer, random.Random(0))


def test_each_mention_is_asked_for_what_is_known_of_it() -> None:
    made = batch([CAT, RED], [DOG])
    assert made["mentions"][:, 0].tolist() == [0, 0, 1]
    assert made["present"].tolist() == [1, 1, 0]
    assert made["number"].tolist() == [1, -100, -100]
    assert made["colour"].tolist() == [FACT_WORDS["colour"].index("red"), -100, -100]
    assert (made["across"].tolist(), made["down"].tolist()) == ([2, -100, -100], [1, -100, -100])
    assert (made["side"].tolist(), made["height"].tolist()) == ([-100] * 3, [-100] * 3)
    below = batch([CAT, Mention("dog", side="west", height="below", size="bigger")])
    assert [below[fact].tolist() for fact in ("side", "height", "size")] == [[-100, 0], [-100, 1], [-100, 1]]
    assert made["name"].tolist() == [-100, WORDS.index("star"), -100]
    assert made["boxes"].isfinite().all(dim=-1).tolist() == [True, False, False]


def test_a_mention_is_read_at_its_last_token() -> None:
    tokenizer = tiny_processor(tiny_model(**EMBEDDED).config).tokenizer
    made = batch([CAT, DOG, RED])
    ids = made["input_ids"][0].tolist()
    for (_, place), mention in zip(made["mentions"].tolist(), (CAT, DOG, RED), strict=True):
        text = tokenizer.decode(ids[: place + 1])
        assert text.rstrip().endswith(mention.text), text


def test_no_word_is_told_something_and_asked_to_be_silent() -> None:
    silent = {word for text in (*_ASKING, *_BETWEEN, *_ENDINGS) for word in re.findall(r"[a-z]+", text.lower())}
    telling = {word for ways in _TELLING.values() for _, word in ways} | {word for _, word, _ in _CLAIMED.values()}
    leads = {word for ways in _TELLING.values() for lead, _ in ways for word in lead.split()}
    leads |= {word for before, _, after in _CLAIMED.values() for word in f"{before} {after}".split()}
    told = {*telling, *_THIS, *_ALL, *COLOURS, "background", "shape", "shapes"}
    assert not told & (silent | leads)


def test_words_before_a_telling_one_are_silent() -> None:
    tokenizer = tiny_processor(tiny_model(**EMBEDDED).config).tokenizer
    made = batch([Mention("star", name="star", lead="on the dog")])
    ids = made["input_ids"][0].tolist()
    (_, place), silent = made["mentions"].tolist()[0], [place for _, place in made["silent"].tolist()]
    before = tokenizer(" on the dog", add_special_tokens=False)["input_ids"]
    assert ids[place - len(before) : place] == before
    assert set(range(place - len(before), place)) <= set(silent)


def test_a_claim_is_read_without_other_words_in_it_and_says_yes_or_no() -> None:
    tokenizer = tiny_processor(tiny_model(**EMBEDDED).config).tokenizer
    claim = [CAT, Mention("red", holds=False, lead="on the", joined=True), Mention("dog", lead="of", joined=True)]
    for seed in range(8):
        made = grounding_batch([claim], table(), tokenizer, random.Random(seed))
        assert f" {CAT.text} on the red of dog" in tokenizer.decode(made["input_ids"][0])
        assert made["holds"].tolist() == [-100, FACT_WORDS["holds"].index("no"), -100]
        assert made["present"].tolist() == [1, -100, -100]


def test_words_that_name_nothing_are_asked_to_be_alike() -> None:
    made = batch([CAT, DOG, RED], [RED])
    spoken = {tuple(place) for place in made["mentions"].tolist()}
    silent = {tuple(place) for place in made["silent"].tolist()}
    assert not spoken & silent
    tokenizer = tiny_processor(tiny_model(**EMBEDDED).config).tokenizer
    named = {tokenizer(f" {mention.text}")["input_ids"][-1] for mention in (CAT, DOG, RED)}
    assert not {int(made["input_ids"][row, place]) for row, place in silent} & named
    assert len(spoken | silent) >= int(made["attention_mask"].sum()) - 4  # first pieces of names are neither
    reader = MentionReader(table(), box_weight=0.0)
    added = torch.randn(2, made["input_ids"].shape[1], 32)
    loud = reader(added, **{k: v for k, v in made.items() if k not in ("input_ids", "attention_mask")})
    for row, place in silent:
        added[row, place] = reader.silence.detach() * (1 + row)  # the size is free, the direction is not
    quiet = reader(added, **{k: v for k, v in made.items() if k not in ("input_ids", "attention_mask")})
    apart = float((loud - quiet).detach())
    assert 0.5 < apart < 1.5  # random directions have a cosine near 0, the same ones of 1


def test_the_loss_is_the_mean_of_its_facts_and_nothing_that_is_unknown_counts() -> None:
    torch.manual_seed(0)
    objective = WordGrounding(tiny_model(**EMBEDDED), table(), box_weight=0.0, silence_weight=0.0)
    made, seen = batch([DOG]), []
    objective.helper.norm.register_forward_hook(lambda *call: seen.append(call[2]))
    out = objective(vision_features=torch.randn(1, 1, 16, 48), mentions=made)
    scores = F.normalize(seen[0], dim=-1) @ table().embeddings.T * objective.helper.scale.exp()
    yes_or_no = scores[:, [WORDS.index("no"), WORDS.index("yes")]]
    expected = F.cross_entropy(yes_or_no, torch.tensor([0]))
    torch.testing.assert_close(out["loss"], expected)


def test_another_picture_changes_what_a_word_reads_and_gradients_reach_pre_fusion() -> None:
    torch.manual_seed(0)
    objective = WordGrounding(tiny_model(**EMBEDDED), table())
    made = batch([CAT, DOG], [RED, DOG])
    features = torch.randn(2, 1, 16, 48)
    own = objective(vision_features=features, mentions=made)
    other = objective(vision_features=features.flip(0), mentions=made)
    assert not torch.allclose(own["loss"], other["loss"])
    own["loss"].backward()
    fusion = objective.model.pre_fusion
    assert fusion is not None
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in fusion.parameters() if p.requires_grad)
