"""A saved model is a transformers model like any other: Auto classes, generate, pipeline, with bit-equal weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import EMBEDDED, tiny_config, tiny_model, tiny_processor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

from llava_mini import LlavaMiniConfig, LlavaMiniForConditionalGeneration, LlavaMiniModel, LlavaMiniProcessor
from llava_mini.config import EfficientNetLiteConfig
from llava_mini.model.positions import sincos_grid
from llava_mini.model.word_memory import SHARPNESS, STRENGTH

FORMS: dict[str, dict[str, Any]] = {
    "all_tokens": {"compression": "none", "fusion_layers": 0},
    "released": {},
    "other_parts": {"text": "qwen2", "vision": "siglip", "compression_size": 2, "tiles": 2},
    "embedded": {**EMBEDDED, "vision_config": EfficientNetLiteConfig(image_size=56), "vision_feature_layer": None},
}


def talk(*pictures: Image.Image, words: str = "What is this?") -> list[dict[str, Any]]:
    media = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*media, {"type": "text", "text": words}]}]


def red() -> Image.Image:
    return Image.new("RGB", (60, 40), (255, 0, 0))


def saved(folder: Path, form: str = "released", **changes: Any) -> LlavaMiniForConditionalGeneration:
    """Save a tiny model and its processor; return the model."""
    model = tiny_model(**{**FORMS[form], **changes})
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("model")
    saved(where)
    return where


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, form: str) -> None:
    model = saved(tmp_path, form)
    assert [path.suffix for path in tmp_path.glob("model*")] == [".safetensors"]
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LlavaMiniForConditionalGeneration
    assert type(processor) is LlavaMiniProcessor
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    inputs = processor.apply_chat_template(
        talk(red()), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    with torch.no_grad():  # weights lie elsewhere in memory now, which may change the last bit of a sum
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("missing", ["pos_embed", "query"])
def test_weights_that_a_checkpoint_has_not_start_as_in_a_fresh_model(tmp_path: Path, missing: str) -> None:
    model = saved(tmp_path, compression_size=2)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(f"model.compressor.{missing}")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).model.compressor
    before = model.model.compressor
    if missing == "pos_embed":
        assert torch.equal(loaded.pos_embed, sincos_grid(2, 48))
        assert torch.equal(loaded.query, before.query)
    else:
        assert torch.equal(loaded.pos_embed, before.pos_embed)
        assert 0.005 < loaded.query.std() < 0.05


def test_a_folder_that_has_no_word_memory_yet_gets_an_empty_one(tmp_path: Path) -> None:
    saved(tmp_path, **EMBEDDED)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "word_memory" not in name}
    assert len(weights) - len(kept) == 3
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    memory = AutoModelForImageTextToText.from_pretrained(tmp_path).model.word_memory
    assert not memory.words.any()
    assert (memory.sharpness.item(), memory.strength.item()) == (SHARPNESS, STRENGTH)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    text = tiny_config().text
    text.tie_word_embeddings = True
    model = saved(tmp_path, text_config=text)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_the_other_auto_classes_find_their_parts(folder: Path) -> None:
    assert type(AutoConfig.from_pretrained(folder)) is LlavaMiniConfig
    base = AutoModel.from_pretrained(folder)
    assert type(base) is LlavaMiniModel
    whole = AutoModelForImageTextToText.from_pretrained(folder)
    assert all(torch.equal(value, whole.model.state_dict()[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_loads_and_answers_in_half_precision(tmp_path: Path, form: str, dtype: str) -> None:
    saved(tmp_path, form)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    inputs = AutoProcessor.from_pretrained(tmp_path).apply_chat_template(talk(red()), tokenize=True, return_dict=True)
    assert model(**inputs).logits.isfinite().all()
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_gives_the_same(folder: Path, attention: str) -> None:
    inputs = AutoProcessor.from_pretrained(folder).apply_chat_template(talk(red()), tokenize=True, return_dict=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=attention)
    assert model.model.pre_fusion.decoder.config._attn_implementation == attention
    expected = AutoModelForImageTextToText.from_pretrained(folder)(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-3, atol=1e-4)


def test_the_model_card_way_of_use_answers(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        talk(red()), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    words = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(words) == 1
    prompt = processor.apply_chat_template(talk(red()), add_generation_prompt=True)
    same = processor(text=prompt, images=red(), return_tensors="pt")
    assert torch.equal(model.generate(**same, max_new_tokens=5, do_sample=False), out)


def test_several_sampled_answers_to_one_picture_differ(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = AutoProcessor.from_pretrained(folder).apply_chat_template(talk(red()), tokenize=True, return_dict=True)
    torch.manual_seed(0)
    out = model.generate(**inputs, max_new_tokens=5, do_sample=True, num_return_sequences=3)
    assert len({tuple(row) for row in out.tolist()}) == 3


def answer(folder: Path, *pictures: Image.Image, words: str = "What is this?") -> str:
    """What generate says, decoded."""
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        talk(*pictures, words=words), tokenize=True, return_dict=True, add_generation_prompt=True
    )
    model = AutoModelForImageTextToText.from_pretrained(folder)
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    return str(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_the_pipeline_answers_a_conversation_with_a_picture(folder: Path) -> None:
    pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    options: dict[str, Any] = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 5}}
    said = pipe(text=talk(red()), return_full_text=False, **options)
    assert said[0]["generated_text"] == answer(folder, red())
    whole = pipe(talk(red()), **options)
    assert whole[0]["generated_text"][-1] == {"role": "assistant", "content": answer(folder, red())}
    both = pipe(text=[talk(red()), talk(words="How many?")], return_full_text=False, **options)
    assert [one[0]["generated_text"] for one in both] == [answer(folder, red()), answer(folder, words="How many?")]


def test_the_pipeline_takes_a_prompt_and_its_picture(folder: Path) -> None:
    pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    prompt = pipe.processor.apply_chat_template(talk(red()), add_generation_prompt=True)
    options: dict[str, Any] = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 5}}
    said = pipe(images=red(), text=prompt, return_full_text=False, **options)
    assert said[0]["generated_text"] == answer(folder, red())
