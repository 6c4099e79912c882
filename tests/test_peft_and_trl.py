"""PEFT and TRL take the model as they take any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from tiny import tiny_model, tiny_processor
from trl import SFTConfig, SFTTrainer

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")


def batch(model: Any) -> dict[str, torch.Tensor]:
    processor = tiny_processor(model.config)
    picture = {"type": "image", "image": Image.new("RGB", (56, 56), "red")}
    messages = [
        {"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": "It is a cat."},
    ]
    made = processor.apply_chat_template([messages], tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    labels = torch.where(made.pop("assistant_masks").bool(), made["input_ids"], -100)
    return {**made, "labels": labels}


def test_peft_trains_lora_alone_and_loads_it_again(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), LORA)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    given = batch(model)
    losses = []
    for _ in range(5):
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert losses[-1] < losses[0]
    model.save_pretrained(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "adapter"))
    torch.testing.assert_close(again(**given).logits, model(**given).logits)


def rows(colours: list[str]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "images": [Image.new("RGB", (56, 56), colour)],
                "messages": [
                    {"role": "user", "content": "What colour is this?"},
                    {"role": "assistant", "content": f"It is {answer}."},
                ],
            }
            for colour, answer in zip(colours, ("red", "blue"), strict=True)
        ]
    )


def first_loss(folder: Path, colours: list[str]) -> tuple[float, bool]:
    """Train two steps with TRL; return the first loss, and whether our own parts moved."""
    model = tiny_model()
    before = model.model.compressor.query.detach().clone()
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, logging_steps=1, report_to=[], use_cpu=True,
        bf16=False, max_length=None, learning_rate=1e-2, save_strategy="no", disable_tqdm=True, seed=0,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model, args=arguments, train_dataset=rows(colours), processing_class=tiny_processor(model.config)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[0]), not torch.equal(model.model.compressor.query, before)


def test_trls_sft_trainer_trains_it_and_the_pictures_are_seen(tmp_path: Path) -> None:
    loss, moved = first_loss(tmp_path / "own", ["red", "blue"])
    swapped, _ = first_loss(tmp_path / "swapped", ["blue", "red"])
    assert moved
    assert torch.isfinite(torch.tensor(loss))
    assert loss != pytest.approx(swapped, abs=1e-4)
