"""What is told of attention is what the weights say, and what is removed is truly gone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import tiny_config, tiny_model, tiny_processor, tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from llava_mini.analysis import figures, removal, subjects
from llava_mini.analysis.attention import Asked, _entropy, attention_profile, look, rounded, target_rows
from llava_mini.analysis.explain import write_explanation
from llava_mini.analysis.fusion import read
from llava_mini.analysis.layers import NOTHING, Gap, answer, run_layers
from llava_mini.analysis.removal import Question, as_rows, gaps, removal_curve
from llava_mini.analysis.report import write_report
from llava_mini.analysis.subjects import INSTRUCTION, RESPONSE, VISION, LlavaSubject, MiniSubject, load_subject
from llava_mini.assistant import Assistant
from llava_mini.errors import ConfigError, InputError, ModelError
from llava_mini.inputs.media import Picture, Video
from llava_mini.reply import Sampling

ALL_TOKENS = {"compression": "none", "fusion_layers": 0}
PICTURE = Picture(Image.new("RGB", (56, 56), "red"), "red")


def mini(**changes: Any) -> MiniSubject:
    return MiniSubject(Assistant(tiny_model(**changes), tiny_processor(tiny_config(**changes)), "tiny"))


@pytest.mark.parametrize("changes", [{}, ALL_TOKENS])
def test_shares_entropy_and_maps_are_those_of_the_whole_weights(changes: dict[str, Any]) -> None:
    subject = mini(**changes)
    seen = subject.see("What is this?", PICTURE, "It is a cat.")
    found = look(subject, seen, "", "")
    subject.language_model.set_attn_implementation("eager")
    whole = torch.stack(subject.language_model(inputs_embeds=seen.embeds, output_attentions=True).attentions)[:, 0]
    last = int((seen.roles == VISION).nonzero().max())
    first = int((seen.roles == RESPONSE).nonzero().min())
    for column, target in enumerate((INSTRUCTION, RESPONSE)):
        end = first if target == INSTRUCTION else None
        rows = whole[:, :, last + 1 : end][:, :, seen.roles[last + 1 : end] == target]
        for role in (INSTRUCTION, VISION, RESPONSE):
            naive = rows[..., seen.roles == role].sum(dim=-1).mean(dim=-1)
            assert torch.allclose(found.shares[:, :, column, role], naive, atol=1e-6)
        assert torch.allclose(found.sink[:, :, column], rows[..., 0].mean(dim=-1), atol=1e-6)
        over = rows[..., seen.roles == VISION]
        share = over / over.sum(dim=-1, keepdim=True)
        entropy = torch.special.entr(share).sum(dim=-1).mean(dim=(1, 2))
        assert torch.allclose(found.entropy[:, column], entropy, atol=1e-5)
    assert torch.allclose(found.shares.sum(dim=-1), torch.ones(3, 4, 2), atol=1e-5)
    maps = whole[:, :, seen.roles == RESPONSE][..., seen.roles == VISION].mean(dim=(1, 2))
    assert torch.allclose(found.maps.flatten(1), maps, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, ALL_TOKENS])
def test_an_instruction_attends_to_no_response(changes: dict[str, Any]) -> None:
    subject = mini(**changes)
    seen = subject.see("What is this?", PICTURE, "It is a cat.")
    assert seen.roles[-1] == INSTRUCTION  # the template's newline, after the answer
    instruction, response = target_rows(seen)
    assert int(instruction.nonzero().max()) < int(response.nonzero().min())
    assert int(look(subject, seen, "", "").shares[:, :, 0, RESPONSE].count_nonzero()) == 0


def test_entropy_is_that_of_the_shares_however_little_vision_gets() -> None:
    for little in (1.0, 1e-15, 1e-36):
        assert float(_entropy(torch.full((2, 3, 81), little))) == pytest.approx(math.log(81), abs=1e-4)
    some = torch.cat([torch.zeros(1, 1, 81), torch.full((1, 1, 81), 1e-3)], dim=1)
    assert float(_entropy(some)) == pytest.approx(math.log(81), abs=1e-4)


def test_roles_are_those_of_the_conversation() -> None:
    subject = mini(**ALL_TOKENS)
    alone, answered = subject.see("What is this?", PICTURE), subject.see("What is this?", PICTURE, "It is a cat.")
    assert int((alone.roles == VISION).sum()) == int((answered.roles == VISION).sum()) == 16
    assert not (alone.roles == RESPONSE).any()
    assert (answered.roles == RESPONSE).any()
    assert answered.grid == (1, 4, 4)


def test_without_a_gap_answers_are_those_of_the_assistant() -> None:
    for changes in ({}, ALL_TOKENS):
        subject = mini(**changes)
        alone = subject.assistant.ask("What is this?", PICTURE.image, sampling=Sampling(max_new_tokens=6)).text
        assert answer(subject, subject.see("What is this?", PICTURE), max_new_tokens=6) == alone


def masked(subject: MiniSubject, embeds: Tensor, vision: Tensor, gap: Gap) -> Tensor:
    """Restate a gap with masks: in its layers nobody sees vision rows; if they are removed, they are put back after."""
    model = subject.language_model
    length = embeds.shape[1]
    positions = torch.arange(length)[None]
    hidden, around = embeds, model.rotary_emb(embeds, positions)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for index, layer in enumerate(model.layers):
        alone = vision[:, None] if gap.hidden else torch.eye(length, dtype=torch.bool)
        seen = causal & (~vision | alone) if index in gap else causal
        out = layer(hidden, attention_mask=seen[None, None], position_ids=positions, position_embeddings=around)
        hidden = torch.where(vision[None, :, None], hidden, out) if index in gap and not gap.hidden else out
    normed: Tensor = model.norm(hidden)
    return normed


@pytest.mark.parametrize("gap", [NOTHING, Gap(0, 3), Gap(1, 3), Gap(0, 2), Gap(1, 2), Gap(0, 2, hidden=True)])
@torch.no_grad()
def test_removed_tokens_are_gone_from_rows_and_keys_and_others_keep_their_positions(gap: Gap) -> None:
    subject = mini(**ALL_TOKENS)
    seen = subject.see("What is this?", PICTURE, "It is a cat.")
    vision = seen.roles == VISION
    length = seen.embeds.shape[1]
    cache = DynamicCache()
    found = run_layers(subject.language_model, seen.embeds, cache, vision, gap)
    assert torch.allclose(found[:, ~vision], masked(subject, seen.embeds, vision, gap)[:, ~vision], atol=1e-5)
    kept = [layer.keys.shape[2] for layer in cache.layers]
    assert kept == [length - 16 if index in gap and not gap.hidden else length for index in range(3)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
@torch.no_grad()
def test_layers_one_by_one_are_the_language_model_with_its_mask_and_its_window(text: str, attention: str) -> None:
    model = tiny_model(text=text, attention=attention, **ALL_TOKENS).model.language_model
    if text != "llama":
        model.config.sliding_window = 5
    if text == "qwen2":
        model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
        model.has_sliding_layers = True
    embeds = torch.randn(1, 12, 32)
    cache, none = DynamicCache(), torch.zeros(12, dtype=torch.bool)
    begun = run_layers(model, embeds[:, :9], cache, none[:9], NOTHING)
    went_on = run_layers(model, embeds[:, 9:], cache, none, NOTHING)
    whole = model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    assert torch.allclose(torch.cat([begun, went_on], dim=1), whole, atol=1e-5)


@pytest.mark.parametrize("gap", [Gap(0, 2), Gap(1, 3), Gap(0, 2, hidden=True)])
@torch.no_grad()
def test_an_answer_goes_on_without_the_tokens_that_its_question_went_without(gap: Gap) -> None:
    found = []
    for attention in ("sdpa", "eager"):
        subject = mini(**ALL_TOKENS)
        subject.language_model.set_attn_implementation(attention)
        seen = subject.see("What is this?", PICTURE, "It is a cat.")
        vision, cache = seen.roles == VISION, DynamicCache()
        run_layers(subject.language_model, seen.embeds[:, :-3], cache, vision[:-3], gap)
        found.append(run_layers(subject.language_model, seen.embeds[:, -3:], cache, vision, gap))
    subject.language_model.set_attn_implementation("sdpa")
    whole = masked(subject, seen.embeds, vision, gap)[:, -3:]
    assert torch.allclose(found[0], whole, atol=1e-5)
    assert torch.allclose(found[1], whole, atol=1e-5)


def test_an_attention_that_takes_no_mask_is_refused() -> None:
    subject = mini(**ALL_TOKENS)
    subject.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="attention is 'flash_attention_2'; vision tokens are removed with 'sdpa' or"):
        answer(subject, subject.see("What?", PICTURE))


def test_removing_everything_makes_the_picture_matter_no_more() -> None:
    subject = mini(**ALL_TOKENS)
    blue = Picture(Image.new("RGB", (56, 56), "blue"), "blue")
    whole = Gap(0, 3)
    assert answer(subject, subject.see("What?", PICTURE), whole) == answer(subject, subject.see("What?", blue), whole)


def test_the_curve_counts_what_is_right() -> None:
    subject = mini(**ALL_TOKENS)
    first = answer(subject, subject.see("What is this?", PICTURE))
    questions = [Question("What is this?", PICTURE, lambda said: said == first), Question("What?", PICTURE, bool)]
    curve = removal_curve(subject, questions, step=1, window=2)
    assert [(one.where, one.first, one.end) for one in curve] == [
        ("none", 0, 0), ("all", 0, 3), ("from", 1, 3), ("from", 2, 3), ("up to", 0, 1), ("up to", 0, 2),
        ("window", 0, 2), ("window", 1, 3), ("window", 2, 3), ("hidden", 0, 2), ("hidden", 1, 3), ("hidden", 2, 3),
    ]  # fmt: skip
    assert curve[0].accuracy == 1
    assert all(one.n == 2 and one.low <= one.accuracy <= one.high for one in curve)
    assert all(sum(one.right) / 2 == one.accuracy and one.difference == one.accuracy - 1 for one in curve)
    assert all(one.difference_low <= one.difference <= one.difference_high for one in curve)
    rows = json.loads(json.dumps(as_rows(curve)))
    assert (rows[0]["right"], rows[0]["difference_low"]) == ([1, 1], 0)
    with pytest.raises(ConfigError, match=r"step \(0\) and window \(6\) must be from 1 to the number of layers \(3\)"):
        gaps(3, step=0, window=6)


def test_each_different_gap_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Gap] = []
    monkeypatch.setattr(removal, "answer", lambda subject, seen, gap, **_: asked.append(gap) or "")
    curve = removal_curve(mini(**ALL_TOKENS), [Question("What?", PICTURE, bool)], step=1, window=1)
    assert len(asked) == len(set(asked)) == 9
    assert len(curve) == 12
    assert as_rows(curve)[1]["difference_low"] is None  # of one question there is no interval


def llava() -> LlavaSubject:
    """A tiny LLaVA of transformers, with the processor it is used through here."""
    torch.manual_seed(0)
    ours = tiny_config()
    vision = CLIPVisionConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = LlamaConfig(**{**ours.text.to_dict(), "architectures": None})
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=ours.image_token_id)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    ours_processor = tiny_processor(tiny_config(**ALL_TOKENS))

    class Processor:
        tokenizer = tiny_tokenizer()

        def apply_chat_template(self, messages: Any, **_: Any) -> str:
            return f"<|im_start|>user <image> {messages[0]['content'][1]['text']}<|im_end|><|im_start|>assistant"

        def __call__(self, images: Image.Image, text: str, **_: Any) -> Any:
            from transformers import BatchFeature

            ids = self.tokenizer(text.replace("<image>", "<image>" * 16), return_tensors="pt").input_ids
            pixels = ours_processor.prepare_frames([images])[:, 0]
            return BatchFeature({"input_ids": ids, "pixel_values": pixels})

    return LlavaSubject(model, Processor(), "llava")


def test_an_answer_is_tokenized_as_one_text_with_its_prompt() -> None:
    subject = llava()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # as Llama's
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<s>", "<|im_end|>", "<|im_start|>", "<image>"]
    words = ["assistant It is a cat. It is a star. It is It is"] * 5
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=80, special_tokens=special))
    subject.processor.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    subject.model.config.image_token_id = 3
    prompt = subject.processor.apply_chat_template([{"content": [0, {"text": "What is it?"}]}])
    ids = subject.processor(PICTURE.image, f"{prompt} It is a cat.")["input_ids"][0]
    alone, seen = subject.see("What is it?", PICTURE), subject.see("What is it?", PICTURE, "It is a cat.")
    assert len(seen.roles) == len(ids)
    assert len(ids) - len(alone.roles) == int((seen.roles == RESPONSE).sum())
    first = int((seen.roles == RESPONSE).nonzero()[0])
    assert torch.equal(seen.embeds[0, first:], subject.model.get_input_embeddings()(ids[first:]))
    assert tokenizer.id_to_token(int(ids[first])).startswith("▁I")


def test_a_llava_is_loaded_onto_the_device_that_auto_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llava().model.save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *_: None)
    assert load_subject(str(tmp_path)).head.weight.dtype == torch.float32
    monkeypatch.setattr(subjects, "find_device", lambda name: torch.device("meta"))
    subject = load_subject(str(tmp_path))
    assert (subject.head.weight.device.type, subject.head.weight.dtype) == ("meta", torch.bfloat16)


def test_a_llava_of_transformers_is_seen_as_it_sees_itself() -> None:
    subject = llava()
    seen = subject.see("What is this?", PICTURE)
    inputs = subject.processor(
        PICTURE.image, subject.processor.apply_chat_template([{"content": [0, {"text": "What is this?"}]}])
    )
    with torch.no_grad():
        whole = subject.model(**inputs, output_hidden_states=True)
    assert torch.allclose(seen.embeds, whole.hidden_states[0], atol=1e-6)
    made = subject.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer(subject, seen, max_new_tokens=5) == subject.text([t for t in made.tolist() if t != 2])
    with pytest.raises(ModelError, match="llava takes pictures, and film is a video"):
        subject.see("What?", Video.of([PICTURE.image], "film"))


@torch.no_grad()
def test_a_reading_is_what_pre_fusion_did() -> None:
    subject = mini()
    reading = read(subject, "What colour is the star?", PICTURE)
    assert "".join(reading.words).strip() == "What colour is the star?"
    count = len(reading.words)
    assert reading.compression.shape == (1, 4, 4)
    assert reading.compression.sum() == pytest.approx(1, abs=1e-4)
    assert reading.attention.shape == (2, count, 4, 4)
    assert reading.change.shape == reading.cosine.shape == (count,)
    model, tokenizer = subject.assistant.model, subject.assistant.processor.tokenizer
    after = subject.see("What colour is the star?", PICTURE).embeds[0]
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What colour is the star?"}]
    told = subject.assistant.processor.tokenize_conversations(
        [[{"role": "user", "content": content}]], add_generation_prompt=True
    )
    ids = told["input_ids"][0]
    texts = [tokenizer.decode([token]) for token in ids.tolist()]
    start = next(at for at in range(len(texts)) if texts[at : at + count] == reading.words)
    before = model.get_input_embeddings()(ids)[start : start + count]
    moved = (after[start : start + count] - before).norm(dim=-1) / before.norm(dim=-1)
    assert bool((moved > 0).all())
    assert torch.allclose(reading.change, moved, atol=1e-5)
    blue = Picture(Image.new("RGB", (56, 56), "blue"), "blue")
    assert not torch.allclose(read(subject, "What colour is the star?", blue).change, reading.change, atol=1e-4)
    with pytest.raises(ModelError, match="no compression or no pre-fusion"):
        read(mini(**ALL_TOKENS), "What?", PICTURE)


def test_videos_have_a_map_a_frame() -> None:
    film = Video.of([PICTURE.image, Image.new("RGB", (56, 56), "blue")], "film")
    subject = mini()
    profile = attention_profile(subject, [Asked("What is this?", film)], max_new_tokens=3)
    assert profile.samples[0].maps.shape[1] == 2
    assert read(subject, "What is this?", film).compression.shape == (2, 4, 4)


def test_means_have_intervals_and_json_holds_them() -> None:
    subject = mini(**ALL_TOKENS)
    asked = [Asked(words, PICTURE, "It is a cat.") for words in ("What is this?", "How many are there?")]
    profile = attention_profile(subject, asked)
    both = torch.stack([sample.shares.mean(dim=1) for sample in profile.samples])
    assert torch.allclose(profile.shares().mean, both.mean(dim=0))
    assert torch.allclose(profile.shares().half, 1.96 * (both[0] - both[1]).abs() / 2, atol=1e-6)
    told = json.loads(json.dumps(profile.as_dict()))
    assert told["n"] == 2
    assert len(told["shares"]["mean"]) == 3
    assert told["sink"]["mean"] == rounded(profile.sink().mean)
    with pytest.raises(InputError, match="no question was asked"):
        attention_profile(subject, [])


def test_one_question_has_no_interval(tmp_path: Path) -> None:
    profile = attention_profile(mini(**ALL_TOKENS), [Asked("What?", PICTURE, "A cat.")]).as_dict()
    told = json.loads(json.dumps(profile, allow_nan=False))
    assert told["shares"]["half"][0] == [[None] * 3] * 2
    figures.shares(told, tmp_path / "shares")
    figures.entropy(told, tmp_path / "entropy", tokens=16)


def test_a_model_that_says_nothing_is_shown_with_the_answer_that_was_looked_at(tmp_path: Path) -> None:
    subject = mini(**ALL_TOKENS)
    subject.stops = frozenset(range(400))
    assert attention_profile(subject, [Asked("What?", PICTURE)]).samples[0].response == "…"
    write_explanation(subject.assistant, "What?", PICTURE, "", tmp_path / "page.html")
    assert '"response": "\\u2026"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_figures_and_the_page_are_drawn_from_the_numbers(tmp_path: Path) -> None:
    subject = mini(**ALL_TOKENS)
    hostile = "</script><img src=x onerror=alert(1)> $x_1$"
    profile = attention_profile(subject, [Asked(hostile, PICTURE, "It is $5_.")]).as_dict()
    curve = as_rows(removal_curve(subject, [Question("What?", PICTURE, bool)], step=1, window=1))
    reading = read(mini(), "What?", PICTURE).as_dict()
    figures.shares(profile, tmp_path / "shares")
    figures.entropy(profile, tmp_path / "entropy", tokens=16)
    figures.removal(curve, tmp_path / "removal", model="tiny")
    figures.maps(PICTURE.image, {0: profile["samples"][0]["maps"][0][0]}, tmp_path / "maps", title="What?")
    figures.strip([PICTURE.image] * 7, reading["compression"] * 7, tmp_path / "strip", title="What?")
    figures.words(reading, tmp_path / "words", title="What?")
    for name in ("shares", "entropy", "removal", "maps", "strip", "words"):
        assert Image.open(tmp_path / f"{name}.png").width > 200
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
    told = {"profile": profile, "removal": curve, "readings": [reading]}
    write_report(told, [[PICTURE.image]], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    assert "<img src=x" not in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_one_answer_is_explained_on_a_page_of_its_own(tmp_path: Path) -> None:
    for changes in ({}, ALL_TOKENS, {"tiles": 2}, {"compression": "none"}):
        assistant = mini(**changes).assistant
        write_explanation(assistant, "What is this?", PICTURE, "It is a cat.", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "It is a cat." in page
        assert ('"compression"' in page) == (not changes)
    with pytest.raises(InputError, match="cannot write .*: no such file or directory"):
        write_explanation(assistant, "What is this?", PICTURE, "It is a cat.", tmp_path / "nowhere/page.html")
