"""The loss equals its plain restatement, and its gradient reaches every part that is trained."""

from typing import Any

import pytest
import torch
from tiny import EMBEDDED, pixels, row, tiny_model

PLAIN = {"compression_attention": "plain", "compression_first": False}
FORMS: dict[str, dict[str, Any]] = {
    "all_tokens": {"compression": "none", "fusion_layers": 0},
    "compression_only": {"fusion_layers": 0},
    "released": {},
    "paper": {**PLAIN, "fuse_compressed": False},
    "embedded": EMBEDDED,
}


def sample() -> dict[str, torch.Tensor]:
    """Two rows with an answer in their second half; the first answer token follows an unsupervised one."""
    ids = torch.cat([row(words=9, seed=1), row(words=9, seed=2)])
    labels = ids.clone()
    labels[0, :7] = labels[1, :5] = -100
    return {"input_ids": ids, "labels": labels, "pixel_values": pixels(batch=2)}


def test_the_loss_is_the_mean_over_answer_tokens_of_the_log_of_their_chance() -> None:
    model, inputs = tiny_model(), sample()
    out = model(**inputs)
    losses = []
    for logits, labels in zip(out.logits, inputs["labels"], strict=True):
        for place in range(1, len(labels)):
            if labels[place] != -100:
                losses.append(-logits[place - 1].log_softmax(dim=-1)[labels[place]])
    torch.testing.assert_close(out.loss, torch.stack(losses).mean())
    scaled = model(**inputs, num_items_in_batch=torch.tensor(20)).loss
    torch.testing.assert_close(scaled, torch.stack(losses).sum() / 20)


def test_supervised_tokens_are_not_fused() -> None:
    model, inputs = tiny_model(), sample()
    unsupervised = inputs["labels"] == -100
    expected = model(
        input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], instruction_mask=unsupervised
    ).logits
    assert torch.equal(model(**inputs).logits, expected)


def test_the_logits_of_a_word_do_not_depend_on_answers_after_it() -> None:
    model, inputs = tiny_model(), sample()
    before = model(**inputs).logits[0, :9]
    inputs["input_ids"][0, 9:] += 1
    torch.testing.assert_close(model(**inputs).logits[0, :9], before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_reaches_every_trainable_part(form: str) -> None:
    model = tiny_model(**FORMS[form]).train()
    per_frame = model.config.tokens_per_frame
    ids = row(1, 9, tokens_per_frame=per_frame)
    labels = ids.clone()
    labels[:, : per_frame + 5] = -100
    model(input_ids=ids, labels=labels, pixel_values=pixels()).loss.backward()
    unused = ("vision_tower.encoder.post_layernorm", "vision_tower.encoder.vision_model.post_layernorm")
    missed = [
        name
        for name, parameter in model.named_parameters()
        if (parameter.grad is None or not parameter.grad.any()) and not any(part in name for part in unused)
    ]
    assert not missed


def test_fused_words_give_no_gradient_to_their_embeddings() -> None:
    model, inputs = tiny_model(), sample()
    model(**inputs).loss.backward()
    table = model.get_input_embeddings().weight.grad
    assert table is not None
    answers = inputs["input_ids"][inputs["labels"] != -100].tolist()
    questions = set(inputs["input_ids"][inputs["labels"] == -100].tolist()) - set(answers)
    assert not table[sorted(questions)].any()
    assert table[answers[0]].any()


def test_gradient_checkpointing_changes_neither_loss_nor_gradient() -> None:
    results = []
    for checkpointed in (False, True):
        model = tiny_model().train()
        if checkpointed:
            model.activation_checkpointing_enable()
        loss = model(**sample()).loss
        loss.backward()
        results.append((loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_a_model_in_half_precision_trains_on_pixels_in_full_precision() -> None:
    model = tiny_model().bfloat16().train()
    loss = model(**sample()).loss
    loss.backward()
    assert loss.isfinite()
