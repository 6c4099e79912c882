"""`llava-mini serve`: an OpenAI-compatible API."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_mini.cli import options

if TYPE_CHECKING:
    from llava_mini.assistant import Assistant

KEY_VARIABLE = "LLAVA_MINI_KEY"


def serve(
    model: options.Model = None,
    host: Annotated[str, typer.Option(help="Address to listen at; other than loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: any free one.")] = 8000,
    key_file: Annotated[
        Path | None, typer.Option(help=f"File with the key that clients send; or set {KEY_VARIABLE}.")
    ] = None,
    allow_remote: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Fetch files from this public host; may be repeated.")
    ] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Requests taken at once; further ones are told to wait.")] = 64,
    rows: Annotated[int, typer.Option(min=1, help="Answers made at once.")] = 16,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for running answers once stopped.")] = 30.0,
    hd: options.Hd = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: options.BatchEngine = "auto",
) -> None:
    """Answer over HTTP as OpenAI's API does, many requests in one batch.

    Examples:

      llava-mini serve

      LLAVA_MINI_KEY=$(openssl rand -hex 24) llava-mini serve --host 0.0.0.0
    """
    needs("fastapi", "uvicorn", "prometheus_client", "httpx")
    import dataclasses

    from llava_mini.serving.listening import check_key, listen, names_of, run

    key = read_key(key_file)
    check_key(host, key)
    socket = listen(host, port)
    from llava_mini.serving.api import build_app
    from llava_mini.serving.remote import Remote
    from llava_mini.serving.requests import ServerLimits

    assistant = options.load_assistant(model, device, dtype, hd=hd, engine=engine, batches=True)
    say_away(assistant)
    app = build_app(
        assistant,
        limits=dataclasses.replace(ServerLimits(), waiting=waiting, rows=rows),
        key=key,
        fetch=Remote(allow_remote or []).fetch,
        cost=cost_of(assistant),
        grace_s=grace,
        hosts=names_of(host, key),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    shown = f"[{host}]" if ":" in host else host
    print(f"{assistant.name} answers at http://{shown}:{socket.getsockname()[1]}/v1", file=sys.stderr, flush=True)
    run(app, socket, grace_s=grace)


def needs(*modules: str) -> None:
    """Say how to install what is missing."""
    import importlib.util

    from llava_mini.errors import InputError

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{missing[0]} is not installed; 'pip install llava-mini[serve,ui]' brings it")


def say_away(assistant: "Assistant") -> None:
    """Say which servers are not there that run the language model; they may come later."""
    for url in assistant.served.away() if assistant.served else ():
        print(f"note: nothing answers at {url} yet; is vLLM running there?", file=sys.stderr)


def read_key(file: Path | None) -> str | None:
    """Return the key of a file or of the environment."""
    import os

    from llava_mini.errors import InputError

    if file is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the key cannot be read from {file}; give a text file with the key alone") from error


def cost_of(assistant: "Assistant") -> "Callable[[int, int], dict[str, float]] | None":
    """Return what counts the TFLOPs of an answer; None for a model without pre-fusion."""
    from functools import lru_cache

    config = assistant.model.config
    if not config.fusion_layers:
        return None
    from llava_mini.profiling.flops import FlopsOf, Question

    @lru_cache(maxsize=1024)
    def cost(text_tokens: int, frames: int) -> dict[str, float]:
        counted = counter().count(Question(text_tokens, frames, prefix_tokens=0))
        return {name: counted[way]["total"] for name, way in _WAYS.items()}

    @lru_cache(maxsize=1)
    def counter() -> FlopsOf:
        return FlopsOf(config)

    return cost


_WAYS = {"first": "first", "second": "second", "all_tokens": "llava"}
