"""Tables of the documents are what their tools print of the saved results; results that do not fit are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from llava_mini.checkpoints.embedded import embedded_geometry
from llava_mini.training.embedded_recipes import COMPARED
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
    start = DOCUMENT.index(table[0])
    assert [line for line in DOCUMENT[start:] if line][: len(table)] == table


def test_what_adapters_miss_is_what_their_results_say(capsys: pytest.CaptureFixture[str]) -> None:
    folders = {7: "embedded-not-shipped", 12: "embedded-not-shipped"}
    adapters = [ROOT / f"docs/results/{folders.get(n, 'embedded')}/adapter-{n}.json" for n in range(6, 14)]
    benchmark_table.compare(adapters)
    table = printed(capsys)
    start = DOCUMENT.index(table[0])
    assert DOCUMENT[start : start + len(table)] == table


def test_adapters_that_were_asked_other_questions_are_not_compared(tmp_path: Path) -> None:
    result = json.loads((ROOT / "docs/results/embedded/adapter-6.json").read_text(encoding="utf-8"))
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, version in zip(paths, (2, 3), strict=True):
        path.write_text(json.dumps({**result, "benchmark": {**result["benchmark"], "version": version}}))
    with pytest.raises(SystemExit, match=r"two\.json was asked other questions than .*one\.json"):
        benchmark_table.compare(paths)


def write_result(folder: Path, name: str, *, right: float, n: int = 10) -> None:
    row = {"n": n, "accuracy": right, "low": right - 0.1, "high": right + 0.1, "shuffled": 0.3, "blank": 0.25}
    (folder / f"{name}.json").write_text(json.dumps({"shapes": {"colour": row, "all": row}}))


def test_forms_are_told_beside_each_other_each_seed_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare_forms, "work", lambda changes: (changes.get("fusion_layers", 4), 7.5, 5.25))
    write_result(tmp_path, "compare-one-token-0", right=0.7)
    write_result(tmp_path, "compare-mini-1", right=0.6)
    write_result(tmp_path, "compare-mini-0", right=0.5)
    compare_forms.main(tmp_path)
    _, _, mini, one_token = printed(capsys)
    assert mini.startswith("| one token by queries, with pre-fusion: LLaVA-Mini | 4 | 7.5 | 5.2 |")
    assert mini.endswith("| 50.0 (40–60) | 60.0 (50–70) | 30.0 | 25.0 | 55 (30) |")
    assert one_token.startswith("| one token by queries, without pre-fusion | 0 |")
    assert one_token.endswith("| 70.0 (60–80) | – | 30.0 | 25.0 | 70 (30) |")


def test_results_of_other_questions_or_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no compare-\*.json"):
        compare_forms.main(tmp_path)
    for name, content in (("nothing-0", {"shapes": {}}), ("mini-first", {"shapes": {}}), ("mini-2", {})):
        wrong = tmp_path / f"compare-{name}.json"
        wrong.write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=rf"{name}\.json is no result"):
            compare_forms.main(tmp_path)
        wrong.unlink()
    write_result(tmp_path, "compare-mini-0", right=0.5)
    write_result(tmp_path, "compare-mini-1", right=0.5, n=11)
    with pytest.raises(SystemExit, match=r"\[10, 11\] questions"):
        compare_forms.main(tmp_path)


def test_the_forms_in_the_document_are_the_saved_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tokens(changes: dict[str, Any]) -> tuple[int, float, float]:
        return embedded_geometry(**changes).tokens_per_frame, 0.0, 0.0  # counting the work takes minutes

    monkeypatch.setattr(compare_forms, "work", tokens)
    compare_forms.main(ROOT / "docs/results/forms")
    table = printed(capsys)
    assert len(table) == 2 + len(COMPARED)
    start = DOCUMENT.index(table[0])
    for line, told in zip(table, DOCUMENT[start:], strict=False):
        cells, in_document = line.split(" | "), told.split(" | ")
        assert (cells[:2], cells[4:]) == (in_document[:2], in_document[4:])
