"""A further turn costs its own words and changes nothing: equal to computing the whole conversation anew."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import EMBEDDED, pixels, row, tiny_config, tiny_model
from torch import Tensor

from llava_mini import VisionPrefix
from llava_mini.errors import InputError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.dialogue import Dialogue

FORMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"text": "mistral"},
    "qwen2": {"text": "qwen2"},
    "paper": {"compression_first": False, "compression_attention": "plain", "fuse_compressed": False},
    "embedded": EMBEDDED,
    "compression only": {"fusion_layers": 0},
    "fused history": {"fuse_history": True},
}
IMAGE = int(tiny_config().image_token_id)
GREEDY: dict[str, Any] = {
    "max_new_tokens": 4,
    "do_sample": False,
    "eos_token_id": None,
    "pad_token_id": 0,
    "suppress_tokens": [IMAGE],
}


def words(count: int, seed: int) -> Tensor:
    return torch.randint(10, 300, (1, count), generator=torch.Generator().manual_seed(seed))


def spoken(ids: Tensor, answered: Tensor, answer: Tensor | None = None, question: Tensor | None = None) -> Any:
    """Append an answer and the next question: ids and which of them are instructions."""
    parts = [part for part in (answer, question) if part is not None]
    flags = [torch.full_like(part, part is not answer) for part in parts]
    return torch.cat([ids, *parts], dim=1), torch.cat([answered, *flags], dim=1)


def talk(model: LlavaMiniForConditionalGeneration, frames: int, *, anew: bool) -> tuple[list[Tensor], list[int]]:
    """Three turns about some frames; logits of each answer, and how many tokens the language model ran."""
    ran: list[int] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: ran.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    prefix = model.encode_images(pixels(frames)) if frames else None
    dialogue = Dialogue(model, prefix)
    ids, instruction = row(frames, words=6), torch.ones(1, 8 + frames, dtype=torch.long)
    logits = []
    for turn in range(3):
        kept = Dialogue(model, prefix) if anew else dialogue
        made = model.generate(
            **kept.advance(ids, instruction), **GREEDY, return_dict_in_generate=True, output_logits=True
        )
        kept.remember(made.sequences)
        logits.append(torch.stack(made.logits, dim=1))
        ids, instruction = spoken(ids, instruction, made.sequences, words(5, seed=turn))
    hook.remove()
    return logits, ran


@pytest.mark.parametrize("frames", [0, 1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_three_turns_are_equal_to_computing_each_anew(form: str, frames: int) -> None:
    model = tiny_model(**FORMS[form])
    kept, _ = talk(model, frames, anew=False)
    anew, _ = talk(model, frames, anew=True)
    for one, other in zip(kept, anew, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def test_the_first_turn_is_equal_to_the_model_without_a_dialogue() -> None:
    model = tiny_model()
    ids = row(3, words=6)
    made = model.generate(
        input_ids=ids, pixel_values=pixels(3), **GREEDY, return_dict_in_generate=True, output_logits=True
    )
    kept, _ = talk(model, 3, anew=False)
    torch.testing.assert_close(kept[0], torch.stack(made.logits, dim=1), atol=2e-5, rtol=0)


def test_a_later_turn_runs_its_own_words_only() -> None:
    _, ran = talk(tiny_model(), 1, anew=False)
    # The first prompt has 9 tokens; later ones the last token of an answer, which was never run, and 5 new words.
    assert ran == [9, 1, 1, 1, 6, 1, 1, 1, 6, 1, 1, 1]


def test_pre_fusion_reads_new_words_only() -> None:
    model = tiny_model()
    fusion: Any = model.model.pre_fusion
    read: list[int] = []
    fusion.decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    talk(model, 1, anew=False)
    assert read == [16, 1, 8, 5, 5]  # 16 patches and the compressed token once, then words


def test_an_answer_that_is_rendered_otherwise_is_computed_anew_from_there() -> None:
    model = tiny_model()
    prefix = model.encode_images(pixels())
    ids, instruction = row(words=6), torch.ones(1, 9, dtype=torch.long)
    dialogue = Dialogue(model, prefix)
    made = model.generate(**dialogue.advance(ids, instruction), **GREEDY)
    dialogue.remember(made)
    other = made.clone()
    other[0, 1] = (other[0, 1] + 7) % 300
    ids, instruction = spoken(ids, instruction, other, words(5, seed=9))
    again = Dialogue(model, prefix).advance(ids, instruction)["inputs_embeds"]
    inputs = dialogue.advance(ids, instruction)
    torch.testing.assert_close(inputs["inputs_embeds"], again, atol=1e-5, rtol=0)
    assert dialogue.kept == 10  # the prompt and the one token that both answers begin with


def test_a_turn_that_was_not_finished_is_forgotten() -> None:
    model = tiny_model()
    dialogue = Dialogue(model, model.encode_images(pixels()))
    ids, instruction = row(words=6), torch.ones(1, 9, dtype=torch.long)
    first = model.generate(**dialogue.advance(ids, instruction), **GREEDY)
    second = model.generate(**dialogue.advance(ids, instruction), **GREEDY)
    assert torch.equal(first, second)


def test_earlier_embeddings_stay_as_they_are() -> None:
    model = tiny_model()
    dialogue = Dialogue(model, model.encode_images(pixels(2)))
    ids, instruction = row(2, words=6), torch.ones(1, 10, dtype=torch.long)
    before = dialogue.advance(ids, instruction)["inputs_embeds"]
    dialogue.remember(words(3, seed=1))
    ids, instruction = spoken(ids, instruction, words(3, seed=1), words(4, seed=2))
    after = Dialogue(model, model.encode_images(pixels(2))).advance(ids, instruction)["inputs_embeds"]
    torch.testing.assert_close(after[:, :10], before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("history", [False, True])
@torch.no_grad()
def test_footage_that_is_read_anew_gives_what_a_kept_prefix_gives(history: bool) -> None:
    model, shown = tiny_model(fuse_history=history), pixels(5)
    read: list[int] = []

    def footage() -> Iterator[VisionPrefix]:
        for start in (0, 2, 4):
            read.append(start)
            yield model.encode_images(shown[:, start : start + 2])

    kept, anew = Dialogue(model, model.encode_images(shown)), Dialogue(model, footage)
    ids, instruction = row(5, words=6), torch.ones(1, 13, dtype=torch.long)
    for turn in range(3):
        inputs = [dialogue.advance(ids, instruction) for dialogue in (kept, anew)]
        torch.testing.assert_close(inputs[1]["inputs_embeds"], inputs[0]["inputs_embeds"], atol=1e-5, rtol=0)
        answers = [model.generate(**given, **GREEDY) for given in inputs]
        assert torch.equal(*answers)
        for dialogue, answer in zip((kept, anew), answers, strict=True):
            dialogue.remember(answer)
        assert kept.kept == anew.kept > 0
        ids, instruction = spoken(ids, instruction, answers[0], words(5, seed=turn))
    assert read == [0, 2, 4] * 3


@torch.no_grad()
def test_attention_to_vision_tokens_is_what_the_model_computes_eagerly() -> None:
    model = tiny_model(compression_size=2)
    ids, shown = row(3, words=6, tokens_per_frame=4), pixels(3)
    dialogue = Dialogue(model, model.encode_images(shown))
    answer = model.generate(**dialogue.advance(ids, torch.ones_like(ids)), **GREEDY)
    dialogue.remember(answer)
    kept, found = dialogue.kept, dialogue.attention(answer)
    assert dialogue.kept == kept
    plain = tiny_model(compression_size=2, attention="eager")
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(answer)], dim=1)
    out = plain(
        input_ids=torch.cat([ids, answer], dim=1), pixel_values=shown, instruction_mask=mask, output_attentions=True
    )
    asked = ids.shape[1]
    rows = torch.stack(out.attentions)[:, 0, :, asked - 1 : -1].mean(dim=(0, 1, 2))
    torch.testing.assert_close(found, rows[:asked][ids[0] == IMAGE], atol=1e-5, rtol=0)
    assert found.shape == (12,)
    assert model.model.language_model.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_asking_for_attention_changes_no_later_turn() -> None:
    answers = []
    for asked_for in (False, True):
        model = tiny_model()
        dialogue = Dialogue(model, model.encode_images(pixels(2)))
        ids, instruction = row(2, words=6), torch.ones(1, 10, dtype=torch.long)
        first = model.generate(**dialogue.advance(ids, instruction), **GREEDY)
        dialogue.remember(first)
        if asked_for:
            dialogue.attention(first)
        inputs = dialogue.advance(*spoken(ids, instruction, first, words(5, seed=5)))
        assert dialogue.kept > 10
        answers.append(model.generate(**inputs, **GREEDY))
    assert torch.equal(*answers)


def test_a_text_without_places_for_the_pictures_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="places for 0 frames, but 1 were given"):
        Dialogue(model, model.encode_images(pixels())).advance(words(6, seed=1), torch.ones(1, 6))
