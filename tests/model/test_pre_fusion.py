"""Pre-fusion with kept vision states equals one plain causal run over vision and words."""

import pytest
import torch
from tiny import tiny_config
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from llava_mini.model.pre_fusion import ModalityPreFusion

KINDS = ("llama", "mistral", "qwen2")
_VISION, _WORDS = 7, 5


def fusion(kind: str, *, residual: bool = False, attention: str = "sdpa") -> ModalityPreFusion:
    torch.manual_seed(0)
    config = tiny_config(text=kind).text
    config._attn_implementation = attention
    made = ModalityPreFusion(config, 2, residual=residual).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return made


def rows(seed: int, length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 32, generator=torch.Generator().manual_seed(seed))


def at_once(made: ModalityPreFusion, sequence: Tensor, config: PreTrainedConfig) -> Tensor:
    """Run a whole sequence through decoder layers of the same weights, with a plain causal mask and no cache."""
    config.num_hidden_layers = 2
    whole = AutoModel.from_config(config, attn_implementation="eager").eval()
    whole.load_state_dict(made.decoder.state_dict(), strict=False)
    whole.norm = nn.Identity()
    out: Tensor = whole(inputs_embeds=sequence, use_cache=False).last_hidden_state
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_kept_states_equal_the_whole_sequence_at_once(kind: str, attention: str) -> None:
    made, vision, words = fusion(kind, attention=attention), rows(1, _VISION), rows(2, _WORDS)
    expected = at_once(made, torch.cat([vision, words], dim=1), tiny_config(text=kind).text)
    states = made.encode_vision(vision)
    fused = made.fuse(words, torch.ones(2, _WORDS, dtype=torch.bool), states)
    torch.testing.assert_close(fused, expected[:, _VISION:], rtol=1e-4, atol=1e-5)
    refined, grown = made.refine(words[:, :2], states)  # compressed tokens stand between patches and words
    torch.testing.assert_close(refined, expected[:, _VISION : _VISION + 2], rtol=1e-4, atol=1e-5)
    rest = made.fuse(words[:, 2:], torch.ones(2, _WORDS - 2, dtype=torch.bool), grown)
    torch.testing.assert_close(rest, expected[:, _VISION + 2 :], rtol=1e-4, atol=1e-5)
    assert len(states) == 2
    assert states[0].keys.shape == (2, 2, _VISION, 8)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_masked_words_are_as_if_they_were_not_there(kind: str) -> None:
    made, words = fusion(kind), rows(2, 6)
    states = made.encode_vision(rows(1, _VISION))
    mask = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]]).bool()
    fused = made.fuse(words, mask, states)
    changed = made.fuse(torch.where(mask[..., None], words, rows(9, 6) * 50), mask, states)
    torch.testing.assert_close(changed[mask], fused[mask], rtol=1e-4, atol=1e-5)
    for row in range(2):
        alone = [type(layer)(layer.keys[row : row + 1], layer.values[row : row + 1]) for layer in states]
        kept = words[row : row + 1, mask[row]]
        expected = made.fuse(kept, torch.ones(1, 3, dtype=torch.bool), alone)
        torch.testing.assert_close(fused[row : row + 1, mask[row]], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_states_of_the_picture_are_the_same_after_a_question() -> None:
    made = fusion("llama")
    states = made.encode_vision(rows(1, _VISION))
    before = [tensor.clone() for layer in states for tensor in layer]
    mask = torch.ones(2, _WORDS, dtype=torch.bool)
    first = made.fuse(rows(2, _WORDS), mask, states)
    made.fuse(rows(3, _WORDS), mask, states)
    assert all(torch.equal(a, b) for a, b in zip(before, [t for layer in states for t in layer], strict=True))
    assert torch.equal(made.fuse(rows(2, _WORDS), mask, states), first)


@torch.no_grad()
def test_words_read_the_picture_and_the_words_before_them_only() -> None:
    made, words, mask = fusion("llama"), rows(2, _WORDS), torch.ones(2, _WORDS, dtype=torch.bool)
    states = made.encode_vision(rows(1, _VISION))
    fused = made.fuse(words, mask, states)
    other = made.fuse(words, mask, made.encode_vision(rows(5, _VISION)))
    assert ((fused - other).abs().amax(dim=-1) > 1e-3).all()
    later = words.clone()
    later[:, 3] += 1
    changed = (made.fuse(later, mask, states) - fused).abs().amax(dim=-1)
    assert (changed[:, :3] < 1e-5).all()
    assert (changed[:, 3:] > 1e-3).all()


@torch.no_grad()
def test_the_residual_form_adds_a_normalised_output_to_the_word() -> None:
    plain, residual = fusion("llama"), fusion("llama", residual=True)
    assert residual.norm is not None
    residual.load_state_dict(plain.state_dict(), strict=False)
    residual.norm.weight.fill_(0.5)
    words, mask = rows(2, _WORDS), torch.ones(2, _WORDS, dtype=torch.bool)
    states = plain.encode_vision(rows(1, _VISION))
    out = plain.fuse(words, mask, states)
    scaled = 0.5 * out / (out.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(residual.fuse(words, mask, states), words + scaled, rtol=1e-4, atol=1e-5)
