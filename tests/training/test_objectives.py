"""Packing keeps samples apart, checkpointing keeps less, and words alone run the same modules as words and pictures."""

from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch.autograd.graph import saved_tensors_hooks

from llava_mini.data.collator import pack_rows
from llava_mini.errors import InputError
from llava_mini.training.objectives import Answers

LENGTHS, FRAMES = (20, 9, 14, 6), (1, 1, 3, 0)


def batch(tokens_per_frame: int = 1, *, room: int | None = None, image: int | None = None) -> dict[str, Any]:
    """Four samples: two pictures, a video of three frames, and words alone."""
    generator = torch.Generator().manual_seed(0)
    image = tiny_model().config.image_token_id if image is None else image
    lengths = [length + frames * tokens_per_frame for length, frames in zip(LENGTHS, FRAMES, strict=True)]
    ids = torch.zeros(4, max(lengths), dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (length, frames) in enumerate(zip(lengths, FRAMES, strict=True)):
        ids[row, :length] = torch.randint(10, 300, (length,), generator=generator)
        ids[row, 1 : 1 + frames * tokens_per_frame] = image
        labels[row, length - 4 : length] = ids[row, length - 4 : length]
        mask[row, :length] = 1
    made: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels, "frames": torch.tensor(FRAMES)}
    made["pixel_values"] = torch.randn(5, 1, 3, 56, 56, generator=generator)
    if room:
        made["packed"] = pack_rows(lengths, max(lengths), room)
    return made


def gradients(objective: Answers, given: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    objective.zero_grad()
    loss = objective(**given)["loss"]
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def loss_of(objective: Answers, given: dict[str, Any]) -> float:
    return float(objective(**given)["loss"].detach())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("through", "tokens"), [("answers", 1), ("all_tokens", 16)])
def test_packed_samples_have_the_loss_and_gradients_of_padded_ones(attention: str, through: Any, tokens: int) -> None:
    objective = Answers(tiny_model(attention=attention), through=through)
    padded, of_padded = gradients(objective, batch(tokens))
    for room in (30 + 16 * tokens, 200):
        packed, of_packed = gradients(objective, batch(tokens, room=room))
        assert packed == pytest.approx(padded, abs=1e-5)
        for name, value in of_padded.items():
            torch.testing.assert_close(of_packed[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_a_packed_sample_sees_nothing_of_its_neighbours() -> None:
    objective = Answers(tiny_model(), through="answers")
    alone = batch(room=200)
    alone["labels"][[0, 1, 3]] = -100
    changed = {**alone, "input_ids": alone["input_ids"].clone(), "pixel_values": alone["pixel_values"].clone()}
    for row in (0, 1, 3):
        words = changed["input_ids"][row]
        changed["input_ids"][row] = torch.where(words == objective.model.config.image_token_id, words, words * 0 + 77)
    changed["pixel_values"][:2] += 1.0
    assert loss_of(objective, alone) == pytest.approx(loss_of(objective, changed), abs=1e-6)
    changed["pixel_values"][2] += 1.0  # its own first frame
    assert loss_of(objective, alone) != pytest.approx(loss_of(objective, changed), abs=1e-4)


@pytest.mark.parametrize("changes", [{}, {"fuse_compressed": False}, {"fusion_residual": True}, {"fusion_layers": 3}])
def test_checkpointed_activations_keep_less_and_change_nothing(changes: dict[str, Any]) -> None:
    results, kept = [], []
    for checkpointed in (False, True):
        objective = Answers(tiny_model(**changes), through="answers").train()
        if checkpointed:
            objective.activation_checkpointing_enable()
        for parameter in objective.model.language_model.parameters():  # so that what is kept is pre-fusion's
            parameter.requires_grad_(False)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            given = batch()
            prefix = objective._encode(given["pixel_values"], None, given["frames"])
            words = objective.model.get_input_embeddings()(given["input_ids"])
            fused = objective.model.fuse(words, given["attention_mask"].bool(), [prefix]).words
        fused.sum().backward()
        kept.append(sum(sizes))
        results.append(gradients(objective, given))
    assert kept[1] < 0.6 * kept[0]
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-6)
    assert results[1][1].keys() == results[0][1].keys()
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("through", ["answers", "all_tokens"])
def test_texts_alone_run_every_module_and_learn_as_the_language_model_would(through: Any) -> None:
    objective = Answers(tiny_model(), through=through)
    given = {name: value[3:] for name, value in batch().items() if name != "pixel_values"}
    loss, found = gradients(objective, {**given, "pixel_values": torch.zeros(0, 1, 3, 56, 56)})
    logits = objective.lm_head(
        objective.model.language_model(inputs_embeds=objective.model.get_input_embeddings()(given["input_ids"]),
                                       attention_mask=given["attention_mask"]).last_hidden_state
    )  # fmt: skip
    shifted = given["labels"][:, 1:].flatten()
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), shifted)
    assert loss == pytest.approx(float(plain), abs=1e-6)
    assert "model.multi_modal_projector.linear_1.weight" in found
    assert not found["model.multi_modal_projector.linear_1.weight"].any()


def test_a_sample_with_places_for_other_frames_than_it_is_given_is_refused() -> None:
    objective = Answers(tiny_model(), through="answers")
    given = batch()
    given["frames"] = torch.tensor([1, 3, 1, 0])
    with pytest.raises(InputError, match="row 1 of the text has places for 1 frames, but 3 were given"):
        objective(**given)
    with pytest.raises(InputError, match="neither pixel_values nor vision_features"):
        objective(**{**batch(), "pixel_values": None})


def test_supervised_tokens_of_other_devices_divide_the_loss_too() -> None:
    objective = Answers(tiny_model(), through="answers")
    mean, given = objective(**batch())["loss"], batch()
    count = int((given["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(objective(**given, num_items_in_batch=2 * count)["loss"], mean / 2)


def test_stage_1_is_llava_v1_5_on_the_same_weights() -> None:
    model = tiny_model()
    plain = tiny_model(compression="none", fusion_layers=0)
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if n in plain.state_dict()})
    given = {name: value for name, value in batch(16).items() if name != "frames"}
    given["pixel_values"] = torch.stack([torch.zeros(3, 1, 3, 56, 56)] * 4)
    for row, frames in enumerate(FRAMES):
        start = sum(FRAMES[:row])
        given["pixel_values"][row, :frames] = batch(16)["pixel_values"][start : start + frames]
    stage_1 = loss_of(Answers(model, through="all_tokens"), batch(16))
    assert stage_1 == pytest.approx(float(plain(**given).loss.detach()), abs=1e-5)
