"""Every row of the table runs on made copies of its files, resumes, is judged, reported and compared."""

import csv
import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_stub import highest, judge_stub
from openpyxl import load_workbook
from PIL import Image
from tiny import tiny_config, tiny_model, tiny_processor

from llava_mini.assistant import Assistant
from llava_mini.errors import ConfigError, DataError, InputError, JudgeError
from llava_mini.evaluation import answering
from llava_mini.evaluation.answering import Asking, draw, open_source, read_answers
from llava_mini.evaluation.benchmarks import BENCHMARKS, find_benchmark
from llava_mini.evaluation.judge import Ask, Judge, read_scores
from llava_mini.evaluation.measure import measure
from llava_mini.evaluation.results import Result, compare
from llava_mini.evaluation.samples import Answered, Sample, in_units
from llava_mini.evaluation.tiny import write_tiny
from llava_mini.inputs.media import FrameSampling, Video
from llava_mini.lines import mend, read_whole_lines

NAMES = [row.name for row in BENCHMARKS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant(tiny_model(), tiny_processor(tiny_config()), "tiny")


def asking(**changes: Any) -> Asking:
    return Asking(FrameSampling(max_frames=2), max_new_tokens=2, **changes)


def run(
    assistant: Assistant, name: str, data: Path, out: Path, how: Asking | None = None, **options: Any
) -> tuple[Result, list[dict[str, Any]]]:
    """Measure one benchmark; return its result and the lines of its answers."""
    row = find_benchmark(name)
    result = next(iter(measure(assistant, [row], {name: row.samples(data)}, out, how or asking(), **options)))
    return result, read_whole_lines(out / name / "answers-0.jsonl")


def test_the_table_holds_the_paper_s_eighteen_and_the_chinese_one() -> None:
    assert len(NAMES) == len(set(NAMES)) == 19
    assert all(row.licence and row.page and row.layout for row in BENCHMARKS)
    # LLaVA-Mini, Table 1, its first row of Vicuna-7B: the mean is over POPE, MME in shares, and so on; 11 columns.
    mini = [row.paper["Vicuna-7B"] for row in BENCHMARKS if "LLaVA-v1.5-7B" in row.paper]
    assert mini == [77.6, 60.9, 56.2, 70.4, 57.0, 84.4, 1466.0, 65.6, 58.5, 68.9, 36.6]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_runs_from_its_files_to_a_score(assistant: Assistant, data: Path, tmp_path: Path, name: str) -> None:
    row = find_benchmark(name)
    with judge_stub() as stub:
        judge = Judge(stub.url, "stub", tmp_path / "verdicts.jsonl")
        result, lines = run(assistant, name, data, tmp_path, judge=judge)
    samples = row.samples(data)
    assert result.asked == result.of == len(samples) == len(lines)
    assert result.failed == 0
    assert result.score is not None
    assert result.metric in result.scores
    assert result.blank is not None
    assert (result.shuffled is None) == (len({line["shuffled"] for line in lines if "shuffled" in line}) == 0)
    assert (row.asks is None) == (not stub.asked)
    page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
    assert row.title in page
    assert all(json.dumps(line["id"])[1:-1] in page for line in lines)
    assert list((tmp_path / name / "pictures").glob("*.jpg"))


def test_judged_rows_have_the_judge_s_scores_and_say_who_judged(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    best = {"llava_bench": 100.0, "mm_vet": 100.0, "msvd_qa": 100.0, "video_chatgpt": 5.0}
    with judge_stub() as stub:
        judge = Judge(stub.url, "stub-1", tmp_path / "verdicts.jsonl", key="secret", price=(10.0, 100.0))
        for name, most in best.items():
            result, _ = run(assistant, name, data, tmp_path, judge=judge)
            assert result.score == most
            assert result.judge is not None
            assert (result.judge["model"], result.judge["prompts"]) == ("stub-1", 1)
            assert "not the paper's judge" in result.judge["note"]
    assert set(stub.keys) == {"Bearer secret"}
    assert judge.costs.requests == len(stub.asked)
    assert judge.costs.tokens_in == 100 * len(stub.asked)
    assert judge.costs.money == pytest.approx(len(stub.asked) * (100 * 10 + 10 * 100) / 1e6)
    assert "secret" not in (tmp_path / "verdicts.jsonl").read_text()


def test_video_chatgpt_is_judged_in_five_respects_and_a_pair_together(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    with judge_stub() as stub:
        judge = Judge(stub.url, "stub", tmp_path / "verdicts.jsonl")
        result, lines = run(assistant, "video_chatgpt", data, tmp_path, asking(controls=False), judge=judge)
    assert set(result.scores) == {"mean", "correctness", "detail", "context", "time", "consistency"}
    assert len(lines) == 4  # generic, temporal, and two of a pair
    assert len(stub.asked) == 5
    both = [asked[1]["content"] for asked in stub.asked if "What rolls?" in asked[1]["content"]]
    assert any("Which thing rolls?" in text for text in both)


def test_without_a_judge_answers_are_kept_and_no_score_is_made_up(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    result, lines = run(assistant, "msvd_qa", data, tmp_path)
    assert (result.score, result.judge, result.scores) == (None, None, {})
    assert lines[0]["answer"]
    with judge_stub() as stub:  # later, with a judge, nothing is answered anew
        judge = Judge(stub.url, "stub", tmp_path / "verdicts.jsonl")
        again, more = run(assistant, "msvd_qa", data, tmp_path, judge=judge)
    assert again.score == 100
    assert more == lines


def test_verdicts_are_kept_and_a_torn_last_line_is_asked_again(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "verdicts.jsonl"
    with judge_stub() as stub:
        for expected in (3, 3):
            run(assistant, "llava_bench", data, tmp_path, judge=Judge(stub.url, "stub", cache))
            assert len(stub.asked) <= expected
        told = len(stub.asked)
        whole = cache.read_bytes()
        cache.write_bytes(whole[:-5])
        run(assistant, "llava_bench", data, tmp_path, judge=Judge(stub.url, "stub", cache))
        assert len(stub.asked) == told + 1
        assert len(read_whole_lines(cache)) == whole.count(b"\n")
        run(assistant, "llava_bench", data, tmp_path, judge=Judge(stub.url, "another", cache))
        assert len(stub.asked) > told + 1  # of another judge nothing is known


ASK = Ask("1", "Judge.", "this", {"score": (0, 5)})


def test_a_judge_that_is_busy_is_asked_again_and_one_that_refuses_is_told(tmp_path: Path) -> None:
    replies: list[str | int] = [429, 503, '{"score": 4}']
    with judge_stub(lambda _: replies.pop(0)) as stub:
        judge = Judge(stub.url, "stub", tmp_path / "v.jsonl", wait_s=0.001)
        assert judge.judge([ASK]) == {"1": {"score": 4.0}}
        assert len(stub.asked) == 3
    with judge_stub(lambda _: 401) as stub, pytest.raises(JudgeError, match=r"refused \(status 401\)"):
        Judge(stub.url, "stub", tmp_path / "w.jsonl").judge([ASK])
    with judge_stub(lambda _: 500) as stub, pytest.raises(JudgeError, match="did not answer in 8 attempts"):
        Judge(stub.url, "stub", tmp_path / "w.jsonl", wait_s=0.001).judge([ASK])
    with pytest.raises(InputError, match="it must be like http://127"):
        Judge("localhost:8000", "stub", tmp_path / "w.jsonl")


def test_a_verdict_that_cannot_be_read_is_asked_for_once_more_and_counted(tmp_path: Path) -> None:
    replies = ["Very good!", '{"score": 3}', "nine", '{"score": 9}']
    with judge_stub(lambda _: replies.pop(0)) as stub:
        judge = Judge(stub.url, "stub", tmp_path / "v.jsonl", at_once=1)
        other = replace(ASK, about="2", shown="that")
        assert judge.judge([ASK, other]) == {"1": {"score": 3.0}, "2": {"score": 0.0}}
    assert judge.costs.unread == 1
    assert len(read_whole_lines(tmp_path / "v.jsonl")) == 1


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ('{"right": "yes", "score": 5}', {"right": 1.0, "score": 5.0}),
        ('```json\n{"right": 0, "score": 2.5}\n```', {"right": 0.0, "score": 2.5}),
        ('{"right": "1", "score": "4"}', {"right": 1.0, "score": 4.0}),
        ('<think>{"right": 0, "score": 0}?</think>{"right": 1, "score": 5}', {"right": 1.0, "score": 5.0}),
        ('{"right": 0.5, "score": 5}', {}),
        ('{"right": 1}', {}),
        ('{"right": 1, "score": 6}', {}),
        ('{"right": null, "score": 1}', {}),
        ("score: 5", {}),
        ("{broken", {}),
    ],
)
def test_scores_are_read_whole_or_not_at_all(reply: str, scores: dict[str, float]) -> None:
    assert read_scores(reply, {"right": (0, 1), "score": (0, 5)}) == scores


# The files


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named_with_where_to_get_it(data: Path, tmp_path: Path, name: str) -> None:
    row = find_benchmark(name)
    with pytest.raises(DataError, match="there is no folder"):
        row.samples(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"is missing.*; get it from ") as error:
        row.samples(tmp_path)
    assert row.page in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_another_form_are_one_clear_line(data: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(data / name, tmp_path / name)
    for path in (tmp_path / name).rglob("*"):
        if path.suffix in (".json", ".jsonl", ".tsv", ".txt"):
            path.write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=find_benchmark(name).title) as error:
        find_benchmark(name).samples(tmp_path)
    assert "\n" not in str(error.value)


def test_a_name_that_leads_out_of_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    for name in ("../../etc/passwd.jpg", "/etc/passwd.jpg"):
        shutil.copytree(data / "vizwiz", tmp_path / "vizwiz", dirs_exist_ok=True)
        path = tmp_path / "vizwiz/val.json"
        rows = json.loads(path.read_text())
        rows[0]["image"] = name
        path.write_text(json.dumps(rows))
        with pytest.raises(DataError, match="no name of a file below"):
            find_benchmark("vizwiz").samples(tmp_path)


def test_two_questions_of_one_id_are_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "vizwiz", tmp_path / "vizwiz")
    path = tmp_path / "vizwiz/val.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows + rows[:1]))
    with pytest.raises(DataError, match=r"two questions have the id 'VizWiz_val_00000000.jpg'"):
        find_benchmark("vizwiz").samples(tmp_path)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean textvqa"):
        find_benchmark("text_vqa")


def samples_of(name: str, data: Path) -> list[Sample]:
    return find_benchmark(name).samples(data)


def test_questions_are_asked_in_the_released_words(data: Path) -> None:
    asked = {name: samples_of(name, data)[0].question for name in NAMES}
    short = "\nAnswer the question using a single word or phrase."
    letter = "\nAnswer with the option's letter from the given choices directly."
    assert asked["vqav2"] == f"What shape is the red object?{short}"
    assert asked["vizwiz"] == (
        f"What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.{short}"
    )
    assert asked["textvqa"] == f"What fruit is this?\nReference OCR token: FRESH, APPLE{short}"
    assert asked["scienceqa"] == (f"Context: Look at the picture.\nWhich animal is shown?\nA. a cat\nB. a dog{letter}")
    assert asked["mme"] == f"Is there a cat?{short}"
    assert asked["mmbench"] == f"What animal is shown?\nA. a dog\nB. a cat\nC. a bird{letter}"
    assert asked["mmbench_cn"].endswith("\n请直接回答选项字母。")
    assert asked["msvd_qa"] == "What rolls?"
    assert asked["mvbench"] == (
        "Question: What rolls?\nOptions:\n(A) the boat\n(B) the ball\nOnly give the best option."
    )


def test_scienceqa_leaves_out_questions_without_a_picture(data: Path) -> None:
    assert [sample.id for sample in samples_of("scienceqa", data)] == ["4"]


def mmbench_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)


def test_mmbench_is_asked_in_every_order_published_or_made(data: Path, tmp_path: Path) -> None:
    made = samples_of("mmbench", data)
    assert [sample.choices for sample in made] == [
        ("a dog", "a cat", "a bird"),
        ("a bird", "a dog", "a cat"),
        ("a cat", "a bird", "a dog"),
    ]
    assert [sample.choices["ABC".index(sample.truths[0])] for sample in made] == ["a cat"] * 3
    assert len({sample.unit for sample in made}) == 1
    with (data / "mmbench/mmbench_dev_20230712.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    turned = [row, row | {"index": "1000241", "A": "a bird", "B": "a dog", "C": "a cat", "answer": "C", "image": "241"}]
    mmbench_table(tmp_path / "mmbench/mmbench_dev_20230712.tsv", turned)
    published = samples_of("mmbench", tmp_path)
    assert [sample.id for sample in published] == ["241", "1000241"]
    assert len({sample.unit for sample in published}) == 1
    assert published[0].source == published[1].source


def test_mmbench_s_submission_has_the_published_rows_and_no_formula(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    with (data / "mmbench/mmbench_dev_20230712.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    row["question"] = "=1+1?"
    mmbench_table(tmp_path / "data/mmbench/mmbench_dev_20230712.tsv", [row])
    result, lines = run(assistant, "mmbench", tmp_path / "data", tmp_path)
    assert len(lines) == 3
    assert result.submission is not None
    sheet = load_workbook(result.submission).active
    assert sheet["B2"].data_type == "s"  # words, and no formula
    head, only = sheet.iter_rows(values_only=True)
    assert head == ("index", "question", "A", "B", "C", "D", "category", "prediction")
    assert only[:6] == (241, "=1+1?", "a dog", "a cat", "a bird", None)


def test_a_benchmark_whose_truth_a_server_keeps_writes_its_file_and_no_score(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "vqav2", tmp_path / "data/vqav2")
    folder = tmp_path / "data/vqav2"
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").rename(
        folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    )
    (folder / "val2014").rename(folder / "test2015")
    for path in (folder / "test2015").iterdir():
        path.rename(path.with_name(path.name.replace("val2014", "test2015")))
    result, _lines = run(assistant, "vqav2", tmp_path / "data", tmp_path)
    assert (result.score, result.unscored) == (None, 2)
    assert result.submission is not None
    rows = json.loads(Path(result.submission).read_text(encoding="utf-8"))
    assert sorted(row["question_id"] for row in rows) == [42001, 73001]
    assert set(rows[0]) == {"question_id", "answer"}


def test_egoschema_scores_the_published_subset_and_submits_all(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    result, _ = run(assistant, "egoschema", data, tmp_path)
    assert (result.asked, result.unscored) == (2, 1)
    assert result.submission is not None
    lines = Path(result.submission).read_text().splitlines()
    assert lines[0] == "q_uid,answer"
    assert [line.split(",")[0] for line in lines[1:]] == ["0000-0", "0000-1"]


def test_seed_bench_takes_the_names_of_frames_from_llava_s_file(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "seed_bench", tmp_path / "seed_bench")
    line = {"question_id": "v120001", "image": "SEED-Bench-video-image/Action_v120001.png", "text": "?"}
    (tmp_path / "seed_bench/llava-seed-bench.jsonl").write_text(json.dumps(line) + "\n")
    assert [Path(str(one.source)).name for one in samples_of("seed_bench", tmp_path)] == [
        "1454426_2591111986",
        "Action_v120001.png",
    ]


def test_mvbench_finds_videos_that_were_added_later(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "mvbench", tmp_path / "mvbench")
    videos = tmp_path / "mvbench/video"
    (videos / "data0613").mkdir()
    (videos / "clevrer").rename(videos / "data0613/clevrer")
    assert all(Path(str(one.source)).exists() for one in samples_of("mvbench", tmp_path))


def test_a_right_option_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    with (data / "mmbench/mmbench_dev_20230712.tsv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    mmbench_table(tmp_path / "mmbench/mmbench_dev_20230712.tsv", [row | {"B": "", "answer": "C"}])
    with pytest.raises(DataError, match="MMBench: after 0 questions a record is not as published"):
        samples_of("mmbench", tmp_path)


def test_half_a_character_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "gqa", tmp_path / "gqa")
    path = tmp_path / "gqa/testdev_balanced_questions.json"
    path.write_text(path.read_text().replace("What shape", "\\ud83d shape"))
    with pytest.raises(DataError, match=r"GQA: after 0 questions a record is not as published \(UnicodeEncodeError"):
        samples_of("gqa", tmp_path)


def test_a_stretch_of_a_video_and_a_folder_of_frames_are_looked_at_where_they_are_asked_for(data: Path) -> None:
    by_kind = {sample.kind: sample for sample in samples_of("mvbench", data)}
    stretch = open_source(by_kind["action_sequence"], FrameSampling())
    assert isinstance(stretch, Video)
    assert len(stretch) == 2
    assert max(stretch.times_s) < 2
    assert by_kind["action_antonym"].clip_s is None


def test_frames_of_a_folder_are_three_a_second(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(tmp_path / f"{number + 1:05d}.png")
    sample = Sample("1", "?", tmp_path, clip_s=(1.0, 3.0))
    video = open_source(sample, FrameSampling())
    assert isinstance(video, Video)
    # Two seconds, one frame each, from their middles: 1.5 s and 2.5 s are the frames 4 and 7.
    assert [frame.getpixel((0, 0))[0] for frame in video.frames()] == [80, 140]  # type: ignore[index]


# Answers


def test_answers_are_those_of_single_questions(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    from llava_mini.reply import Sampling

    _, lines = run(assistant, "pope", data, tmp_path, asking(batch_size=4))
    for sample in samples_of("pope", data):
        line = next(line for line in lines if line["id"] == sample.id)
        assert isinstance(sample.source, Path)
        alone = assistant.ask(sample.question, sample.source, sampling=Sampling(max_new_tokens=2))
        assert line["answer"] == alone.text


def test_shuffled_shows_another_question_s_picture_and_each_is_encoded_once(
    assistant: Assistant, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_mini.reply import Sampling

    encoded = []
    encode = assistant.encode_in_chunks
    assistant.kept.clear()
    monkeypatch.setattr(
        assistant, "encode_in_chunks", lambda media, *rest: (encoded.append(media[0].name), encode(media, *rest))[1]
    )
    _, lines = run(assistant, "gqa", data, tmp_path)
    samples = samples_of("gqa", data)
    for sample, other in zip(samples, samples[::-1], strict=True):
        line = next(line for line in lines if line["id"] == sample.id)
        assert isinstance(other.source, Path)
        alone = assistant.ask(sample.question, other.source, sampling=Sampling(max_new_tokens=2))
        assert line["shuffled"] == alone.text
    assert len(encoded) == 3  # two pictures and the grey one


def test_a_run_that_was_killed_goes_on_and_asks_nothing_twice(
    assistant: Assistant, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lines = run(assistant, "pope", data, tmp_path / "whole")
    path = tmp_path / "killed/pope/answers-0.jsonl"
    path.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "whole/pope/about.json", path.parent)
    kept = "".join(json.dumps(line) + "\n" for line in lines[:2])
    path.write_text(kept + json.dumps(lines[2])[:20])  # killed in the middle of a line
    asked: list[str] = []
    answer = answering.answer
    monkeypatch.setattr(answering, "answer", lambda a, q, *rest: (asked.extend(q), answer(a, q, *rest))[1])
    again, more = run(assistant, "pope", data, tmp_path / "killed")
    # All are about one picture: it has no shuffled one, and of questions in the same words one is asked.
    assert len(asked) == 2 * len({line["question"] for line in lines[2:]})
    assert sorted(more, key=str) == sorted(lines, key=str)
    assert again == replace(whole, submission=again.submission)


def test_processes_share_the_questions_and_the_first_reads_all(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    samples = samples_of("mvbench", data)
    done = read_answers(tmp_path, samples).answers
    for process in range(3):
        answering.answer_all(assistant, samples, tmp_path, asking(), title="x", done=done, process=process, processes=3)
    counts = [len(read_whole_lines(tmp_path / f"answers-{process}.jsonl")) for process in range(3)]
    assert sum(counts) == len(samples)
    assert min(counts) >= 6
    assert len(read_answers(tmp_path, samples).answers) == len(samples)


def test_a_broken_picture_costs_its_own_questions_and_is_asked_again_when_mended(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "gqa", tmp_path / "data/gqa")
    path = tmp_path / "data/gqa/images/n161313.jpg"
    good = path.read_bytes()
    path.write_bytes(b"no picture")
    result, _ = run(assistant, "gqa", tmp_path / "data", tmp_path)
    assert result.failed == 1  # the other question keeps its answer, though its shuffled picture is broken
    assert result.asked == 2
    path.write_bytes(good)
    result, _lines = run(assistant, "gqa", tmp_path / "data", tmp_path)
    assert result.failed == 0
    assert len(read_answers(tmp_path / "gqa", samples_of("gqa", data)).answers) == 2


def test_a_picture_that_cannot_be_opened_is_never_right(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "pope", tmp_path / "data/pope")
    (tmp_path / "data/pope/val2014/COCO_val2014_000000310196.jpg").write_bytes(b"no picture")
    result, _ = run(assistant, "pope", tmp_path / "data", tmp_path)
    assert (result.failed, result.score, result.shuffled, result.blank) == (6, None, None, None)


def test_of_lines_about_one_question_the_fuller_counts_whatever_its_file(data: Path, tmp_path: Path) -> None:
    samples = samples_of("gqa", data)

    def line(sample: Sample, **said: str | None) -> str:
        return json.dumps({"id": sample.id, "question": sample.question, **said}) + "\n"

    whole = {"answer": "new", "shuffled": "x", "blank": "y"}
    (tmp_path / "answers-0.jsonl").write_text(line(samples[0], **whole) + line(samples[1], **whole))
    (tmp_path / "answers-1.jsonl").write_text(
        line(samples[0], answer="old") + line(samples[1], answer="", error="broken")
    )
    written = read_answers(tmp_path, samples)
    assert {row["answer"] for row in written.answers.values()} == {"new"}
    assert written.failures == {}


def test_pictures_that_are_missing_are_told_before_anything_is_asked(data: Path, tmp_path: Path) -> None:
    row = find_benchmark("gqa")
    samples = row.samples(data)
    assert row.check_media(samples) == ""
    gone = [replace(one, source=tmp_path / f"{one.id}.jpg") for one in samples]
    assert "GQA: 1 of 2 pictures are missing, the first" in row.check_media([samples[0], gone[1]])
    with pytest.raises(DataError, match=r"GQA: 2 of 2 pictures are missing, the first .*; get them from GQA, Stanford"):
        row.check_media(gone)


def test_answers_of_nobody_known_are_refused(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    run(assistant, "gqa", data, tmp_path)
    (tmp_path / "gqa/about.json").write_text("[")
    with pytest.raises(ConfigError, match="whose answers lie beside it is unknown"):
        run(assistant, "gqa", data, tmp_path)
    (tmp_path / "gqa/about.json").unlink()
    with pytest.raises(ConfigError, match="holds answers without about.json"):
        run(assistant, "gqa", data, tmp_path)


def test_answers_of_another_model_are_never_mixed(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    run(assistant, "gqa", data, tmp_path)
    retrained = Assistant(tiny_model(), assistant.processor, "tiny")
    with torch.no_grad():
        retrained.model.lm_head.weight.mul_(1.001)
    with pytest.raises(ConfigError, match=r"holds answers with weights .*give another --out"):
        run(retrained, "gqa", data, tmp_path)
    with pytest.raises(ConfigError, match=r"holds answers with max_new_tokens 2, now it is 3"):
        run(assistant, "gqa", data, tmp_path, Asking(FrameSampling(max_frames=2), max_new_tokens=3))


def test_a_question_in_other_words_is_asked_again(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    run(assistant, "gqa", data, tmp_path)
    path = tmp_path / "gqa/answers-0.jsonl"
    path.write_text(path.read_text().replace("What shape", "Which shape"))
    samples = samples_of("gqa", data)
    assert len(read_answers(tmp_path / "gqa", samples).answers) == 1
    run(assistant, "gqa", data, tmp_path)
    assert len(read_answers(tmp_path / "gqa", samples).answers) == 2


def test_a_limit_draws_whole_units_of_all_kinds(data: Path) -> None:
    samples = samples_of("mme", data)
    drawn = draw(samples, 8)
    assert len(drawn) == 8
    assert all(len(unit) == 2 for unit in in_units([Answered(sample, "") for sample in drawn]))
    assert len({sample.kind for sample in drawn}) == 4
    assert drawn == draw(samples, 8)
    assert draw(samples, None) == draw(samples, 10_000) == samples


def test_lines_that_are_no_answers_are_told_and_a_torn_one_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes('{"id": "1"}\n{"id": "2", "answer": "a\u2028b"}\n{"id": "3'.encode())
    assert [row["id"] for row in read_whole_lines(path)] == ["1", "2"]
    mend(path)
    assert path.read_bytes().endswith(b"}\n")
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"answers-0.jsonl, line 1: it is no JSON object"):
        read_whole_lines(path)


def test_hostile_answers_stay_words_in_the_report(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    samples = samples_of("gqa", data)
    run(assistant, "gqa", data, tmp_path)
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    lines = [
        {"id": one.id, "question": one.question, "answer": hostile, "shuffled": hostile, "blank": hostile}
        for one in samples
    ]
    (tmp_path / "gqa/answers-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(assistant, "gqa", data, tmp_path)
    page = (tmp_path / "gqa/report.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page
    assert "innerHTML" not in page


# Two models


def test_two_runs_are_compared_question_by_question(assistant: Assistant, data: Path, tmp_path: Path) -> None:
    row = find_benchmark("mmbench")
    samples = row.samples(data)
    for name, letters in (("first", "AAA"), ("second", "".join(sample.truths[0] for sample in samples))):
        run(assistant, "mmbench", data, tmp_path / name, asking(controls=False))
        path = tmp_path / name / "mmbench/answers-0.jsonl"
        lines = [
            {"id": sample.id, "question": sample.question, "answer": letter}
            for sample, letter in zip(samples, letters, strict=True)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run(assistant, "mmbench", data, tmp_path / name, asking(controls=False))
    found = compare(row, samples, tmp_path / "first/mmbench", tmp_path / "second/mmbench")
    assert (found["first"], found["second"], found["lead"]) == (0, 100, 100)
    assert (found["second_better"], found["first_better"]) == (2, 0)
    with pytest.raises(DataError, match="holds no scored answers"):
        compare(row, samples, tmp_path / "first/mmbench", tmp_path)


def test_scores_of_two_judges_are_not_compared_and_a_run_without_one_keeps_them(
    assistant: Assistant, data: Path, tmp_path: Path
) -> None:
    row = find_benchmark("msvd_qa")
    with judge_stub() as stub:
        for name in ("one", "two"):
            judge = Judge(stub.url, name, tmp_path / f"{name}.jsonl")
            run(assistant, "msvd_qa", data, tmp_path / name, judge=judge)
    run(assistant, "msvd_qa", data, tmp_path / "one")
    assert compare(row, row.samples(data), *[tmp_path / "one/msvd_qa"] * 2)["first"] == 100
    with pytest.raises(DataError, match="was judged by one, prompts 1 and by two, prompts 1: that cannot be compared"):
        compare(row, row.samples(data), tmp_path / "one/msvd_qa", tmp_path / "two/msvd_qa")


# lmms-eval


@pytest.fixture
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub of what the plugin needs of lmms-eval: the base class and the manifest."""

    class Base:
        def __init__(self) -> None:
            self.task_dict: dict[str, Any] = {}

    modules = {
        name: types.ModuleType(name)
        for name in (
            "lmms_eval",
            "lmms_eval.api",
            "lmms_eval.api.model",
            "lmms_eval.models",
            "lmms_eval.models.registry_v2",
        )
    }
    modules["lmms_eval.api.model"].lmms = Base  # type: ignore[attr-defined]
    modules["lmms_eval.models.registry_v2"].ModelManifest = types.SimpleNamespace  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_the_plugin_of_lmms_eval_answers_its_requests(
    lmms_eval: None, assistant: Assistant, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module
    from importlib.metadata import entry_points

    from llava_mini.reply import Sampling

    (point,) = entry_points(group="lmms_eval.models", name="llava_mini")
    manifest = point.load()()
    assert manifest.model_id == "llava_mini"
    module, _, name = manifest.simple_class_path.rpartition(".")
    monkeypatch.setattr(Assistant, "load", lambda *_, **__: assistant)
    model = getattr(import_module(module), name)(pretrained="embedded", batch_size="1", max_frames="2")
    picture = data / "gqa/images/n161313.jpg"
    document = {"image": Image.open(picture).convert("RGB"), "video": str(data / "mlvu/video/1_plotQA/one.mp4")}
    model.task_dict = {"made": {"test": [document]}}

    def request(words: str, visuals: Any, **arguments: Any) -> Any:
        return types.SimpleNamespace(args=(words, arguments, visuals, 0, "made", "test"))

    answers = model.generate_until(
        [
            request("<image>\nWhat is this?", lambda d: [d["image"]], max_new_tokens=3, temperature=0),
            request("What rolls?", lambda d: [d["video"]], max_new_tokens=3),
            request("Hello?", lambda d: [], max_new_tokens=3, until=["\n"]),
        ]
    )
    limit = Sampling(max_new_tokens=3)
    assert answers[0] == assistant.ask("What is this?", picture, sampling=limit).text
    assert (
        answers[1]
        == assistant.ask("What rolls?", document["video"], sampling=limit, frames=FrameSampling(max_frames=2)).text
    )
    with pytest.raises(InputError, match="'nonsense' is no argument"):
        getattr(import_module(module), name)(nonsense=1)
    with pytest.raises(InputError, match="a task shows a int"):
        model.generate_until([request("?", lambda d: [7])])


def test_highest_reads_the_ranges_of_the_prompt() -> None:
    assert json.loads(highest(ASK.messages).partition(": ")[2]) == {"score": 5.0}


def test_every_row_has_a_made_copy() -> None:
    from llava_mini.evaluation.tiny import _WRITERS

    assert list(_WRITERS) == NAMES
