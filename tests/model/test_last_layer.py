"""What is left out of a last layer is what nobody reads: answers and kept states stay what they were."""

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from llava_mini.model import conditional_generation, pre_fusion
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.last_layer import last_row_alone


@pytest.fixture
def model() -> LlavaMiniForConditionalGeneration:
    return tiny_model()


def inputs(model: LlavaMiniForConditionalGeneration) -> dict[str, Tensor]:
    """Two rows, the second padded on the left, each with a picture."""
    config = model.config
    ids = torch.arange(32).reshape(2, 16) % 20 + 100
    ids[:, 4 : 4 + config.tokens_per_frame] = config.image_token_id
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    side = config.vision.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 1, config.parts_per_frame, 3, side, side, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@torch.no_grad()
def test_the_last_row_is_that_of_the_whole_layer(model: LlavaMiniForConditionalGeneration) -> None:
    given = inputs(model)
    whole = model(**given).logits[:, -1]
    alone = model(**given, logits_to_keep=1).logits[:, 0]
    assert torch.allclose(alone, whole, atol=1e-6)
    assert torch.equal(alone.argmax(dim=-1), whole.argmax(dim=-1))


@torch.no_grad()
def test_keys_and_values_are_those_of_every_row(
    model: LlavaMiniForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(model)
    alone = model(**given, logits_to_keep=1, use_cache=True).past_key_values
    whole = model(**given, use_cache=True).past_key_values
    for one, all_ in zip(alone.layers, whole.layers, strict=True):
        assert torch.equal(one.keys, all_.keys)
        assert torch.equal(one.values, all_.values)
    prefix = model.encode_images(given["pixel_values"])
    monkeypatch.setattr(pre_fusion, "without_queries", lambda _: nullcontext())
    for ours, full in zip(prefix.states, model.encode_images(given["pixel_values"]).states, strict=True):
        assert torch.equal(ours.keys, full.keys)
        assert torch.equal(ours.values, full.values)


@torch.no_grad()
def test_answers_are_those_without_it(
    model: LlavaMiniForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(model)
    made = model.generate(**given, max_new_tokens=6, do_sample=False)
    monkeypatch.setattr(conditional_generation, "last_row_alone", lambda _: nullcontext())
    assert torch.equal(made, model.generate(**given, max_new_tokens=6, do_sample=False))


@torch.no_grad()
def test_whoever_asks_for_hidden_states_or_attentions_gets_every_row(model: LlavaMiniForConditionalGeneration) -> None:
    given = inputs(model)
    whole = model(**given, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(model(**given, output_hidden_states=True, logits_to_keep=1).hidden_states[-1], whole)


@torch.no_grad()
def test_another_thread_runs_the_layer_in_full_meanwhile(model: LlavaMiniForConditionalGeneration) -> None:
    given = inputs(model)
    whole = model(**given).logits
    found: list[Any] = []
    with last_row_alone(model.model.language_model.layers[-1]):
        thread = threading.Thread(target=lambda: found.append(model(**given).logits))
        thread.start()
        thread.join()
    assert torch.equal(found[0], whole)


def test_nothing_stays_behind(model: LlavaMiniForConditionalGeneration) -> None:
    def hooks() -> list[int]:
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    given = inputs(model)
    with torch.no_grad():
        model(**given)  # transformers adds hooks of its own in the first run
        before = hooks()
        model(**given, logits_to_keep=1)
    assert hooks() == before


def test_gradients_of_the_last_row_are_those_of_the_whole_layer() -> None:
    def gradients(**options: int) -> list[Tensor]:
        model = tiny_model()
        model(**inputs(model), **options).logits[:, -1].sum().backward()
        return [p.grad for p in model.model.language_model.parameters() if p.grad is not None]

    for ours, full in zip(gradients(logits_to_keep=1), gradients(), strict=True):
        assert torch.allclose(ours, full, atol=1e-5)
