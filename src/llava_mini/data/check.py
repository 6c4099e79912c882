"""Look at a file of examples as training will: what is bad, how long samples are, how much of them is learned."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from llava_mini.data.collator import ExampleCollator
from llava_mini.data.examples import Example
from llava_mini.errors import DataError

_SHOWN = 20
_WORST = 5


@dataclass(frozen=True)
class Report:
    """What was found in a file of examples."""

    examples: int
    text_only: int
    """Examples without a picture or video."""
    images: int
    videos: int
    answers: int
    """Turns of the assistant."""
    bad: int
    """Examples that training would refuse."""
    missing_media: int
    """How many of them name a file that is not there."""
    reasons: tuple[str, ...]
    """Why, for the first 20; each with its id."""
    tokens_median: int
    tokens_95: int
    """95 of 100 samples are no longer."""
    tokens_longest: int
    cut: int
    """Samples that are cut at the longest allowed length."""
    supervised_share: float
    """Tokens that are learned, of all."""
    longest: tuple[str, ...]
    """The longest samples, with their tokens."""
    least_supervised: tuple[str, ...]
    """The samples of which least is learned, with that share."""

    def __str__(self) -> str:
        lines = [
            f"{self.examples} examples ({self.text_only} of text alone): {self.images} images, {self.videos} videos, "
            f"{self.answers} answers",
            f"tokens a sample: median {self.tokens_median}, 95 % up to {self.tokens_95}, longest {self.tokens_longest}"
            f"; {self.cut} cut",
            f"supervised: {self.supervised_share:.1%} of the tokens",
            *(f"longest: {line}" for line in self.longest),
            *(f"least supervised: {line}" for line in self.least_supervised),
            f"bad: {self.bad}, of them {self.missing_media} whose picture or video is missing",
            *(f"  {reason}" for reason in self.reasons),
        ]
        return "\n".join(lines)


def check(readers: Iterable[Sequence[Example]], collator: ExampleCollator) -> Report:
    """Prepare every example as training would.

    Args:
        readers: the files' examples.
        collator: how training tokenizes, opens and cuts them.
    """
    counts = dict.fromkeys(("examples", "text_only", "image", "video", "answers", "bad", "missing"), 0)
    reasons: list[str] = []
    rows: list[tuple[int, int, int, str]] = []  # tokens before the cut and after it, supervised ones, id
    for items in readers:
        for index in tqdm(range(len(items)), desc="checking", unit="example", disable=None):
            counts["examples"] += 1
            try:
                example = items[index]
                sample = collator.prepare(example)
            except DataError as error:
                counts["bad"] += 1
                counts["missing"] += "no such file" in str(error)
                reasons += [str(error)] if len(reasons) < _SHOWN else []
                continue
            kinds = [part["type"] for part in example.media]
            counts["text_only"] += not kinds
            for kind in kinds:
                counts[kind] += 1
            counts["answers"] += sum(message["role"] == "assistant" for message in example.messages)
            kept = len(sample.tokens.ids)
            rows.append((kept + sample.lost, kept, sample.supervised, sample.id))
    lengths = sorted(row[0] for row in rows) or [0]
    shares = sorted((supervised / kept, id_) for _, kept, supervised, id_ in rows)
    return Report(
        examples=counts["examples"],
        text_only=counts["text_only"],
        images=counts["image"],
        videos=counts["video"],
        answers=counts["answers"],
        bad=counts["bad"],
        missing_media=counts["missing"],
        reasons=tuple(reasons),
        tokens_median=round(statistics.median(lengths)),
        tokens_95=lengths[-(-95 * len(lengths) // 100) - 1],
        tokens_longest=lengths[-1],
        cut=sum(kept < length for length, kept, _, _ in rows),
        supervised_share=sum(row[2] for row in rows) / max(1, sum(row[1] for row in rows)),
        longest=tuple(f"{id_}: {length} tokens" for length, _, _, id_ in sorted(rows, reverse=True)[:_WORST]),
        least_supervised=tuple(f"{id_}: {share:.1%}" for share, id_ in shares[:_WORST]),
    )
