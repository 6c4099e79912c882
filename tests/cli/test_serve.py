"""`llava-mini serve` as a process: it says where it answers, stops when asked, and starts only when it is safe."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = tiny_model()
    model.save_pretrained(path)
    tiny_processor(model.config).save_pretrained(path)
    return path


def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llava_mini", "serve", "--port", "0", *words]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )


def test_it_answers_until_it_is_stopped(folder: Path) -> None:
    with start("--model", str(folder)) as server:
        assert server.stderr is not None
        address = next(line for line in server.stderr if "answers at" in line).split()[-1]
        assert address.startswith("http://127.0.0.1:")
        body = {"messages": [{"role": "user", "content": "what"}], "max_tokens": 3}
        assert httpx.post(f"{address}/chat/completions", json=body).json()["choices"][0]["message"]["role"]
        server.send_signal(signal.SIGTERM)
        rest = server.communicate(timeout=30)[1]
    assert server.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in rest
    assert "stopping: answers may end within 30 s" in rest


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["--host", "0.0.0.0"], {}, "give a key"),
        (["--host", "0.0.0.0"], {"LLAVA_MINI_KEY": "short"}, "the key must be"),
        (["--key-file", "/nowhere/key"], {}, "the key cannot be read"),
        (["--host", "203.0.113.7"], {"LLAVA_MINI_KEY": "a-key-of-enough-letters"}, "cannot listen"),
    ],
)
def test_it_does_not_start_where_it_would_not_be_safe(words: list[str], environment: dict[str, str], told: str) -> None:
    with start(*words, **environment) as server:
        out, said = server.communicate(timeout=60)
    assert server.returncode == 1
    assert out == ""
    assert told in said
    assert len(said.strip().splitlines()) == 1
