"""What starts a training: words that look at the patches which resemble them."""

from typing import Any

import torch
from tiny import EMBEDDED, tiny_model
from torch.nn import functional as F
from transformers import LlamaConfig

from llava_mini.model.pre_fusion import ModalityPreFusion
from llava_mini.training.starts import start_lookup

WIDTH, PATCHES = 96, 16
_PATCH = F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(2)), dim=-1)
"""What all patches have in common, and no word has."""


def fusion() -> Any:
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        rope_theta=1e8,
    )  # fmt: skip
    torch.manual_seed(0)
    made: Any = ModalityPreFusion(config, 1, residual=True)
    for parameter in made.decoder.layers[0].mlp.parameters():
        torch.nn.init.zeros_(parameter)
    return made


def test_a_word_takes_over_what_stands_with_it_in_the_picture() -> None:
    made = fusion()
    words = F.normalize(torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
    others = F.normalize(torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(0)), dim=-1) + _PATCH
    start_lookup(made.decoder.layers[0], words, others, sharpness=0.6)
    cat, red, blue = words[0], words[1], words[2]
    patches = words[20 : 20 + PATCHES].clone()
    patches[5] = cat + red  # a red cat among other things
    patches = patches + _PATCH
    with torch.no_grad():
        states = made.encode_vision(patches[None])
        out = made.decoder(
            inputs_embeds=torch.cat([patches, cat[None]])[None], attention_mask=torch.ones(1, PATCHES + 1)
        ).last_hidden_state[0, -1]
    added = out - cat
    assert F.cosine_similarity(added, red, dim=0) > F.cosine_similarity(added, blue, dim=0) + 0.2
    beside = torch.cat([words[20:25], words[26 : 20 + PATCHES]])
    assert F.cosine_similarity(added, red, dim=0) > F.cosine_similarity(added[None], beside).mean() + 0.15
    assert len(states) == 1


def test_only_the_first_layer_is_started() -> None:
    model = tiny_model(**EMBEDDED)
    layers: Any = model.model.pre_fusion.decoder.layers  # type: ignore[union-attr]
    before = layers[1].self_attn.q_proj.weight.clone()
    start_lookup(layers[0], model.word_embeddings, torch.randn(50, 32))
    assert torch.equal(layers[1].self_attn.q_proj.weight, before)
    assert torch.isfinite(layers[0].self_attn.q_proj.weight).all()
