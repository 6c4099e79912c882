"""Code written for OpenAI's API works when its base address is changed; what is refused is told in its words."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from corpus import BLUE, GREEN, RED, damaged_film, png_bomb, sound_only, video
from served import KEY, asked, data_uri, png, serving, tiny_assistant, until

from llava_mini import Assistant
from llava_mini.errors import MediaError
from llava_mini.reply import Sampling
from llava_mini.serving.batch import RunningBatch
from llava_mini.serving.requests import ServerLimits


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return tiny_assistant()


@pytest.fixture(scope="module")
def address(assistant: Assistant) -> Iterator[str]:
    def cost(text: int, frames: int) -> dict[str, float]:
        return {"first": text + frames, "second": text, "all_tokens": text + 4 * frames}

    with serving(assistant, cost=cost) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none is asked", max_retries=0)


def said(assistant: Assistant, question: str, *files: bytes, tokens: int = 6) -> str:
    return assistant.ask(question, *files, sampling=Sampling(max_new_tokens=tokens)).text


def test_a_question_is_answered_as_ask_answers_it(client: openai.OpenAI, assistant: Assistant) -> None:
    made: Any = client.chat.completions.create(
        model="gpt-4o", messages=asked("what", data_uri(png())), max_tokens=6, temperature=0
    )
    assert made.choices[0].message.content.strip() == said(assistant, "what", png())
    assert made.choices[0].message.role == "assistant"
    assert (made.choices[0].finish_reason, made.model, made.object) == ("length", "tiny", "chat.completion")
    usage = made.usage
    assert (usage.vision_tokens, usage.completion_tokens) == (1, 6)
    assert usage.total_tokens == usage.prompt_tokens + 6


def test_a_stream_is_the_answer_in_pieces_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    question: Any = {"model": "any", "messages": asked("what", data_uri(png())), "max_completion_tokens": 6}
    whole = client.chat.completions.create(**question)
    chunks = list(client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_is_server_sent_events_up_to_done(address: str) -> None:
    body = {"messages": asked("what"), "max_tokens": 2, "stream": True}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_turns_pictures_and_videos_are_read_as_a_chat_reads_them(client: openai.OpenAI, assistant: Assistant) -> None:
    film = video([RED] * 8 + [GREEN] * 8)
    chat = assistant.chat(film)
    sampling = Sampling(max_new_tokens=4)
    first, second = chat.ask("what", sampling=sampling).text, chat.ask("which", sampling=sampling).text
    turns: Any = [
        *asked("what", data_uri(film, "video/mp4"), kind="video_url"),
        {"role": "assistant", "content": first},
        {"role": "user", "content": "which"},
    ]
    made = client.chat.completions.create(model="", messages=turns, max_tokens=4)
    assert (made.choices[0].message.content or "").strip() == second


def test_seeds_choices_stops_and_logprobs(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> list[str | None]:
        made = client.chat.completions.create(
            model="", messages=asked("what"), n=3, temperature=1.0, top_p=0.99, seed=seed, max_tokens=8
        )
        return [choice.message.content for choice in made.choices]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 3
    plain = client.chat.completions.create(model="", messages=asked("what"), max_tokens=12)
    text = plain.choices[0].message.content or ""
    stopped = client.chat.completions.create(model="", messages=asked("what"), max_tokens=12, stop=text[4:7])
    assert stopped.choices[0].message.content == text[: text.index(text[4:7])]
    assert stopped.choices[0].finish_reason == "stop"
    told = client.chat.completions.create(model="", messages=asked("what"), max_tokens=3, logprobs=True, top_logprobs=2)
    content = told.choices[0].logprobs.content if told.choices[0].logprobs else None
    assert content is not None
    assert len(content) == 3
    assert all(len(one.top_logprobs) == 2 and one.logprob == one.top_logprobs[0].logprob for one in content)
    streamed = client.chat.completions.create(
        model="", messages=asked("what"), max_tokens=3, logprobs=True, stream=True
    )
    pieces = [c.choices[0].logprobs.content for c in streamed if c.choices and c.choices[0].logprobs]
    assert sum(len(piece or []) for piece in pieces) == 3


def test_eight_at_once_are_answered_as_one_after_the_other(client: openai.OpenAI, assistant: Assistant) -> None:
    questions = [("what", RED), ("which", BLUE), ("where is it", GREEN), ("a", RED)] * 2

    def ask(question: tuple[str, Any]) -> str:
        messages: Any = asked(question[0], data_uri(png(question[1])))
        made = client.chat.completions.create(model="", messages=messages, max_tokens=9)
        return (made.choices[0].message.content or "").strip()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, questions))
    assert answers == [said(assistant, text, png(colour), tokens=9) for text, colour in questions]


def test_models_health_and_metrics(client: openai.OpenAI, address: str) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "llava-mini"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    numbers = httpx.get(f"{address}/metrics").text
    assert 'llava_mini_requests_total{status="200"}' in numbers
    assert "llava_mini_first_token_seconds_bucket" in numbers
    assert "llava_mini_picture_cache_bytes" in numbers
    assert "llava_mini_opening_cache_bytes" in numbers


def test_an_explanation_tells_where_it_looked_and_what_was_saved(address: str) -> None:
    film = data_uri(video([RED] * 16 + [BLUE] * 16), "video/mp4")
    body = {"messages": asked("what", film, kind="video_url"), "answer": "red"}
    told = httpx.post(f"{address}/v1/explanations", json=body, timeout=60).json()
    assert told["vision_tokens"] == len(told["frames"]) > 1
    assert told["all_tokens"] > told["vision_tokens"]
    assert told["tflops"]["first"] < told["tflops"]["all_tokens"]
    for frame in told["frames"]:
        assert sum(map(sum, frame["looked"])) == pytest.approx(1, abs=1e-4)
        assert 0 <= frame["attention"] <= 1
        assert frame["picture"].startswith("data:image/jpeg;base64,")
    assert [frame["time_s"] for frame in told["frames"]] == sorted(frame["time_s"] for frame in told["frames"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "last message"),
        ({"messages": asked("x"), "temperature": 3}, "temperature"),
        ({"messages": asked("x"), "n": 99}, "n is 99"),
        ({"messages": asked("x"), "max_tokens": 0}, "max_tokens"),
        ({"messages": asked("what " * 3000)}, "context"),
        ({"messages": asked("x " * 9000)}, "context"),
        ({"messages": asked("x"), "tools": [{"type": "function"}]}, "tools"),
        ({"messages": asked("x"), "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": asked("x"), "presence_penalty": 1}, "presence_penalty"),
        ({"messages": asked("x"), "top_logprobs": 3}, "logprobs"),
        ({"messages": asked("x", "/etc/passwd")}, "data URI"),
        ({"messages": asked("x", "file:///etc/passwd")}, "data URI"),
        ({"messages": asked("x", "http://127.0.0.1/a.png")}, "not fetched"),
        ({"messages": asked("x", "data:image/png;base64,%%%")}, "base64"),
        ({"messages": asked("x", "data:text/html;base64,AAAA")}, "data URI"),
        ({"messages": asked("x", data_uri(b""))}, "empty"),
        ({"messages": asked("x", data_uri(b"GIF89a junk"))}, "damaged"),
        ({"messages": asked("x", data_uri(png_bomb()))}, "pixels"),
        ({"messages": asked("x", data_uri(png()[:50]))}, "damaged"),
        ({"messages": asked("x", data_uri(sound_only(), "video/mp4"), kind="video_url")}, "video"),
        ({"messages": asked("x", *[data_uri(png())] * 17)}, "17 pictures"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused_is_told_in_one_line_and_the_server_lives(
    address: str, body: dict[str, Any], words: str
) -> None:
    answer = httpx.post(f"{address}/v1/chat/completions", json={"max_tokens": 2, **body}, timeout=60)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_film_that_breaks_in_the_middle_is_answered_or_refused(address: str) -> None:
    body = {"messages": asked("x", data_uri(damaged_film(), "video/mp4"), kind="video_url"), "max_tokens": 1}
    assert httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).status_code in (200, 400)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"messages": NaN}', b'{"temperature": 1e999}'],
    ids=["empty", "open", "null", "list", "word", "bytes", "deep", "nan", "infinite"],
)
def test_bodies_that_are_no_request_are_refused(address: str, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{address}/v1/chat/completions", content=raw, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_lone_surrogates_are_no_reason_to_fail(address: str) -> None:
    raw = json.dumps({"messages": asked("\ud800 what"), "max_tokens": 1, "stop": "\udfff"}).encode()
    answer = httpx.post(f"{address}/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400)


def test_other_kinds_of_bodies_paths_and_methods_are_refused_in_the_envelope(address: str) -> None:
    form = httpx.post(f"{address}/v1/chat/completions", data={"messages": "x"})
    assert (form.status_code, "application/json" in form.json()["error"]["message"]) == (415, True)
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{address}/v1/chat/completions").status_code == 405
    assert httpx.get(f"{address}/docs").status_code == 404


def test_no_page_of_another_origin_reads_or_asks(address: str) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = httpx.options(f"{address}/v1/chat/completions", headers=headers)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
    renamed = httpx.get(f"{address}/v1/models", headers={"host": "evil.example"})
    assert renamed.status_code == 403


def test_a_key_is_asked_of_everything_but_health(assistant: Assistant) -> None:
    with serving(assistant, key=KEY) as address:
        assert httpx.get(f"{address}/health").status_code == 200
        for headers in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": f"Basic {KEY}"}):
            answer = httpx.get(f"{address}/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert httpx.get(f"{address}/metrics", headers=headers).status_code == 401
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY)
        assert client.models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong").models.list()


def test_requests_that_are_too_large_are_refused_said_or_not(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(body_bytes=10_000)) as address:
        where = f"{address}/v1/chat/completions"
        big = json.dumps({"messages": asked("x" * 20_000)}).encode()
        headers = {"content-type": "application/json"}
        assert httpx.post(where, content=big, headers=headers).status_code == 413
        in_parts = (big[start : start + 1000] for start in range(0, len(big), 1000))
        assert httpx.post(where, content=in_parts, headers=headers).status_code == 413
        assert httpx.post(where, json={"messages": asked("x"), "max_tokens": 1}).status_code == 200


def test_a_full_server_says_when_to_come_back(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, read = threading.Event(), assistant.see

    def slow(*args: Any) -> Any:
        blocked.wait(30)
        return read(*args)

    monkeypatch.setattr(assistant, "see", slow)
    with serving(assistant, limits=ServerLimits(waiting=2)) as address:
        body = {"messages": asked("what"), "max_tokens": 1}
        with ThreadPoolExecutor(2) as pool:
            first = [pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=60) for _ in "ab"]
            until(address, "llava_mini_waiting 2.0")
            refused = httpx.post(f"{address}/v1/chat/completions", json=body)
            blocked.set()
            assert [one.result().status_code for one in first] == [200, 200]
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_worked_for_no_longer(assistant: Assistant, stream: bool) -> None:
    with serving(assistant, limits=ServerLimits(answer_tokens=100_000)) as address:
        body = json.dumps({"messages": asked("what"), "max_tokens": 180, "n": 16, "stream": stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
            until(address, "llava_mini_running 16.0")
        text = until(address, "llava_mini_running 0.0")
        assert 'llava_mini_tokens_total{kind="answer"}' not in text


def test_a_server_that_is_stopped_finishes_its_answers(assistant: Assistant) -> None:
    with ThreadPoolExecutor(4) as pool, serving(assistant) as address:
        body = {"messages": asked("what"), "max_tokens": 200}
        sent = [pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=60) for _ in range(4)]
        until(address, "llava_mini_running 4.0")
    assert [one.result().json()["usage"]["completion_tokens"] for one in sent] == [200] * 4


def test_logs_tell_no_contents_also_of_what_nobody_foresaw(
    assistant: Assistant, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(url: str, _: int) -> bytes:
        raise RuntimeError(f"secret {url}")

    with serving(assistant, fetch=fetch) as address, caplog.at_level("DEBUG"):
        for text, url in (("where is the secret", data_uri(png())), ("", data_uri(png())), ("x", "https://secret/a")):
            body = {"messages": asked(text, url), "max_tokens": 2}
            answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the server failed (RuntimeError)")
    told = [f"{record.getMessage()} {record.exc_info} {record.exc_text}" for record in caplog.records]
    assert any("RuntimeError" in line for line in told)
    assert not any("secret" in line or "base64" in line for line in told)


def test_files_of_allowed_hosts_are_fetched(assistant: Assistant) -> None:
    def fetch(url: str, most: int) -> bytes:
        if url != "https://pictures.example/a.png":
            raise MediaError("not there")
        return png()

    with serving(assistant, fetch=fetch) as address:
        where = f"{address}/v1/chat/completions"
        body = {"messages": asked("what", "https://pictures.example/a.png"), "max_tokens": 1}
        assert httpx.post(where, json=body).json()["usage"]["vision_tokens"] == 1
        body["messages"] = asked("what", "https://pictures.example/b.png")
        assert httpx.post(where, json=body).status_code == 400


def test_no_file_is_fetched_of_a_request_with_too_many_or_where_no_place_is_free(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    blocked, read = threading.Event(), assistant.see

    def fetch(url: str, _: int) -> bytes:
        fetched.append(url)
        return png()

    def slow(*args: Any) -> Any:
        blocked.wait(30)
        return read(*args)

    monkeypatch.setattr(assistant, "see", slow)
    with serving(assistant, fetch=fetch, limits=ServerLimits(waiting=1)) as address, ThreadPoolExecutor(1) as pool:
        where = f"{address}/v1/chat/completions"
        many = asked("what", *[f"https://pictures.example/{number}" for number in range(17)])
        assert "17 pictures" in httpx.post(where, json={"messages": many}).json()["error"]["message"]
        one = {"messages": asked("what", "https://pictures.example/a"), "max_tokens": 1}
        first = pool.submit(httpx.post, where, json={"messages": asked("what"), "max_tokens": 1}, timeout=60)
        until(address, "llava_mini_waiting 1.0")
        assert httpx.post(where, json=one).status_code == 429
        assert httpx.post(f"{address}/v1/explanations", json={"messages": one["messages"]}).status_code == 429
        blocked.set()
        assert first.result().status_code == 200
        assert not fetched
        assert httpx.post(where, json=one, timeout=60).status_code == 200
        assert len(fetched) == 1


def test_files_of_one_request_share_its_bytes(assistant: Assistant) -> None:
    asked_for: list[int] = []

    def fetch(_: str, most: int) -> bytes:
        asked_for.append(most)
        return b"x" * 600

    with serving(assistant, fetch=fetch, limits=ServerLimits(media_bytes=1000)) as address:
        body = {"messages": asked("what", "https://pictures.example/a", "https://pictures.example/b")}
        assert httpx.post(f"{address}/v1/chat/completions", json=body).status_code == 400
    assert asked_for == [1000, 400]


def test_explanations_take_a_place_and_give_it_back(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(waiting=1)) as address:
        for given, status in (({"answer": "red"}, 200), ({}, 200), ({"answer": "red " * 4000}, 400)):
            body = {"messages": asked("what", data_uri(png())), **given}
            assert httpx.post(f"{address}/v1/explanations", json=body, timeout=60).status_code == status
        assert httpx.post(f"{address}/v1/explanations", json={"messages": asked("what")}).status_code == 400
        assert "llava_mini_waiting 0.0" in httpx.get(f"{address}/metrics").text


@pytest.mark.parametrize(
    "before",
    [
        [{"role": "system", "content": ""}],
        [*asked("what"), {"role": "assistant", "content": ""}],
        [*asked("what"), {"role": "assistant", "content": None, "refusal": None, "tool_calls": None}],
        [*asked("what"), {"role": "assistant", "content": []}],
        [*asked("what"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
        [*asked("what"), {"role": "assistant", "content": None, "refusal": "no"}],
    ],
)
def test_conversations_that_openai_takes_are_taken(address: str, before: list[dict[str, Any]]) -> None:
    body = {"messages": [*before, *asked("which")], "max_tokens": 1, "stop": ""}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def test_an_answer_is_as_long_as_there_is_room(address: str) -> None:
    body = {"messages": asked("what"), "max_tokens": 10**9}
    told = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).json()
    assert told["usage"]["total_tokens"] == 256
    assert told["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_choice", ["yes"]),
        ("structured_outputs", {"choice": ["a"]}),
        ("grammar", "x"),
        ("min_tokens", 3),
        ("ignore_eos", True),
        ("stop_token_ids", [5]),
        ("bad_words", ["x"]),
        ("best_of", 3),
        ("use_beam_search", True),
        ("length_penalty", 2),
        ("typical_p", 0.3),
        ("mirostat", 2),
        ("chat_template", "x"),
        ("web_search_options", {}),
        ("never heard of", 1),
    ],
)
def test_fields_that_might_change_the_answer_are_refused(address: str, field: str, value: object) -> None:
    where = f"{address}/v1/chat/completions"
    answer = httpx.post(where, json={"messages": asked("x"), "max_tokens": 1, field: value})
    assert (answer.status_code, f"{field} is not supported" in answer.text) == (400, True)
    assert httpx.post(where, json={"messages": asked("x"), "max_tokens": 1, field: None}).status_code == 200


def test_what_clients_send_along_is_taken(address: str) -> None:
    along = {"user": "u", "metadata": {"a": "b"}, "store": True, "tools": [], "response_format": {"type": "text"}}
    along |= {"presence_penalty": 0.0, "best_of": 1, "parallel_tool_calls": False, "model": None}
    body = {"messages": asked("x"), "max_tokens": 1, **along}
    assert httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (7, "messages.0.content"),
        ([{"type": "input_audio"}], "messages.0.content.0"),
        ([{"type": "image_url", "image_url": "x"}], "messages.0.content.0.image_url.image_url"),
        ([{"type": "text"}], "messages.0.content.0.text.text"),
        ([{"type": "\ud800\n", "text": "x"}], "messages.0.content.0"),
    ],
)
def test_the_part_that_is_wrong_is_named(address: str, content: object, param: str) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": content}]})
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{address}/v1/chat/completions", content=raw, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert ("valid string" in answer.text) is (content == 7)
    assert "\n" not in answer.json()["error"]["message"]


def test_bodies_of_very_many_parts_are_refused_before_they_are_looked_at(address: str) -> None:
    for parts, words in ((3000, "3,000 parts"), (100_000, "values")):
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * parts}]}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        assert (answer.status_code, words in answer.text) == (400, True)


def test_running_answers_are_told_that_the_server_stops(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, blocked, read = threading.Event(), threading.Event(), assistant.see
    stops: list[Any] = []

    def slow(*args: Any) -> Any:
        entered.set()
        blocked.wait(30)
        return read(*args)

    monkeypatch.setattr(assistant, "see", slow)
    with ThreadPoolExecutor(2) as pool, serving(assistant, stops=stops, grace_s=3) as address:
        where, body = f"{address}/v1/chat/completions", {"messages": asked("what"), "max_tokens": 1}
        sent = [pool.submit(httpx.post, where, json={**body, "stream": on}, timeout=60) for on in (True, False)]
        assert entered.wait(60)
        until(address, "llava_mini_waiting 2.0")
        stops[0]()
        deadline = time.monotonic() + 60
        while (health := httpx.get(f"{address}/health")).status_code == 200:
            assert time.monotonic() < deadline
        assert health.json() == {"status": "stopping"}
        refused = httpx.post(where, json=body)
        answers = [one.result() for one in sent]
        blocked.set()
    for answer in (refused, *answers):
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
        assert "stopping" in answer.json()["error"]["message"]


def test_a_stream_is_told_that_the_server_stops(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, step, stops = threading.Event(), RunningBatch.step, []  # type: ignore[var-annotated]

    def slow(self: RunningBatch, tokens: Any) -> Any:
        blocked.wait(30)
        return step(self, tokens)

    monkeypatch.setattr(RunningBatch, "step", slow)
    with serving(assistant, stops=stops, grace_s=0.1) as address:
        body = {"messages": asked("what"), "max_tokens": 9, "stream": True}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert "assistant" in next(lines)
            stops[0]()
            last = [line for line in lines if line][-1]
        blocked.set()
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
