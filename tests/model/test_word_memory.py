"""Tokens are drawn to words: an empty memory changes nothing, one word is recalled whole, length stays."""

import pytest
import torch
from torch.nn import functional as F

from llava_mini.model.word_memory import WordMemory


def memory(words: torch.Tensor) -> WordMemory:
    made = WordMemory(*words.shape)
    made.words.copy_(F.normalize(words, dim=-1))
    return made


def test_an_empty_memory_changes_nothing() -> None:
    tokens = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(WordMemory(5, 8)(tokens), tokens, atol=1e-6)


def test_a_token_is_drawn_to_its_likeliest_word_and_keeps_its_length() -> None:
    words = torch.eye(6, 8)
    token = 3 * F.normalize(torch.tensor([[[0.5, 0.3, 0.1, 0.0, 0.0, 0.0, 0.2, 0.6]]]), dim=-1)
    with torch.no_grad():
        drawn = memory(words)(token)
    assert drawn.norm().item() == pytest.approx(3, rel=1e-5)
    near = F.cosine_similarity(drawn, words, dim=-1)
    assert near.argmax() == 0
    # softmax(40 · cosine) is 1 for the first word, to three places: cos(t̂ + 2 w) = (c + 2) / √(1 + 4 c + 4)
    cosine = 0.5 / 0.75**0.5
    assert near[0, 0].item() == pytest.approx((cosine + 2) / (5 + 4 * cosine) ** 0.5, abs=1e-3)


def test_a_token_between_many_words_is_hardly_drawn() -> None:
    words = torch.eye(64)
    token = torch.ones(1, 1, 64) + 0.1 * torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert F.cosine_similarity(memory(words)(token), token, dim=-1).item() > 0.99


def test_a_token_of_length_nothing_stays_nothing() -> None:
    with torch.no_grad():
        assert not memory(torch.eye(4))(torch.zeros(2, 1, 4)).any()


def test_sharpness_and_strength_learn_and_words_do_not() -> None:
    made = memory(torch.eye(4, 8))
    made(torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)))[..., 0].sum().backward()
    for learned in (made.sharpness, made.strength):
        assert learned.grad is not None
        assert learned.grad.abs() > 0
    assert {name for name, _ in made.named_parameters()} == {"sharpness", "strength"}
