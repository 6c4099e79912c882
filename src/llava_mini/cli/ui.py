"""`llava-mini ui`: a page in the browser."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from llava_mini.cli import options
from llava_mini.cli.serve import KEY_VARIABLE, cost_of, needs, say_away

if TYPE_CHECKING:
    from llava_mini.assistant import Assistant


def ui(
    api: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"Ask a server that runs already; its key is read from {KEY_VARIABLE}."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free one.")] = 7860,
    model: options.Model = None,
    hd: options.Hd = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: options.BatchEngine = "auto",
) -> None:
    """Open a page for questions about pictures and videos, for the browser of this machine alone.

    Examples:

      llava-mini ui

      LLAVA_MINI_KEY=... llava-mini ui --api http://127.0.0.1:8000
    """
    needs("gradio", "openai", "fastapi", "uvicorn", "prometheus_client", "httpx")
    from tempfile import TemporaryDirectory

    from llava_mini.errors import InputError
    from llava_mini.serving.asking import Api
    from llava_mini.serving.listening import listen

    if api is not None and (model or hd or engine != "auto"):
        raise InputError("--api asks a server that has its own model; leave --model, --hd and --engine out")
    asked = None if api is None else Api(api, os.environ.get(KEY_VARIABLE))
    with ExitStack() as until_stopped, listen("127.0.0.1", port) as kept:
        dropped = until_stopped.enter_context(TemporaryDirectory(prefix="llava-mini-"))
        os.environ |= {"GRADIO_TEMP_DIR": dropped, "GRADIO_ANALYTICS_ENABLED": "False"}
        if asked is None:
            assistant = options.load_assistant(model, device, dtype, hd=hd, engine=engine, batches=True)
            say_away(assistant)
            asked = Api(until_stopped.enter_context(_serving(assistant)))
        from llava_mini.serving.page import build_page, open_page  # Gradio reads the environment

        page = build_page(asked)
        until_stopped.callback(page.close, verbose=False)
        print(f"the page is at {open_page(page, kept)}", file=sys.stderr, flush=True)
        _wait()


@contextmanager
def _serving(assistant: "Assistant") -> Iterator[str]:
    """Serve a model on a free port of loopback, in a thread; gives the address."""
    import threading
    import time

    from llava_mini.serving.api import build_app
    from llava_mini.serving.listening import listen, make_server

    socket = listen("127.0.0.1", 0)
    server = make_server(build_app(assistant, cost=cost_of(assistant), grace_s=1.0), grace_s=1.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def _wait() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    import signal
    import threading

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
