"""The command measures, lists and compares; what is wrong is one line before any model is loaded."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_stub import judge_stub
from tiny import tiny_model, tiny_processor

from llava_mini import cli
from llava_mini.evaluation.benchmarks import BENCHMARKS
from llava_mini.evaluation.tiny import write_tiny
from llava_mini.lines import read_whole_lines

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny = tiny_model()
    tiny.save_pretrained(folder)
    tiny_processor(tiny.config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `llava-mini evaluate` with a tiny model; return exit code, stdout and stderr."""

    def ended(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        common = ["--model", str(model), "--device", "cpu", "--max-frames", "2"]
        monkeypatch.setattr(sys, "argv", ["llava-mini", "evaluate", *common, *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capfd.readouterr()

    return ended


def test_all_tiny_runs_every_row_and_two_runs_compare(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a key")
    with judge_stub() as stub:
        judge = ("--judge", stub.url, "--judge-model", "stub")
        code, out, err = run("all-tiny", "--out", "a", "--max-new-tokens", "2", *judge, "--json")
    assert code == 0, err
    assert list(json.loads(out)) == [row.name for row in BENCHMARKS]
    assert set(stub.keys) == {"Bearer a key"}
    code, out, err = run("--compare", "a", "a", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert len(rows) == len(BENCHMARKS)
    assert {row["lead"] for row in rows} == {0}


def test_what_cannot_be_compared_is_left_out_and_told(run: Run) -> None:
    run("all-tiny", "--out", "a", "--max-new-tokens", "2", "--no-controls")
    code, out, err = run("--compare", "a", "a")
    assert code == 0, err
    assert "POPE" in out
    assert "left out: a/mm_vet holds no scored answers of MM-Vet; evaluate it with --out first" in err


def test_a_benchmark_prints_its_line_and_what_stands_beside_it(run: Run) -> None:
    code, out, err = run("all-tiny", "--out", "a", "--max-new-tokens", "2", "--no-controls", "--limit", "1")
    assert code == 0, err
    assert "MM-Vet" in out
    assert "score is a judge's: give --judge URL" in out
    assert "MME                           2  perception" in out
    assert "2 of 28 questions" in out
    assert "submission in a/mmbench/submission.xlsx" in out


def test_the_list_says_what_is_needed(run: Run) -> None:
    code, out, _ = run("--list")
    assert code == 0
    for row in BENCHMARKS:
        assert row.title in out
        assert row.licence in out
        assert row.page in out
    _, out, _ = run("--list", "--json")
    assert [row["name"] for row in json.loads(out)] == [row.name for row in BENCHMARKS]


def test_two_processes_share_the_questions_and_the_first_scores_them_all(model: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = ["evaluate", "mme", "--model", str(model), "--device", "cpu", "--data", str(tmp_path), "--json"]
    ended = subprocess.run(
        [*launch, "-m", "llava_mini", *asked, "--out", str(tmp_path / "out"), "--no-controls"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)["mme"]
    assert result["asked"] == 28
    counts = [len(read_whole_lines(tmp_path / f"out/mme/answers-{process}.jsonl")) for process in range(2)]
    assert counts == [14, 14]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing is to be measured; give a name of --list, or embedded"),
        (("popee",), "no benchmark is called 'popee'; did you mean pope?"),
        (("pope",), "POPE: there is no folder data/benchmarks/pope; get coco/coco_pope_adversarial.json, "),
        (("scenes", "pope"), "scenes is a made suite; measure it and benchmarks one after the other"),
        (("scenez",), "no benchmark is called 'scenez'; did you mean scenes?"),
        (("all-tiny", "--judge", "localhost"), "a judge was given without its model; add --judge-model NAME"),
        (("all-tiny", "--judge", "localhost", "--judge-model", "x"), "the judge's address is 'localhost'; it must be"),
        (("--compare", "a", "b"), "a and b share no scored benchmark; evaluate both with --out first"),
    ],
)
def test_a_mistake_is_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {words}")
    assert err.count("\n") == 1
