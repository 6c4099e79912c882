"""Prompts whose beginnings are kept are read together with others, and answered as those that are read whole."""

import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from llava_mini.model.dialogue import Dialogue
from llava_mini.serving.batch import RunningBatch

_LENGTHS = (12, 7, 20, 9)


def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 200, (1, length), generator=generator) for length in _LENGTHS]


def begun(model: torch.nn.Module, ids: Tensor, kept: int) -> tuple[Tensor, Dialogue]:
    """A conversation of which the first tokens have been read; its embeddings."""
    dialogue, fused = Dialogue(model), torch.ones_like(ids, dtype=torch.bool)
    if kept:
        given = dialogue.advance(ids[:, :kept], fused[:, :kept])
        model(**given, use_cache=True, logits_to_keep=1)
        dialogue = dialogue.opening(kept)
    return dialogue.advance(ids, fused)["inputs_embeds"][0], dialogue


@pytest.mark.parametrize("kept", [(0, 0, 0, 0), (5, 0, 19, 3), (11, 6, 19, 8), (0, 6, 0, 0)])
@torch.no_grad()
def test_kept_beginnings_change_no_logits_and_grow_to_the_whole_prompt(kept: tuple[int, ...]) -> None:
    model = tiny_model()
    ids = prompts()
    made = [begun(model, one, count) for one, count in zip(ids, kept, strict=True)]
    assert [dialogue.kept for _, dialogue in made] == list(kept)
    whole, partly = RunningBatch(model), RunningBatch(model)
    embeds, dialogues = [one for one, _ in made], [one for _, one in made]
    read: list[int] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    for batch, extra in ((whole, ()), (partly, (dialogues,))):
        batch.join(embeds[:1], [1])  # others run already
        assert len(batch) == 1
        batch.step(torch.tensor([5]))
        read.clear()
        logits = batch.join(embeds, [1, 2, 1, 1], *extra)
        rows = list(_LENGTHS) if batch is whole else [n - count for n, count in zip(_LENGTHS, kept, strict=True)]
        assert read == [max(rows)]
        assert logits.shape[0] == 5
        steps = [logits, *(batch.step(torch.arange(6) + 3) for _ in range(3))]
        batch.keep([1, 3, 4])
        steps.append(batch.step(torch.arange(3) + 9))
        if batch is whole:
            expected = steps
    for left, right in zip(expected, steps, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    hook.remove()
    assert [dialogue.kept for dialogue in dialogues] == list(_LENGTHS)
    assert partly.places == whole.places


@torch.no_grad()
def test_what_a_batch_has_read_begins_the_next_conversation() -> None:
    model = tiny_model()
    ids = prompts()[2]
    embeds, dialogue = begun(model, ids, 6)
    RunningBatch(model).join([embeds], [1], [dialogue])
    longer = torch.cat([ids, ids[:, :4] + 1], dim=1)
    fused = torch.ones_like(longer, dtype=torch.bool)
    again = dialogue.opening(dialogue.kept)
    given = again.advance(longer, fused)
    assert again.kept == ids.shape[1]
    logits = RunningBatch(model).join([given["inputs_embeds"][0]], [1], [again])
    plain = model(inputs_embeds=given["inputs_embeds"], logits_to_keep=1).logits[:, -1]
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)
