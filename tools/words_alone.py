"""How much of the benchmark can be answered from its questions alone, by a learner that never sees a picture.

It learns from questions about scenes and videos as the embedded model was trained on, and is asked the benchmark's. Of
two things that a question offers it says the one that was right more often when so offered; what was offered rarely
counts as its kind does, shapes or cut-outs. Any other question is answered by a linear softmax over its words and pairs
of neighbouring words. The benchmark's "question alone" is another thing: a model that was trained with pictures, and is
shown none.

    python tools/words_alone.py data/sources data/scenes-9000
"""

import random
import re
import sys
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.data.cutouts import load_cutouts, load_glyphs
from llava_mini.data.layouts import SceneLibrary
from llava_mini.data.prepared import PreparedScenes
from llava_mini.data.questions import Question, ask_about
from llava_mini.data.scenes import SHAPES
from llava_mini.data.videos import draw_video
from llava_mini.evaluation.suites import BENCHMARK, SUITES
from llava_mini.intervals import clustered_wilson

ROUNDS, EPOCHS, BATCH, RATE = 4, 4, 256, 0.1
VIDEOS = 1000
RARE = 5.0
"""So many offers of its kind are added to those of a thing."""
_OFFER = re.compile(r"(.*)\bthe (.+) or the (.+)\?")
Pair = tuple[str, str]
"""A question and the word that answers it."""


def features(question: str) -> list[str]:
    """Return the words of a question and its pairs of neighbouring words."""
    words = re.findall(r"[a-z]+", question.lower())
    return [*words, *(f"{one} {other}" for one, other in zip(["^", *words], [*words, "$"], strict=True))]


def training_questions(sources: Path, scenes: PreparedScenes) -> list[Pair]:
    """Ask about every training scene several times, and about training videos."""
    library = SceneLibrary([*load_cutouts(sources, "train"), *load_glyphs(sources)])
    asked: list[Question] = []
    for index in range(len(scenes)):
        scene, rng = scenes[index].known, random.Random(index)
        for _ in range(ROUNDS):
            asked += ask_about(scene, rng, library.names)
    for seed in range(VIDEOS):
        asked += draw_video(seed, library).questions
    return [(one.text, one.accepted[0]) for one in asked if one.kind != "caption"]


class Offers:
    """Choose between two things by how often each was right."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.right: Counter[Pair] = Counter()
        self.offered: Counter[Pair] = Counter()
        for text, answer in pairs:
            if (offer := _OFFER.fullmatch(text)) and answer in offer.groups():
                asked, *things = offer.groups()
                for thing in things:
                    for name in (thing, self.kind(thing)):
                        self.offered[asked, name] += 1
                        self.right[asked, name] += thing == answer

    @staticmethod
    def kind(thing: str) -> str:
        """Return what else a thing counts as."""
        return "a shape" if thing in SHAPES else "a cut-out"

    def rate(self, asked: str, thing: str) -> float:
        """Return how often a thing was right, by its kind where it was seldom offered."""
        of_kind = self.right[asked, self.kind(thing)] / max(1, self.offered[asked, self.kind(thing)])
        return (self.right[asked, thing] + RARE * of_kind) / (self.offered[asked, thing] + RARE)

    def __call__(self, question: str) -> str | None:
        """Return the thing that is right more often; None if the question offers none as those learned from did."""
        offer = _OFFER.fullmatch(question)
        if offer is None or not self.offered[offer[1], self.kind(offer[2])]:
            return None
        return max(offer[2], offer[3], key=partial(self.rate, offer[1]))


class Words:
    """Answer a question by all of its words.

    Args:
        pairs: what it learns from.
    """

    def __init__(self, pairs: list[Pair]) -> None:
        torch.manual_seed(0)
        torch.sparse.check_sparse_tensor_invariants.disable()  # what is unset is warned of
        self.vocabulary = {word: n for n, word in enumerate(sorted({f for text, _ in pairs for f in features(text)}))}
        self.answers = sorted({answer for _, answer in pairs})
        self.weights = nn.EmbeddingBag(len(self.vocabulary), len(self.answers), mode="sum", sparse=True)
        nn.init.zeros_(self.weights.weight)
        optimizer = torch.optim.Adagrad(self.weights.parameters(), lr=RATE)
        place = {answer: n for n, answer in enumerate(self.answers)}
        labels = torch.tensor([place[answer] for _, answer in pairs])
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(pairs)).split(BATCH):
                loss = F.cross_entropy(self.score([pairs[int(row)][0] for row in rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def score(self, questions: list[str]) -> Tensor:
        """Return the logits of all answers, `(questions, answers)`."""
        known = [[self.vocabulary[f] for f in features(one) if f in self.vocabulary] for one in questions]
        starts = torch.tensor([0, *(len(one) for one in known[:-1])]).cumsum(0)
        scores: Tensor = self.weights(torch.tensor([n for one in known for n in one], dtype=torch.long), starts)
        return scores

    @torch.no_grad()
    def __call__(self, question: str) -> str:
        """Return the likeliest answer."""
        return self.answers[int(self.score([question]).argmax())]


def main(sources: Path, scenes: Path) -> None:
    """Print how many questions of each kind are answered right without a picture."""
    pairs = training_questions(sources, PreparedScenes(scenes))
    choose, say = Offers(pairs), Words(pairs)
    print("| question | n | words alone (95 %) |\n|---|---|---|")
    for name, limit, first, prefix in BENCHMARK:
        if name == "photographs":  # one question is asked of all of them
            continue
        rows: dict[str, list[tuple[bool, int]]] = defaultdict(list)
        for item in SUITES[name](sources, limit, first).items:
            rows[item.kind].append((item.is_right(choose(item.question) or say(item.question)), item.picture))
        for kind, answers in sorted(rows.items()):
            right, pictures = zip(*answers, strict=True)
            low, high = clustered_wilson(right, pictures)
            share = 100 * sum(right) / len(right)
            print(
                f"| {prefix}{kind.replace('_', '-')} | {len(right)} | {share:.1f} ({100 * low:.0f}–{100 * high:.0f}) |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
