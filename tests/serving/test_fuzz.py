"""Requests that nobody would write: whatever comes, the answer is in the envelope and the server lives."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import asked, data_uri, png, serving, tiny_assistant

from llava_mini.serving.requests import ServerLimits

CALM: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(tiny_assistant(), limits=ServerLimits(answer_tokens=8, default_answer_tokens=4)) as address:
        yield address


OPERATIONS = ("POST /v1/chat/completions", "POST /v1/explanations", "GET /v1/models/{name}")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_requests_drawn_from_our_own_schema(address: str, operation: str) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    method, path = operation.split()

    @settings(max_examples=40, **CALM)
    @given(case=schema[path][method].as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(base_url=address)
        assert answer.status_code < 500
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    assert httpx.get(f"{address}/health").status_code == 200


HEADS = [
    png(),
    b"GIF89a",
    b"\xff\xd8\xff\xe0",
    b"RIFF\x00\x00\x00\x00WEBP",
    b"BM",
    b"\x00\x00\x00\x18ftypmp42",
    b"\x1aE\xdf\xa3",
]


@settings(max_examples=60, **CALM)
@given(
    head=st.sampled_from(HEADS),
    cut=st.integers(0, 200),
    tail=st.binary(max_size=300),
    kind=st.sampled_from(["image_url", "video_url"]),
)
def test_files_of_any_bytes(address: str, head: bytes, cut: int, tail: bytes, kind: str) -> None:
    body = {"messages": asked("x", data_uri(head[:cut] + tail), kind=kind), "max_tokens": 1}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code in (200, 400), answer.text


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["messages", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "logprobs", "stream", "tools", "model"]


@settings(max_examples=60, **CALM)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4))
def test_fields_of_any_kind(address: str, fields: dict[str, Any]) -> None:
    raw = json.dumps({"messages": asked("x"), "max_tokens": 1} | fields).encode()
    answer = httpx.post(
        f"{address}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code in (200, 400), answer.text
