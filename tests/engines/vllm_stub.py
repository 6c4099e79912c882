"""A stand-in for vLLM: it takes what vLLM's documentation asks for and nothing else, and answers with the real model.

It runs `llm/` of an export as a plain causal language model, greedily, from the embeddings that it is sent.
"""

import base64
import binascii
import contextlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FIELDS = {
    "model": str,
    "prompt_embeds": str,
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "stop": list,
    "stop_token_ids": list,
    "n": int,
    "seed": int,
    "stream": bool,
    "stream_options": dict,
}
"""What we send, as vLLM's CompletionRequest types it; it also knows much that we do not use."""


class RefusedError(Exception):
    """A request that vLLM would refuse."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Stub:
    """A server that was started as `llava-mini export` says."""

    folder: Path
    """`llm/` of an export."""
    name: str
    key: str = ""
    embeds: bool = True
    """Whether it was started with --enable-prompt-embeds."""
    status: int = 200
    """Other than 200: every request is answered so, as a proxy does whose server is away."""
    break_after: int = -1
    """Breaks the connection off after so many pieces."""
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self._busy = threading.Lock()

    def check(self, body: dict[str, Any]) -> torch.Tensor:
        """Read a request as strictly as can be; the embeddings it holds."""
        for name, value in body.items():
            if name not in FIELDS or not isinstance(value, FIELDS[name]):
                raise RefusedError(400, f"{name}: {value!r} is not what vLLM knows")
        if body["model"] != self.name:
            raise RefusedError(404, f"The model `{body['model']}` does not exist.")
        if not self.embeds:
            raise RefusedError(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        if ("stream_options" in body) != bool(body.get("stream")):
            raise RefusedError(400, "Stream options can only be defined when `stream=True`.")
        try:
            data = base64.b64decode(body["prompt_embeds"], validate=True)
        except binascii.Error as error:
            raise RefusedError(400, "prompt_embeds is no base64") from error
        embeds = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        if not isinstance(embeds, torch.Tensor) or embeds.ndim != 2:
            raise RefusedError(400, "`prompt_embeds` must be a 2D tensor of shape (num_tokens, hidden_size)")
        if embeds.untyped_storage().nbytes() != embeds.nbytes:
            raise RefusedError(400, "more was sent than the embeddings")
        width = self.model.config.hidden_size
        if embeds.shape[1] != width:
            raise RefusedError(
                400, f"`prompt_embeds` hidden_size {embeds.shape[1]} does not match the model's hidden_size {width}."
            )
        if embeds.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise RefusedError(400, f"`prompt_embeds` dtype {embeds.dtype} is not a floating-point type")
        longest = self.model.config.max_position_embeddings
        if len(embeds) + body["max_tokens"] > longest:
            raise RefusedError(400, f"This model's maximum context length is {longest} tokens.")
        self.shapes.append(tuple(embeds.shape))
        self.dtypes.append(embeds.dtype)
        return embeds

    @torch.no_grad()
    def tokens(self, embeds: torch.Tensor, body: dict[str, Any]) -> tuple[list[int], str]:
        """Choose the likeliest tokens; and why they end."""
        assert body["temperature"] == 0, "this stub throws no dice"
        made: list[int] = []
        rows = embeds[None].to(self.model.dtype)
        with self._busy:
            while len(made) < body["max_tokens"]:
                token = int(self.model(inputs_embeds=rows).logits[0, -1].argmax())
                if token in body["stop_token_ids"]:
                    return made, "stop"
                made.append(token)
                rows = torch.cat([rows, self.model.get_input_embeddings()(torch.tensor([[token]]))], dim=1)
                text = self.tokenizer.decode(made, skip_special_tokens=True)
                if any(stop in text for stop in body["stop"]):
                    return made, "stop"
        return made, "length"

    def text(self, made: list[int], body: dict[str, Any]) -> str:
        """Decode, and cut before a stop text."""
        text: str = self.tokenizer.decode(made, skip_special_tokens=True)
        return text[: min([text.find(stop) for stop in body["stop"] if stop in text], default=len(text))]


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve on a free port of loopback while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=30)


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            assert self.path == "/v1/models"
            self.give(200, {"object": "list", "data": [{"id": stub.name, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.asked.append(body)
            try:
                if stub.status != 200:
                    raise RefusedError(stub.status, "away")
                if stub.key and self.headers.get("Authorization") != f"Bearer {stub.key}":
                    raise RefusedError(401, "Unauthorized")
                assert self.path == "/v1/completions"
                assert self.headers["Content-Type"] == "application/json"
                embeds = stub.check(body)
                made, ending = stub.tokens(embeds, body)
            except RefusedError as refusal:
                self.give(refusal.status, {"error": {"message": refusal.message, "code": refusal.status}})
                return
            usage = {"prompt_tokens": len(embeds), "completion_tokens": len(made)}
            if body.get("stream"):
                self.stream(made, ending, usage, body)
            else:
                choices = [
                    {"index": index, "text": stub.text(made, body), "finish_reason": ending}
                    for index in range(body["n"])
                ]
                self.give(200, {"object": "text_completion", "choices": choices, "usage": usage})

        def stream(self, made: list[int], ending: str, usage: dict[str, int], body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            before = ""
            for count in range(1, len(made) + 1):
                if count - 1 == stub.break_after:
                    self.close_connection = True
                    return
                text = stub.text(made[:count], body)
                whole = count == len(made) or not text.endswith("�")
                piece, before = (text[len(before) :], text) if whole else ("", before)
                end = ending if count == len(made) else None
                for index in range(body["n"]):
                    self.event({"choices": [{"index": index, "text": piece, "finish_reason": end}], "usage": None})
            if not made:
                for index in range(body["n"]):
                    self.event({"choices": [{"index": index, "text": "", "finish_reason": ending}]})
            self.event({"choices": [], "usage": usage})
            self.chunk(b"data: [DONE]\n\n")
            self.chunk(b"")

        def event(self, value: dict[str, Any]) -> None:
            self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

        def chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def give(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
