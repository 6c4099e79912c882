"""`llava-mini ui` as a process: page and model start and stop together, and mistakes are one line."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tiny import tiny_model, tiny_processor

from llava_mini.cli import main


def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llava_mini", "ui", *words]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )


def test_page_and_model_start_together_and_leave_nothing_behind(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    tiny_processor(model.config).save_pretrained(tmp_path / "model")
    kept = tmp_path / "kept"
    kept.mkdir()
    with start("--model", str(tmp_path / "model"), "--port", "0", TMPDIR=str(kept)) as page:
        assert page.stderr is not None
        address = next(line for line in page.stderr if "the page is at" in line).split()[-1]
        assert address.startswith("http://127.0.0.1:")
        assert "llava-mini" in httpx.get(address).text
        config = httpx.get(f"{address}config").json()
        assert not config["analytics_enabled"]
        assert any(kept.iterdir())
        page.send_signal(signal.SIGTERM)
        out, rest = page.communicate(timeout=60)
    assert page.returncode == 0
    assert out == ""
    assert "Traceback" not in rest
    assert [path for path in kept.iterdir() if path.name.startswith("llava-mini-")] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--api", "here"], "'here' is no address of a server"),
        (["--api", "http://127.0.0.1:8000", "--model", "x"], "leave --model, --hd and --engine out"),
        (["--port", "{taken}"], "cannot listen"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["llava-mini", "ui", *(word.format(taken=port) for word in words)])
        with pytest.raises(SystemExit) as ended:
            main()
    out, said = capsys.readouterr()
    assert ended.value.code == 1
    assert out == ""
    assert told in said
    assert len(said.strip().splitlines()) == 1
