"""A front whose language model runs on servers answers as one whole process does: over HTTP and in large numbers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from corpus import BLUE, RED
from openai import OpenAI
from served import asked, data_uri, png, serving, tiny_assistant
from vllm_stub import Stub
from vllm_stub import serving as stub_serving

from llava_mini import Assistant, Sampling
from llava_mini.engines.apart import export_apart, served_name
from llava_mini.errors import EngineError
from llava_mini.serving.choice import Settings
from llava_mini.serving.many import Many, answer_rows
from llava_mini.serving.preparing import Preparer
from llava_mini.serving.requests import ServerLimits, Ticket


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole, path = tiny_assistant(), tmp_path_factory.mktemp("exports") / "apart"
    export_apart(whole.model, whole.processor, path)
    return path


@pytest.fixture
def stub(folder: Path) -> Iterator[Stub]:
    with stub_serving(Stub(folder / "llm", served_name(tiny_assistant().model))) as made:
        yield made


@pytest.fixture
def front(folder: Path, stub: Stub) -> Assistant:
    return Assistant.load(folder / "vision", engine=stub.url)


def test_it_serves_what_one_process_serves_in_pieces_and_whole(front: Assistant, stub: Stub) -> None:
    told: list[list[Any]] = []
    for assistant in (tiny_assistant(), front):
        with serving(assistant) as address:
            client = OpenAI(base_url=f"{address}/v1", api_key="none")
            messages: Any = asked("what is it", data_uri(png(BLUE)))
            whole = client.chat.completions.create(model="any", messages=messages, max_tokens=8, n=2)
            pieces = client.chat.completions.create(
                model="any", messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
            events = list(pieces)
            text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
            metrics = httpx.get(f"{address}/metrics").text
            told.append([[choice.message.content for choice in whole.choices], text, events[-1].usage, whole.usage])
            told[-1].append([choice.finish_reason for choice in whole.choices])
            assert "llava_mini_running 0.0" in metrics
            assert "llava_mini_waiting 0.0" in metrics
    assert told[0] == told[1]
    assert [body["n"] for body in stub.asked] == [1, 1]  # vLLM makes no two greedy answers at once
    assert all(body["stream"] for body in stub.asked)


def test_nothing_is_kept_for_servers_that_keep_their_own(front: Assistant) -> None:
    messages = [{"role": "user", "content": [{"type": "image", "data": png(BLUE)}, {"type": "text", "text": "what"}]}]
    for assistant, kept in ((tiny_assistant(), True), (front, False)):
        ticket = Ticket(Settings(), lambda _: None)
        ticket.messages = messages
        prepared = Preparer(assistant, ServerLimits()).prepare(ticket)
        assert (prepared.nbytes > 0) == kept


def test_what_servers_cannot_do_is_refused_and_what_they_do_not_do_is_told(front: Assistant, stub: Stub) -> None:
    with serving(front) as address:
        body: dict[str, Any] = {"messages": asked("what", data_uri(png())), "max_tokens": 2}
        refused = httpx.post(f"{address}/v1/chat/completions", json={**body, "logprobs": True, "top_logprobs": 1})
        assert (refused.status_code, "not passed on" in refused.text) == (400, True)
        explained = httpx.post(f"{address}/v1/explanations", json={"messages": body["messages"]}, timeout=30)
        assert len(explained.json()["frames"]) == 1
        refused = httpx.post(f"{address}/v1/explanations", json={"messages": body["messages"], "answer": "red"})
        assert (refused.status_code, "does not say where it looked" in refused.text) == (400, True)
        stub.embeds = False
        failed = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=30)
        assert failed.status_code == 502
        assert "--enable-prompt-embeds" in failed.json()["error"]["message"]


def test_many_rows_through_servers_are_those_of_one_process(front: Assistant, stub: Stub, tmp_path: Path) -> None:
    for name, colour in (("red", RED), ("blue", BLUE)):
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    rows = [
        {"id": number, "image": f"{name}.png", "question": f"what is it {number}"}
        for number in range(4)
        for name in ("red", "blue", "gone")
    ]
    many = Many(media=tmp_path, batch_size=3, sampling=Sampling(max_new_tokens=6))
    made = [list(answer_rows(assistant, rows, many)) for assistant in (tiny_assistant(), front)]
    assert made[0] == made[1]
    assert sum("error" in row for row in made[1]) == 4
    assert not any(body.get("stream") for body in stub.asked)
    rows[1:1] = [{"id": "long", "question": "what", "max_new_tokens": 200}]  # one that the servers refuse
    stub.model.config.max_position_embeddings = 100
    refused = {row["id"] for row in answer_rows(front, rows, many) if "refused the question" in row.get("error", "")}
    assert refused == {"long"}


def test_servers_that_are_away_end_the_work_and_cost_no_row(front: Assistant, stub: Stub, tmp_path: Path) -> None:
    stub.status = 503
    with pytest.raises(EngineError, match="is not ready"):
        next(answer_rows(front, [{"question": "what"}], Many()))
    assert json.dumps(stub.asked[0]["max_tokens"]) == "64"
