"""A judge on loopback: speaks the chat completions of OpenAI and counts what it is asked."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Stub:
    """What the judge was asked, and what it replies."""

    def __init__(self, reply: Callable[[list[dict[str, str]]], str | int]) -> None:
        self.reply = reply
        self.asked: list[list[dict[str, str]]] = []
        self.keys: list[str] = []
        self.url = ""


def highest(messages: list[dict[str, str]]) -> str:
    """Give every score the most it can be."""
    wanted = re.findall(r'"(\w+)": a number from [\d.]+ to ([\d.]+)', messages[0]["content"])
    return f"Here it is: {json.dumps({name: float(most) for name, most in wanted})}"


@contextmanager
def judge_stub(reply: Callable[[list[dict[str, str]]], str | int] = highest) -> Iterator[Stub]:
    """Serve until the block ends; a number in place of a text is a status."""
    stub = Stub(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.asked.append(body["messages"])
            stub.keys.append(self.headers.get("Authorization", ""))
            text = stub.reply(body["messages"])
            status = text if isinstance(text, int) else 200
            answer: dict[str, Any] = {"error": "busy"}
            if isinstance(text, str):
                answer = {
                    "choices": [{"message": {"role": "assistant", "content": text}}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10},
                }
            data = json.dumps(answer).encode()
            self.send_response(status if self.path == "/v1/chat/completions" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
