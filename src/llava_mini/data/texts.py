"""Instructions without a picture, answered by the language model as it came: learning pictures must not cost manners.

Idea: rehearsal of what a model could do before, with its own answers (Robins, 1995; Li and Hoiem, arXiv 1606.09282).
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llava_mini.data.examples import example_of
from llava_mini.data.names import with_article
from llava_mini.errors import DataError

_ABOUT = (
    "What is {a}?", "Tell me about {a}.", "What can you do with {a}?", "Write one sentence about {a}.",
    "Describe {a} to a child.", "Where would you find {a}?", "Name three things that are like {a}.",
    "Write a short poem about {a}.", "What does {a} look like?", "Give me a riddle about {a}.",
)  # fmt: skip
_PLAIN = (
    "Hello!", "Who are you?", "What can you do?", "How are you today?", "Thank you!", "Tell me a joke.",
    "Say something nice.", "What is the capital of France?", "What is the capital of Japan?",
    "How many days are in a week?", "Name the four seasons.", "Name three primary colors.", "Count from one to ten.",
    "What is the opposite of big?", "What is the opposite of left?", "Which is bigger, the sun or the moon?",
    "Which animal says meow?", "Give me a synonym for happy.", "How do you boil an egg?", "Why is the sky blue?",
    "What do plants need to grow?", "Write a polite email that asks for a day off.",
    "Give me three tips to sleep well.",
    "What is a prime number?", "Translate 'good morning' into French.", "What do bees make?", "Good night!",
    "Explain what a computer is.", "What should I cook tonight?", "Recommend a hobby for a rainy day.",
)  # fmt: skip
_TASKS = (
    "Is {a} bigger than {b}?", "Put these words in alphabetical order: {x}, {y}.",
    "Write a sentence with the words {x} and {y}.", "What do {x} and {y} have in common?",
)  # fmt: skip
_NUMBERED = re.compile(r"(?:^|[.!?:\n])\s*\d{1,2}$")


def instructions(names: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Yield instructions without end, first the plain ones, each of the others about things of the given names."""
    yield from _PLAIN
    rng = random.Random(seed)
    while True:
        one, other = rng.sample(names, 2)
        text = rng.choice((*_ABOUT, *_TASKS))
        yield text.format(a=with_article(one), b=with_article(other), x=one, y=other)


@torch.no_grad()
def write_texts(
    path: Path, texts: Sequence[str], model: Any, tokenizer: Any, template: str, *, most: int = 48, batch: int = 16
) -> None:
    """Let a language model answer each text greedily, and write the pairs as `messages` rows of a JSONL file.

    Args:
        template: chat template; the answers are given and learned in the same one.
        most: tokens of an answer; what is longer ends with its last whole sentence.
    """
    lines = []
    for start in tqdm(range(0, len(texts), batch), desc="texts", unit="batch"):
        asked = [[{"role": "user", "content": text}] for text in texts[start : start + batch]]
        inputs = tokenizer.apply_chat_template(
            asked, chat_template=template, add_generation_prompt=True, tokenize=True, padding=True,
            padding_side="left", return_tensors="pt", return_dict=True,
        )  # fmt: skip
        made = model.generate(**inputs, max_new_tokens=most, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for messages, answer in zip(asked, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
            if whole := _whole(answer):
                lines.append(json.dumps({"messages": [*messages, {"role": "assistant", "content": whole}]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_texts(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a file of texts.

    Raises:
        DataError: when it is not there or holds something else.
    """
    if not path.is_file():
        raise DataError(f"no texts at {path}; make them with 'llava-mini data texts'")
    pairs = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            messages = example_of(json.loads(line), f"{path}:{number}", path.parent).messages
            question, answer = (message["content"] for message in messages)
            if [message["role"] for message in messages] != ["user", "assistant"] or not isinstance(question, str):
                raise ValueError("a question has pictures, or is not the user's")
        except ValueError as error:
            shown = line[:80].decode(errors="replace")
            raise DataError(f"{path}:{number}: not one question with its answer: {shown!r}") from error
        pairs.append((question, answer))
    return pairs


def _whole(answer: str) -> str:
    """Return an answer up to the end of its last whole sentence, or nothing; "2." of a list ends none."""
    marks = [found.start() for found in re.finditer(r"[.!?](?!\d)", answer)]
    ends = [mark for mark in marks if not _NUMBERED.search(answer[:mark])]
    return answer[: ends[-1] + 1].strip() if ends else ""
