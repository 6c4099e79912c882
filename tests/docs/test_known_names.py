"""A picture's vision token, fused word and answers are read each by itself, as they would be alone."""

from dataclasses import replace

import torch
from PIL import Image
from tiny import EMBEDDED, tiny_config, tiny_model, tiny_processor
from torch.nn import functional as F

from llava_mini import Assistant
from llava_mini.evaluation.asking import answer
from llava_mini.inputs.media import Picture
from llava_mini.training.alignment import WordTable
from tools.known_names import BATCH, read_names


def test_each_picture_is_read_by_its_own_token_word_and_answer() -> None:
    assistant = Assistant(tiny_model(**EMBEDDED), tiny_processor(tiny_config()), "tiny")
    pictures = [Picture(Image.effect_noise((56, 56), spread).convert("RGB"), str(spread)) for spread in (20, 200)]
    first, second = (assistant.encode(one) for one in pictures)
    names = WordTable(("cat", "bus"), F.normalize(torch.cat([first.tokens[:, 0], second.tokens[:, 0]]), dim=-1))
    many = [pictures[number % 2] for number in range(BATCH + 3)]  # more than one batch
    questions = ["What is this?"] * len(many)
    read = list(read_names(assistant, questions, many, [*many[1:], pictures[1]], names))

    def say(prefix: object) -> str:
        return answer(assistant, questions[:1], pictures[:1], prefix, 16)[0]  # type: ignore[arg-type]

    said = say(first), say(second)
    assert said[0] != said[1]
    assert [one.token for one in read] == [("It is a cat.", "It is a bus.")[number % 2] for number in range(len(many))]
    assert [one.answer for one in read] == [said[number % 2] for number in range(len(many))]
    assert read[0].unfused == say(replace(first, states=[]))
    assert read[0].swapped == say(replace(first, tokens=second.tokens))
    letters = WordTable(tuple("abcdefgh"), F.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(0))))
    together = list(read_names(assistant, questions[:2], pictures, pictures[::-1], letters))
    for row, picture in enumerate(pictures):  # alone as beside others
        alone = next(read_names(assistant, questions[:1], [picture], [pictures[1 - row]], letters))
        assert alone == together[row]
