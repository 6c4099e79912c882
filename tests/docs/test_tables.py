"""Tables of the documents are what their tools print of the saved results; results that do not fit are refused."""

import json
from pathlib import Path

import pytest

from tools import benchmark_table, compare_forms

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8").splitlines()


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was printed, without empty lines."""
    return [line for line in capsys.readouterr().out.splitlines() if line]


def test_the_benchmark_in_the_document_is_the_saved_result_of_the_last_adapter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = (ROOT / "docs/results/embedded").glob("adapter-*.json")
    benchmark_table.main(max(results, key=lambda path: int(path.stem.rpartition("-")[2])))
    table = printed(capsys)
    assert len(table) > 20
    assert [line for line in table if line not in DOCUMENT] == []


def write_result(folder: Path, name: str, *, right: float, n: int = 10) -> None:
    row = {"n": n, "accuracy": right, "low": right - 0.1, "high": right + 0.1, "shuffled": 0.3, "blank": 0.25}
    (folder / f"{name}.json").write_text(json.dumps({"shapes": {"colour": row, "all": row}}))


def test_forms_are_told_best_first_each_seed_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare_forms, "work", lambda changes: (len(changes), 7.5, 5.25))
    write_result(tmp_path, "compare-one-token-0", right=0.4)
    write_result(tmp_path, "compare-mini-1", right=0.6)
    write_result(tmp_path, "compare-mini-0", right=0.5)
    compare_forms.main(tmp_path)
    _, _, best, worst = printed(capsys)
    assert best.startswith("| one token by queries, with pre-fusion: LLaVA-Mini | 0 | 7.5 | 5.2 |")
    assert best.endswith("| 50.0 (40–60), 60.0 (50–70) | 30.0 | 25.0 | 55 (30) |")
    assert worst.startswith("| one token by queries, without pre-fusion | 1 |")


def test_results_of_other_questions_or_forms_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"no compare-\*.json"):
        compare_forms.main(tmp_path)
    write_result(tmp_path, "compare-mini-0", right=0.5)
    write_result(tmp_path, "compare-mini-1", right=0.5, n=11)
    with pytest.raises(SystemExit, match=r"\[10, 11\] questions"):
        compare_forms.main(tmp_path)
    write_result(tmp_path, "compare-nothing-0", right=0.5)
    with pytest.raises(SystemExit, match=r"compare-nothing-0\.json is no result"):
        compare_forms.main(tmp_path)


def test_the_forms_in_the_document_are_the_saved_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare_forms, "work", lambda changes: (0, 0.0, 0.0))  # half a minute of counting
    compare_forms.main(ROOT / "docs/results/forms")
    without_work = [cells[:1] + cells[4:] for line in DOCUMENT if len(cells := line.strip("| ").split(" | ")) > 4]
    table = [cells[:1] + cells[4:] for line in printed(capsys) if len(cells := line.strip("| ").split(" | ")) > 4]
    assert len(table) == 1 + len(compare_forms.COMPARED)
    assert [row for row in table if row not in without_work] == []
