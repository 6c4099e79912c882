"""The language model apart is the same one; asked through vLLM's API, it gives the answers of one process."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import BLUE, RED
from PIL import Image
from tiny import EMBEDDED, tiny_model, tiny_processor, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from vllm_stub import Stub, serving

from llava_mini import Assistant, LlavaMiniForConditionalGeneration, Sampling
from llava_mini.cli.serve import say_away
from llava_mini.engines.apart import export_apart, served_name
from llava_mini.engines.vllm import KEY_VARIABLE, VllmServers
from llava_mini.errors import EngineError, InputError, ModelError
from llava_mini.inputs.media import FrameSampling

FEW = Sampling(max_new_tokens=12)


def whole(**changes: Any) -> Assistant:
    model = tiny_model(**changes)
    model.generation_config.eos_token_id = [2, 3]
    return Assistant(model, tiny_processor(model.config), "tiny")


def picture(colour: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", (50, 40), colour)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assistant, path = whole(), tmp_path_factory.mktemp("exports") / "apart"
    export_apart(assistant.model, assistant.processor, path)
    return path


@pytest.fixture
def stub(folder: Path) -> Stub:
    return Stub(folder / "llm", served_name(tiny_model()))


@pytest.mark.parametrize("changes", [{}, EMBEDDED, {"text": "qwen2"}, {"text": "mistral"}])
@torch.no_grad()
def test_the_folder_of_the_language_model_gives_the_same_logits_bit_by_bit(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    ours = tiny_model(**changes)
    export_apart(ours, tiny_processor(ours.config), tmp_path / "apart")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "apart" / "llm")
    ids = torch.arange(7, 47)[None]
    left, right = ours(ids, output_hidden_states=True), plain(ids, output_hidden_states=True)
    assert type(plain).__module__.startswith("transformers.")
    assert torch.equal(left.logits, right.logits)
    assert all(torch.equal(a, b) for a, b in zip(left.hidden_states, right.hidden_states, strict=True))


def test_a_shared_head_is_written_once(tmp_path: Path) -> None:
    text = tiny_model().config.text.to_dict() | {"tie_word_embeddings": True}
    ours = tiny_model(text_config=text)
    export_apart(ours, tiny_processor(ours.config), tmp_path / "apart")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "apart" / "llm")
    assert plain.lm_head.weight is plain.get_input_embeddings().weight
    assert torch.equal(plain.lm_head.weight, ours.lm_head.weight)
    front = LlavaMiniForConditionalGeneration.from_pretrained(tmp_path / "apart" / "vision")
    assert torch.equal(front.word_embeddings, ours.word_embeddings)


def test_the_folder_has_tokenizer_and_endings_and_is_understood_by_older_readers(folder: Path) -> None:
    llm = folder / "llm"
    text = "What is this?<|im_end|><image>"
    tokenizer = AutoTokenizer.from_pretrained(llm)
    assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert json.loads((llm / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    config = json.loads((llm / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]) == (10000.0, None)
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert json.loads((llm / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoConfig.from_pretrained(llm).rope_parameters["rope_theta"] == 10000.0


def test_the_vision_folder_holds_all_but_the_layers_and_no_pickle(folder: Path) -> None:
    front, info = LlavaMiniForConditionalGeneration.from_pretrained(folder / "vision", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = tiny_model().state_dict()
    left_out = {name.split(".")[2] if "language" in name else name for name in ours.keys() - front.state_dict().keys()}
    assert left_out == {"layers", "norm", "lm_head.weight"}
    assert all(torch.equal(value, ours[name]) for name, value in front.state_dict().items())
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".jinja"}
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1  # another user may serve it


def test_what_cannot_be_exported_is_refused(folder: Path, tmp_path: Path) -> None:
    assistant = whole()
    with pytest.raises(InputError, match="is there already; give a new folder"):
        export_apart(assistant.model, assistant.processor, folder)
    front = LlavaMiniForConditionalGeneration.from_pretrained(folder / "vision")
    with pytest.raises(ModelError, match="was exported before; give the whole model"):
        export_apart(front, assistant.processor, tmp_path / "again")
    assistant.model.lm_head.register_forward_hook(lambda _, __, logits: logits / 2)  # as some heads scale theirs
    before = assistant.model.forward
    assistant.model.forward = lambda **given: _halved(before(**given))
    with pytest.raises(ModelError, match="gives other logits"):
        export_apart(assistant.model, assistant.processor, tmp_path / "scaled")
    assert not (tmp_path / "scaled").exists()


def _halved(out: Any) -> Any:
    out.logits = out.logits / 2
    return out


def test_without_its_server_the_vision_folder_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(ModelError, match="holds no language model; start vLLM"):
        Assistant.load(folder / "vision")
    front = LlavaMiniForConditionalGeneration.from_pretrained(folder / "vision")
    with pytest.raises(ModelError, match="needs the language model itself"):
        front(torch.tensor([[7, 8, 9]]))


@pytest.mark.parametrize("source", ["vision", "whole"])
def test_answers_through_a_server_are_those_of_one_process(
    folder: Path, stub: Stub, tmp_path: Path, source: str
) -> None:
    alone = whole()
    if source == "whole":
        alone.model.save_pretrained(tmp_path / "whole")
        alone.processor.save_pretrained(tmp_path / "whole")
    with serving(stub):
        apart = Assistant.load(folder / "vision" if source == "vision" else tmp_path / "whole", engine=stub.url)
        assert not any(".layers." in name for name, _ in apart.model.model.language_model.named_parameters())
        for question, shown in (
            ("What is this?", [picture()]),
            ("What colour is the star?", [picture(), picture(BLUE)]),
            ("is it red or is it blue", [picture(BLUE)]),
            ("How many are there?", []),
        ):
            left, right = (one.ask(question, *shown, sampling=FEW) for one in (alone, apart))
            assert left.text == right.text
            assert (left.vision_tokens, left.prompt_tokens) == (right.vision_tokens, right.prompt_tokens)
            assert stub.shapes[-1] == (left.prompt_tokens, 32)
    assert stub.dtypes[-1] == torch.float32
    assert stub.asked[0]["stop_token_ids"] == [2, 3]


def test_turns_of_a_chat_and_long_videos_go_through_a_server_too(
    folder: Path, stub: Stub, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = whole()
    with serving(stub):
        apart = Assistant.load(folder / "vision", engine=stub.url)
        told: list[list[str]] = []
        for one in (alone, apart):
            one.model.config.frame_memory_mb = 1
            monkeypatch.setattr("llava_mini.assistant.kept_bytes", lambda *_: 2**20)  # nothing longer than a frame
            chat = one.chat(clip, frames=FrameSampling(fps=4))
            told.append([chat.ask(text, sampling=FEW).text for text in ("What is this?", "What colour is the star?")])
    assert told[0] == told[1]
    assert stub.shapes[0][0] < stub.shapes[1][0]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    from corpus import video

    path = tmp_path / "clip.mp4"
    path.write_bytes(video([RED] * 8 + [BLUE] * 8))
    return path


def test_pieces_come_one_by_one_and_add_up_to_the_whole(folder: Path, stub: Stub) -> None:
    with serving(stub):
        apart = Assistant.load(folder / "vision", engine=stub.url)
        reply = apart.stream("What is this?", picture(BLUE), sampling=FEW)
        pieces = list(reply)
        assert len(pieces) > 2
        assert "".join(pieces).strip() == reply.answer.text
        assert reply.answer.tokens_per_second > 0
        servers = apart.served
        assert isinstance(servers, VllmServers)
        embeds = torch.randn(9, 32)
        at_once = list(servers.stream(embeds, max_new_tokens=6, at_once=True))
        streamed = list(servers.stream(embeds, max_new_tokens=6))
        assert "".join(one.text for one in at_once) == "".join(one.text for one in streamed)
        assert len(at_once) == 2
        assert at_once[-1] == streamed[-1]
        assert at_once[-1].ending in ("length", "stop")
    assert [body.get("stream", False) for body in stub.asked] == [True, False, True]


def test_settings_are_sent_as_vllm_names_them(stub: Stub) -> None:
    with serving(stub):
        servers = VllmServers([stub.url], stub.name, endings=[2])
        said = list(servers.stream(torch.randn(5, 32), max_new_tokens=3, top_p=0.5, seed=7, stop=["§"], choices=2))
        assert {one.choice for one in said if one.ending} == {0, 1}
    body = {name: value for name, value in stub.asked[0].items() if name != "prompt_embeds"}
    assert body == {
        "model": stub.name,
        "max_tokens": 3,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["§"],
        "stop_token_ids": [2],
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_slice_of_a_longer_tensor_is_sent_alone_and_in_its_own_precision(stub: Stub) -> None:
    with serving(stub):
        list(VllmServers([stub.url], stub.name).stream(torch.randn(3, 9, 32).bfloat16()[1], max_new_tokens=1))
    assert (stub.shapes, stub.dtypes) == ([(9, 32)], [torch.bfloat16])


def test_the_key_of_the_environment_is_sent(folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.key = "a-key"
    with serving(stub):
        with pytest.raises(EngineError, match=f"refused the key \\(status 401\\); set {KEY_VARIABLE}"):
            Assistant.load(folder / "vision", engine=stub.url).ask("what", sampling=FEW)
        monkeypatch.setenv(KEY_VARIABLE, "a-key")
        assert Assistant.load(folder / "vision", engine=stub.url).ask("what", sampling=FEW).text


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}/v1"


def test_replicas_take_turns_and_a_dead_one_is_passed_over(folder: Path, stub: Stub) -> None:
    other, sick = Stub(folder / "llm", stub.name), Stub(folder / "llm", stub.name, status=503)
    with serving(stub), serving(other), serving(sick):
        servers = VllmServers([stub.url, free_address(), other.url, sick.url], stub.name)
        texts = {
            "".join(one.text for one in servers.stream(torch.ones(4, 32), max_new_tokens=4, at_once=True))
            for _ in range(8)
        }
    assert len(texts) == 1
    assert len(stub.asked) + len(other.asked) == 8
    assert min(len(stub.asked), len(other.asked)) >= 2
    assert len(sick.asked) == 1  # and then left alone for a while


def test_who_is_away_is_known_before_anything_is_asked(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = free_address()
    with serving(stub):
        servers = VllmServers([gone, stub.url], "tiny")
        assert servers.away() == [gone]
        assert not stub.asked
        say_away(Assistant(tiny_model(), tiny_processor(), "tiny", served=servers))
    assert f"note: nothing answers at {gone} yet; is vLLM running there?\n" in capsys.readouterr().err


def test_servers_that_are_all_away_are_told_in_one_line(stub: Stub) -> None:
    dead = free_address()
    with pytest.raises(EngineError, match=f"{dead} cannot be reached .* is vLLM running there"):
        list(VllmServers([dead], "x").stream(torch.ones(4, 32), max_new_tokens=4))
    stub.status = 502
    with serving(stub), pytest.raises(EngineError, match="none of 2 servers answers: .* not ready .status 502"):
        list(VllmServers([dead, stub.url], "x").stream(torch.ones(4, 32), max_new_tokens=4))


def test_a_server_that_is_slow_or_breaks_off_is_told_of(stub: Stub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(EngineError, match="did not answer within 0.05 s"):
            list(VllmServers([url], "x", timeout_s=0.05).stream(torch.ones(4, 32), max_new_tokens=4))
    stub.break_after = 2
    with serving(stub), pytest.raises(EngineError, match="broke off"):
        list(VllmServers([stub.url], stub.name).stream(torch.ones(4, 32), max_new_tokens=9))


def test_refusals_say_what_would_be_right(folder: Path, stub: Stub) -> None:
    with serving(stub):
        ask = VllmServers([stub.url], "another").stream(torch.ones(4, 32), max_new_tokens=4)
        with pytest.raises(EngineError, match=f"serves {stub.name}, not another; start vLLM as 'llava-mini export"):
            list(ask)
        servers = VllmServers([stub.url], stub.name)
        with pytest.raises(EngineError, match="runs a model of another width: .*hidden_size 16"):
            list(servers.stream(torch.ones(4, 16), max_new_tokens=4))
        with pytest.raises(InputError, match="refused the question: This model's maximum context length is 256"):
            list(servers.stream(torch.ones(4, 32), max_new_tokens=400))
        stub.embeds = False
        with pytest.raises(EngineError, match="takes no embeddings; start vLLM with --enable-prompt-embeds"):
            list(servers.stream(torch.ones(4, 32), max_new_tokens=4))
        stub.status = 500
        with pytest.raises(EngineError, match=r"failed \(status 500\): away"):
            list(servers.stream(torch.ones(4, 32), max_new_tokens=4))
    with pytest.raises(InputError, match="'http://'; it must be like http://127.0.0.1:8001/v1"):
        Assistant.load(folder / "vision", engine="http://")


def test_who_wants_to_look_inside_is_refused(folder: Path) -> None:
    apart = Assistant.load(folder / "vision", engine="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match="vLLM does not say where it looked; leave the engine out"):
        apart.ask("what", picture(), attention=True)
