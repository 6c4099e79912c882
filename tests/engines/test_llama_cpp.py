"""The language model in llama.cpp gives the logits of PyTorch; its file holds our weights and says whose they are."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny import pixels, row, tiny_model, tiny_processor, tiny_tokenizer

from llava_mini import Assistant, Sampling
from llava_mini.engines import attach, llama_cpp
from llava_mini.engines.gguf_file import read_digest, weights_digest, write_gguf
from llava_mini.engines.llama_cpp import export_gguf, kept_gguf
from llava_mini.errors import InputError, ModelError

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed (extra llama-cpp)"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tiny_model(), tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_a_file_holds_every_weight_once_and_queries_in_the_order_of_neighbours(file: Path) -> None:
    model = tiny_model()
    backbone = model.model.language_model
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    assert len(found) == len(list(backbone.named_parameters())) + 1  # and the head
    layer = backbone.layers[1]
    np.testing.assert_allclose(found["blk.1.ffn_down.weight"], layer.mlp.down_proj.weight.detach(), atol=1e-3)
    np.testing.assert_allclose(found["output.weight"], model.lm_head.weight.detach(), atol=1e-3)
    query = layer.self_attn.q_proj.weight.detach().view(4, 8, 32)  # four heads of width 8
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # halves are turned with each other there, neighbours here
    np.testing.assert_allclose(found["blk.1.attn_q.weight"].reshape(4, 8, 32), query[:, order], atol=1e-3)
    assert "rope_freqs.weight" not in found


def test_a_stretched_context_is_told_in_frequencies(tmp_path: Path) -> None:
    model = tiny_model()
    model.model.language_model.rotary_emb.inv_freq[1:] /= 8
    write_gguf(model, tmp_path / "far.gguf")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "far.gguf").tensors}
    np.testing.assert_allclose(found["rope_freqs.weight"], [1, 8, 8, 8], rtol=1e-5)


def test_a_file_says_whose_weights_it_holds(file: Path, tmp_path: Path) -> None:
    assert read_digest(file) == weights_digest(tiny_model())
    other = tiny_model(seed=1)
    assert read_digest(file) != weights_digest(other)
    for place in ("model.language_model.layers.1.mlp.up_proj", "model.language_model.norm", "lm_head"):
        other = tiny_model()
        with torch.no_grad():
            other.get_submodule(place).weight.mul_(1.01)
        assert read_digest(file) != weights_digest(other), place
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="broken.gguf is no GGUF file"):
        read_digest(broken)


def test_other_kinds_of_language_models_and_quantizations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a qwen2 language model cannot be written yet"):
        write_gguf(tiny_model(text="qwen2"), tmp_path / "qwen.gguf")
    with pytest.raises(InputError, match="--quantization is 'Q9'; it must be one of F16, Q8_0, Q4_K_M"):
        export_gguf(tiny_model(), tmp_path / "tiny.gguf", "Q9")


def test_the_word_alone_writes_a_file_into_the_cache_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLAVA_MINI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(llama_cpp, "export_gguf", write_gguf)  # quantising needs the library
    monkeypatch.setattr(llama_cpp, "_library", lambda: None)
    file = kept_gguf(tiny_model())
    assert read_digest(file) == weights_digest(tiny_model())
    written = file.stat().st_mtime_ns
    assert kept_gguf(tiny_model()) == file
    assert file.stat().st_mtime_ns == written
    assert [record.getMessage() for record in caplog.records] == [
        f"writing the language model for llama.cpp, this once: {file}"
    ]
    far = tiny_model()
    far.config.text.max_position_embeddings *= 2
    assert len({file, kept_gguf(far), kept_gguf(tiny_model(seed=1))}) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 3
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAVA_MINI_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be written: .*; 'llava-mini export' writes it elsewhere"):
        kept_gguf(tiny_model())


@needs_llama_cpp
@torch.no_grad()
def test_the_word_alone_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MINI_CACHE", str(tmp_path))
    plain, engine = tiny_model(), tiny_model()
    attach(engine, "llama.cpp")
    given = {"input_ids": row(), "pixel_values": pixels()}
    left, right = (model(**given, logits_to_keep=1).logits for model in (plain, engine))
    torch.testing.assert_close(left, right, rtol=0, atol=0.05)
    assert engine.model.language_model.file_bytes == next(tmp_path.glob("*.gguf")).stat().st_size


@needs_llama_cpp
@torch.no_grad()
def test_logits_are_those_of_pytorch(file: Path) -> None:
    plain, engine = tiny_model(), tiny_model()
    attach(engine, str(file))
    assert not any("layers" in name for name, _ in engine.model.language_model.named_parameters())
    given = {"input_ids": row(), "pixel_values": pixels()}
    left = plain(**given, logits_to_keep=1).logits
    right = engine(**given, logits_to_keep=1).logits
    assert (left - right).abs().max() < 0.02 * left.abs().max()


@needs_llama_cpp
@torch.no_grad()
@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_K_M"])
def test_a_batch_of_padded_rows_is_answered_as_in_pytorch(tmp_path: Path, quantization: str) -> None:
    plain, engine = tiny_model(), tiny_model()
    export_gguf(plain, tmp_path / "tiny.gguf", quantization)
    attach(engine, str(tmp_path / "tiny.gguf"))
    long, short = row(words=9)[0].tolist(), row(words=4, seed=1)[0].tolist()
    pad = len(long) - len(short)
    given = {
        "input_ids": torch.tensor([long, [tiny_tokenizer().pad_token_id] * pad + short]),
        "attention_mask": torch.tensor([[1] * len(long), [0] * pad + [1] * len(short)]),
        "pixel_values": pixels(batch=2),
    }
    made = [one.generate(**given, max_new_tokens=4, do_sample=False) for one in (plain, engine)]
    assert torch.equal(*made)


@needs_llama_cpp
def test_turns_of_a_chat_go_on_from_what_is_kept(file: Path, tmp_path: Path) -> None:
    answers = []
    for with_file in (False, True):
        model = tiny_model()
        if with_file:
            attach(model, str(file))
        assistant = Assistant(model, tiny_processor(model.config), engine=str(file) if with_file else "torch")
        chat, few = assistant.chat(pixels_as_picture()), Sampling(max_new_tokens=8)
        answers.append([chat.ask(text, sampling=few).text for text in ("What is this?", "What colour is the star?")])
        assert chat._dialogue is not None
        assert chat._dialogue.kept > 0
    assert answers[0] == answers[1]
    with pytest.raises(InputError, match="does not say where it looked"):
        assistant.ask("What is this?", pixels_as_picture(), attention=True)


@needs_llama_cpp
@torch.no_grad()
def test_room_grows_with_what_is_read_and_nothing_is_lost(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, engine = tiny_model(), tiny_model()
    attach(engine, str(file))
    embeds = torch.randn(2, 120, 32, generator=torch.Generator().manual_seed(0))
    cache, room = engine.new_cache(), []
    monkeypatch.setattr(llama_cpp, "_AT_ONCE", 16)
    for part in embeds.split([7, 20, 93], dim=1):
        right = engine(inputs_embeds=part, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        room.append(cache._room)
    left = plain(inputs_embeds=embeds, logits_to_keep=1).logits
    assert room == [16, 64, 256]
    assert (left - right).abs().max() < 0.02 * left.abs().max()


@needs_llama_cpp
def test_a_file_of_other_weights_and_too_many_tokens_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="is not this model's language model"):
        attach(tiny_model(seed=1), str(file))
    engine = tiny_model()
    attach(engine, str(file))
    with torch.no_grad(), pytest.raises(InputError, match="room for 256 tokens in all"):
        engine(inputs_embeds=torch.randn(1, 300, 32), logits_to_keep=1)


def pixels_as_picture():
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8))
