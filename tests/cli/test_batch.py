"""`llava-mini export --llm` and `batch`: lines in, lines out; what is wrong is one line before a model is loaded."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import png, tiny_assistant
from vllm_stub import Stub, serving

from llava_mini import Assistant, Sampling, cli

Run = Callable[..., tuple[int, str, str]]
_SHAPES = Path(cli.__file__).parents[1] / "examples/shapes.png"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, assistant = tmp_path_factory.mktemp("model"), tiny_assistant()
    assistant.model.save_pretrained(folder)
    assistant.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def ended(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llava-mini", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
        except SystemExit as error:
            return int(error.code or 0), *capfd.readouterr()
        return 0, *capfd.readouterr()

    return ended


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(png())
    rows = [{"id": n, "image": "red.png", "question": f"what is it {n}"} for n in range(5)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{\n", encoding="utf-8")
    return path


def test_lines_become_lines_and_the_rest_is_said_on_stderr(run: Run, model: Path, questions: Path) -> None:
    out = questions.with_name("out.jsonl")
    words = ("batch", questions, out, "--model", model, "--max-new-tokens", "5", "--batch-size", "2")
    code, said, err = run(*words)
    assert (code, said) == (0, "")
    assert err.splitlines()[-1] == "5 lines answered, 1 have an error in place of an answer"
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4, 6]
    alone = Assistant.load(model).ask("what is it 3", questions.with_name("red.png"), sampling=Sampling(5))
    assert rows[3] == {
        "id": 3,
        "answer": alone.text,
        "vision_tokens": alone.vision_tokens,
        "prompt_tokens": alone.prompt_tokens,
    }
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])  # killed while it wrote its last line
    code, _, err = run(*words)
    assert (code, out.read_bytes()) == (0, whole)
    assert err.splitlines()[-1].endswith("; 5 were there before")
    code, said, _ = run(*words[:2], "-", *words[3:])
    assert [json.loads(line) for line in said.splitlines()] == rows


def test_an_exported_model_answers_through_a_server(run: Run, model: Path, questions: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    code, said, _ = run("export", "--llm", apart, "--model", model)
    assert code == 0
    launch = said.splitlines()[-1].split()
    assert launch[:3] == ["vllm", "serve", str(apart / "llm")]
    assert "--enable-prompt-embeds" in launch
    common = ("--max-new-tokens", "5")
    with serving(Stub(apart / "llm", launch[launch.index("--served-model-name") + 1])) as stub:
        front = ("--model", apart / "vision", "--engine", stub.url)
        through, here = (
            run("ask", tmp_path / "red.png", "what", "--json", *common, *rest) for rest in (front, ("--model", model))
        )
        assert through[0] == here[0] == 0
        assert json.loads(through[1])["answer"] == json.loads(here[1])["answer"]
        code, _, err = run("ask", tmp_path / "red.png", "what", "--moments", "1", *front)
        assert (code, "vLLM does not say where it looked" in err) == (1, True)
        code, _, err = run("ask", tmp_path / "red.png", "what", "--explain", tmp_path / "page.html", *front)
        assert (code, "leave the engine out to use --explain" in err) == (1, True)
        out, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
        assert run("batch", questions, out, *common, *front)[0] == 0
        assert run("batch", questions, other, *common, "--model", model)[0] == 0
        assert out.read_bytes() == other.read_bytes()
    code, _, err = run("batch", questions, tmp_path / "late.jsonl", *common, *front)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert (tmp_path / "late.jsonl").read_bytes() == b""  # the next run answers them


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export"], "give either --gguf FILE or --llm DIR"),
        (["export", "--gguf", "a.gguf", "--llm", "apart"], "give either --gguf FILE or --llm DIR"),
        (["export", "--gguf", "a.bin"], "it must end in .gguf"),
        (["ask", str(_SHAPES), "What?", "--explain", "p.html", "--engine", "a.gguf"], "a.gguf does not say where it"),
        (["export", "--llm", "."], "is there already; give a new folder"),
        (["export", "--llm", "no/where"], "there is no folder"),
        (["serve", "--engine", "llama.cpp"], "llama.cpp answers one conversation at a time; take --engine int8"),
        (["ui", "--engine", "a.gguf"], "llama.cpp answers one conversation at a time; take --engine int8"),
        (["batch", "-", "-", "--engine", "llama.cpp"], "llama.cpp answers one conversation at a time"),
        (["batch", "gone.jsonl", "-"], "there is no file gone.jsonl"),
        (["batch", "-", "no/where.jsonl"], "cannot be written"),
        (["batch", "-", "-", "--media", "gone"], "--media is gone, which is no folder"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, err = run(*words)
    assert (code, said) == (1, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal; a shell starts what it runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_control_c_ends_it_and_what_was_answered_is_there(model: Path, questions: Path) -> None:
    command = [sys.executable, "-m", "llava_mini", "batch", "-", "-", "--model", str(model), "--batch-size", "1"]
    lines = questions.read_text(encoding="utf-8").replace("red.png", str(questions.with_name("red.png")))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(lines)
        process.stdin.flush()
        assert "answer" in json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)  # its input stays open: it waits for more lines
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
