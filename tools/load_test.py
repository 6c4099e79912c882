"""Ask a server of the embedded model from several clients at once: throughput, waiting times, equal answers.

    python tools/load_test.py --clients 8 --requests 64

It starts the server itself, on loopback, and asks each question alone first; then the same ones from all clients. The
number of requests and the time are bounded. One JSON line goes to stdout.
"""

import argparse
import base64
import collections
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

EXAMPLES = Path(__file__).parents[1] / "src/llava_mini/examples"
QUESTIONS = (
    ("shapes.png", "What shape is the red object?"),
    ("counting.png", "How many objects are there?"),
    ("apple.png", "What colour is the apple?"),
    ("shapes.png", "Describe the picture in one sentence."),
    (None, "Name three rivers of Europe and one thing that each is known for."),
)
MOST_SECONDS = 300.0


def main() -> None:
    """Start, measure, print, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8, choices=range(1, 65), metavar="1-64")
    parser.add_argument("--requests", type=int, default=64, choices=range(1, 1025), metavar="1-1024")
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    command = [sys.executable, "-m", "llava_mini", "serve", "--port", "0", "--engine", given.engine]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            address = next(line for line in server.stderr if "http://127.0.0.1" in line).split()[-1]
            # A pipe that nobody reads fills with the server's log, and the server would wait for it.
            threading.Thread(target=collections.deque, args=(server.stderr, 0), daemon=True).start()
            print(json.dumps(measure(address, given)))
        finally:
            server.terminate()


def measure(address: str, given: Any) -> dict[str, Any]:
    """Ask everything alone, then all at once, and compare."""
    asked = [body(*QUESTIONS[number % len(QUESTIONS)], given.tokens) for number in range(given.requests)]
    deadline = time.monotonic() + MOST_SECONDS
    with httpx.Client(base_url=address, timeout=120) as client:

        def ask(question: dict[str, Any]) -> tuple[float, float, str | None]:
            return one(client, question, deadline)

        for question in asked[: len(QUESTIONS)]:
            ask(question)  # pictures are kept from here on, for both ways
        rounds = {}
        for name, clients in (("alone", 1), ("together", given.clients)):
            began = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                rounds[name] = list(pool.map(ask, asked)), time.perf_counter() - began
    (alone, alone_s), (together, together_s) = rounds["alone"], rounds["together"]
    pairs = zip(alone, together, strict=True)
    return {
        "clients": given.clients,
        "requests": given.requests,
        "engine": given.engine,
        "alone_per_s": round(len(alone) / alone_s, 3),
        "together_per_s": round(len(together) / together_s, 3),
        "times_faster": round(alone_s / together_s, 2),
        "errors": sum(text is None for _, _, text in (*alone, *together)),
        "equal_answers": sum(a[2] == b[2] is not None for a, b in pairs),
        "alone_s": spread([whole for _, whole, text in alone if text is not None]),
        "first_token_s": spread([first for first, _, text in together if text]),
        "whole_s": spread([whole for _, whole, text in together if text is not None]),
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
    }


def one(client: httpx.Client, question: dict[str, Any], deadline: float) -> tuple[float, float, str | None]:
    """Ask one question: seconds to the first token and to the last, and the answer, None for an error."""
    began = time.perf_counter()
    first, pieces = 0.0, []
    if time.monotonic() > deadline:
        return 0.0, 0.0, None
    try:
        with client.stream("POST", "/chat/completions", json=question) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line[6:])
                if "error" in told:
                    return 0.0, 0.0, None
                text = told["choices"][0]["delta"].get("content") if told["choices"] else None
                if text:
                    first = first or time.perf_counter() - began
                    pieces.append(text)
            failed = answer.status_code != 200
    except httpx.HTTPError:
        failed = True
    return first, time.perf_counter() - began, None if failed else "".join(pieces)


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentile of what was answered; nothing where nothing was."""
    if not seconds:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {f"p{percent}": round(cuts[percent - 1], 3) for percent in (50, 95, 99)}


def body(file: str | None, question: str, tokens: int) -> dict[str, Any]:
    """Return a request."""
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if file is not None:
        data = base64.b64encode((EXAMPLES / file).read_bytes()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    message = {"role": "user", "content": content}
    return {"messages": [message], "max_tokens": tokens, "temperature": 0, "stream": True}


if __name__ == "__main__":
    main()
