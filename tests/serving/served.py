"""A real server of a tiny model on a free port of loopback, in a thread."""

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from corpus import encoded
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant
from llava_mini.serving.api import build_app
from llava_mini.serving.listening import listen, make_server

KEY = "a-key-of-enough-letters"


def tiny_assistant(**changes: Any) -> Assistant:
    """An assistant that always uses up its tokens."""
    model = tiny_model(**changes)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return Assistant(model, tiny_processor(model.config), "tiny")


@contextlib.contextmanager
def serving(
    assistant: Assistant, *, grace_s: float = 5, stops: "list[Callable[[], None]] | None" = None, **options: Any
) -> Iterator[str]:
    """Serve while the block runs; gives the address without a path.

    Args:
        stops: gets what asks the server to stop before the block's end.
    """
    listening = listen("127.0.0.1", 0)
    server = make_server(build_app(assistant, grace_s=grace_s, **options), grace_s=grace_s)
    started, begin = threading.Event(), server.startup

    async def startup(sockets: Any = None) -> None:
        await begin(sockets=sockets)
        started.set()

    server.startup = startup  # type: ignore[method-assign]
    if stops is not None:
        stops.append(lambda: setattr(server, "should_exit", True))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def until(address: str, words: str, timeout_s: float = 60) -> str:
    """Ask for the numbers until they tell some words; returns them."""
    deadline = time.monotonic() + timeout_s
    while words not in (text := httpx.get(f"{address}/metrics", timeout=60).text):
        assert time.monotonic() < deadline, f"{words!r} is not told after {timeout_s} s"
    return text


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """A file as a client sends it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(colour: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """A picture of one colour."""
    return encoded(Image.new("RGB", (40, 30), colour), "PNG")


def asked(text: str, *urls: str, kind: str = "image_url") -> list[dict[str, Any]]:
    """A question as a client sends it."""
    parts = [{"type": kind, kind: {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
