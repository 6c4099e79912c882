"""A picture's vision token, fused word and answer are read each by itself, as they would be alone."""

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
    tokens = torch.cat([assistant.encode(one).tokens[:, 0] for one in pictures])
    names = WordTable(("cat", "bus"), F.normalize(tokens, dim=-1))
    many = [pictures[number % 2] for number in range(BATCH + 3)]  # more than one batch
    read = list(read_names(assistant, ["What is this?"] * len(many), many, names))
    said = [answer(assistant, ["What is this?"], [one], assistant.encode(one), 16)[0] for one in pictures]
    assert said[0] != said[1]
    assert [one[0] for one in read] == [("It is a cat.", "It is a bus.")[number % 2] for number in range(len(many))]
    assert [one[2] for one in read] == [said[number % 2] for number in range(len(many))]
    letters = WordTable(tuple("abcdefgh"), F.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(0))))
    for picture in pictures:  # alone as beside others
        alone = next(read_names(assistant, ["What is this?"], [picture], letters))
        together = list(read_names(assistant, ["What is this?"] * 2, pictures, letters))[pictures.index(picture)]
        assert alone == together
