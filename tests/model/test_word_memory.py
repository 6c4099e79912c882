"""Tokens are drawn to words: an empty memory changes nothing, one word is recalled whole, length stays."""

import pytest
import torch
from tiny import EMBEDDED, tiny_model
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


def test_a_token_between_many_words_is_drawn_to_what_they_have_in_common() -> None:
    """Each recalled by a 64th: unlike words cancel out, and words that share a direction leave it."""
    token = torch.ones(1, 1, 64)
    for shared, length in ((0.0, 1 / 8), (1.0, ((1 + 1 / 64) / 2) ** 0.5)):
        common = F.normalize(torch.cat([torch.zeros(64), torch.ones(1)]), dim=0)
        words = memory(torch.cat([torch.eye(64), torch.zeros(64, 1)], dim=1) + shared * common)
        with torch.no_grad():
            drawn = words(F.pad(token, (0, 1)))
        said = F.pad(token, (0, 1)) / 8
        wanted = said + 2 * words.words.mean(dim=0)
        assert words.words.mean(dim=0).norm().item() == pytest.approx(length, abs=1e-5)
        assert torch.allclose(drawn, 8 * F.normalize(wanted, dim=-1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_out_and_nothing_in_it_is_lost(dtype: torch.dtype) -> None:
    made, tokens = memory(torch.eye(4, 8)).to(dtype), torch.tensor([[0.0] * 8, [300.0] * 8], dtype=dtype)
    with torch.no_grad():
        drawn = made(tokens)
    assert drawn.dtype == dtype
    assert not drawn[0].any()
    assert drawn.float().norm(dim=-1)[1].item() == pytest.approx(300 * 8**0.5, rel=1e-2)


def test_a_model_with_an_empty_memory_is_a_model_without_one() -> None:
    filled, without = tiny_model(**EMBEDDED), tiny_model(**EMBEDDED | {"memory_words": 0})
    assert filled.model.word_memory is not None
    features, one = (
        torch.randn(2, 1, 16, 48, generator=torch.Generator().manual_seed(0)),
        torch.ones(2, dtype=torch.long),
    )
    with torch.no_grad():
        drawn = filled.model.encode_features(features, one).tokens
        filled.model.word_memory.words.zero_()
        empty = filled.model.encode_features(features, one).tokens
        plain = without.model.encode_features(features, one).tokens
    assert torch.allclose(empty, plain, atol=1e-5)
    assert not torch.allclose(drawn, plain, atol=1e-2)


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
