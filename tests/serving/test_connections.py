"""Connections that nobody uses are closed, and too many are told so."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from served import asked, serving, tiny_assistant

from llava_mini import Assistant
from llava_mini.serving import connections
from llava_mini.serving.requests import ServerLimits


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return tiny_assistant()


@pytest.fixture
def address(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "MOST", 4)
    with serving(assistant, limits=ServerLimits(body_bytes=9_000)) as address:
        yield address


def connected(address: str, *, receives: int | None = None) -> socket.socket:
    made = socket.socket()
    made.settimeout(60)
    if receives is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    made.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    return made


def read_to_the_end(connection: socket.socket) -> bytes:
    """Read until the server closes; a reset is an end, too."""
    data = b""
    try:
        while chunk := connection.recv(65_536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"], ids=["nothing", "half a head"])
def test_who_sends_no_whole_head_is_left(address: str, sent: bytes) -> None:
    with connected(address) as connection:
        connection.sendall(sent)
        assert read_to_the_end(connection) == b""


def test_half_a_second_head_is_left_too(address: str) -> None:
    with connected(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = b""
        while not told.endswith(b"}"):
            told += connection.recv(4096)
        connection.sendall(b"GET /health")
        assert read_to_the_end(connection) == b""


def test_a_body_may_take_longer_than_a_head(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"messages": asked("what"), "max_tokens": 1}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with connected(address) as slow, connected(address) as idle:
        slow.sendall(head.encode() + body[:10])
        assert read_to_the_end(idle) == b""  # as long as a head may take has gone by
        slow.sendall(body[10:])
        assert read_to_the_end(slow).startswith(b"HTTP/1.1 200")


def test_too_many_are_told_in_the_envelope_and_still_more_are_closed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 300.0)
    held = [connected(address) for _ in range(4)]
    answer = httpx.get(f"{address}/health", timeout=60)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    held += [connected(address) for _ in range(3)]
    with connected(address) as further:
        assert read_to_the_end(further) == b""
    for connection in held:
        connection.close()
    answers = (httpx.get(f"{address}/health", timeout=60) for _ in range(500))
    assert any(answer.status_code == 200 for answer in answers)


def test_who_reads_nothing_is_left_and_keeps_no_bytes_from_others(address: str) -> None:
    body = {"messages": asked("what"), "metadata": {"p": "x" * 8000}, "max_tokens": 200, "n": 16, "stream": True}
    raw = json.dumps({**body, "logprobs": True, "top_logprobs": 20}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connected(address, receives=4096) as connection:
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        assert connection.recv(1)  # the answer has begun; nothing more of it is read
        small = {"messages": asked("x"), "metadata": body["metadata"], "max_tokens": 1}
        for _ in range(3):
            assert httpx.post(f"{address}/v1/chat/completions", json=small, timeout=60).status_code == 200
        numbers = httpx.Client(timeout=60)
        for _ in range(2000):
            if "llava_mini_running 0.0" in numbers.get(f"{address}/metrics").text:
                break
        else:
            raise AssertionError("the server still works for somebody who reads nothing")
        assert b"[DONE]" not in read_to_the_end(connection)
