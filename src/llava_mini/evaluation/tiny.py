"""Small made copies of the benchmarks' published files: a handful of rows each, in the true schema and folder layout.

They try the machinery: `llava-mini evaluate all-tiny` and the tests run every row of the table on them. The questions
are ours, the pictures those of `examples/`; nothing of the benchmarks themselves is in them.
"""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from llava_mini.evaluation.metrics import COGNITION, PERCEPTION
from llava_mini.evaluation.video_benchmarks import MLVU, MVBENCH

EXAMPLES = Path(__file__).parent.parent / "examples"
_SHAPES, _CAT, _APPLE = "shapes.png", "cat.png", "apple.png"


def write_tiny(data: Path) -> None:
    """Write all of them below a folder."""
    for name, write in _WRITERS.items():
        folder = data / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _picture(example: str, path: Path) -> None:
    """Save an example under another name, in the format that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(EXAMPLES / example) as image:
        image.convert("RGB").save(path)


def _video(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((EXAMPLES / "video.mp4").read_bytes())


def _people(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": one, "answer_confidence": "yes", "answer_id": n} for n, one in enumerate(answers, 1)]


def _vqav2(folder: Path) -> None:
    asked = [(_SHAPES, 42, 42001, "What shape is the red object?"), (_CAT, 73, 73001, "What animal is this?")]
    answers = {42001: ["circle"] * 7 + ["ball"] * 3, 73001: ["cat"] * 10}
    questions = [{"image_id": image, "question": words, "question_id": number} for _, image, number, words in asked]
    head = {"info": {}, "license": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014"}
    _json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", head | {"questions": questions})
    rows = [
        {
            "question_id": number,
            "image_id": image,
            "question_type": "what",
            "answer_type": "other",
            "multiple_choice_answer": answers[number][0],
            "answers": _people(*answers[number]),
        }
        for _, image, number, _ in asked
    ]
    _json(folder / "v2_mscoco_val2014_annotations.json", head | {"annotations": rows})
    for example, image, *_ in asked:
        _picture(example, folder / "val2014" / f"COCO_val2014_{image:012d}.jpg")


def _gqa(folder: Path) -> None:
    row = {"semantic": [], "entailed": [], "equivalent": [], "isBalanced": True, "groups": {}, "annotations": {}}
    types = {"structural": "query", "semantic": "attr", "detailed": "shape"}
    questions = {
        "201307251": ("What shape is the red object?", "circle", "n161313"),
        "201307252": ("Is there a cat in the picture?", "yes", "n578237"),
    }
    _json(
        folder / "testdev_balanced_questions.json",
        {
            number: row | {"question": words, "answer": answer, "imageId": image, "fullAnswer": answer, "types": types}
            for number, (words, answer, image) in questions.items()
        },
    )
    _picture(_SHAPES, folder / "images/n161313.jpg")
    _picture(_CAT, folder / "images/n578237.jpg")


def _vizwiz(folder: Path) -> None:
    rows = [
        ("VizWiz_val_00000000.jpg", _APPLE, "What is this?", ["apple"] * 8 + ["an apple", "fruit"], "other", 1),
        ("VizWiz_val_00000001.jpg", _SHAPES, "What is written here?", ["unanswerable"] * 10, "unanswerable", 0),
    ]
    _json(
        folder / "val.json",
        [
            {
                "image": image,
                "question": words,
                "answers": _people(*answers),
                "answer_type": kind,
                "answerable": answerable,
            }
            for image, _, words, answers, kind, answerable in rows
        ],
    )
    for image, example, *_ in rows:
        _picture(example, folder / "val" / image)


def _scienceqa(folder: Path) -> None:
    row = {
        "grade": "grade2",
        "task": "closed choice",
        "topic": "biology",
        "lecture": "",
        "solution": "",
        "split": "test",
    }
    _json(
        folder / "problems.json",
        {
            "4": row
            | {
                "question": "Which animal is shown?",
                "choices": ["a cat", "a dog"],
                "answer": 0,
                "hint": "Look at the picture.",
                "image": "image.png",
                "subject": "natural science",
            },
            "5": row
            | {
                "question": "Is seven a number?",
                "choices": ["yes", "no"],
                "answer": 0,
                "hint": "",
                "image": None,
                "subject": "language science",
            },
        },
    )
    _json(folder / "pid_splits.json", {"train": [], "val": [], "test": ["4", "5"]})
    _picture(_CAT, folder / "images/test/4/image.png")


def _textvqa(folder: Path) -> None:
    row = {"question_tokens": [], "image_classes": [], "set_name": "val", "image_width": 256, "image_height": 256}
    asked = {"question": "what fruit is this?", "image_id": "003a8ae2ef43b901", "question_id": 34602}
    _json(
        folder / "TextVQA_0.5.1_val.json",
        {"dataset_type": "val", "dataset_version": "0.5.1", "data": [row | asked | {"answers": ["apple"] * 10}]},
    )
    words = {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["FRESH", "APPLE"], "ocr_info": []}
    _json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"dataset_version": "0.2", "data": [words]})
    _picture(_APPLE, folder / "train_images/003a8ae2ef43b901.jpg")


def _pope(folder: Path) -> None:
    for split, absent in (("adversarial", "dog"), ("popular", "person"), ("random", "boat")):
        asked = [(1, "cat", "yes"), (2, absent, "no")]
        rows = [
            {
                "question_id": number,
                "image": "COCO_val2014_000000310196.jpg",
                "text": f"Is there a {name} in the image?",
                "label": label,
            }
            for number, name, label in asked
        ]
        _json_lines(folder / "coco" / f"coco_pope_{split}.json", rows)
    _picture(_CAT, folder / "val2014/COCO_val2014_000000310196.jpg")


def _mme(folder: Path) -> None:
    for task in (*PERCEPTION, *COGNITION):
        apart = task in ("artwork", "celebrity", "landmark", "posters", "scene")
        texts = folder / task / "questions_answers_YN" if apart else folder / task
        texts.mkdir(parents=True, exist_ok=True)
        lines = "Is there a cat? Please answer yes or no.\tYes\nIs there a boat? Please answer yes or no.\tNo\n"
        (texts / "0001.txt").write_text(lines, encoding="utf-8")
        _picture(_CAT, (folder / task / "images" if apart else folder / task) / "0001.jpg")


def _mmbench(name: str, words: str, options: tuple[str, str, str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        buffer = io.BytesIO()
        with Image.open(EXAMPLES / _CAT) as image:
            image.convert("RGB").save(buffer, "JPEG")
        picture = base64.b64encode(buffer.getvalue()).decode()
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            columns = "index question hint A B C D answer category image source l2-category comment split"
            rows.writerow(columns.split())
            tail = ["image_scene", picture, "made", "coarse_perception", "", "dev"]
            rows.writerow(["241", words, "", *options, "", "B", *tail])

    return write


def _seed_bench(folder: Path) -> None:
    def row(number: int, question: str, options: list[str], answer: str, kind: int, data: dict[str, Any]) -> Any:
        choices = {f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)}
        return (
            {"question_id": number, "question": question, "answer": answer, "question_type_id": kind} | choices | data
        )

    questions = [
        row(
            101669,
            "What is shown?",
            ["a cat", "a boat", "a car", "a tree"],
            "A",
            1,
            {"data_id": "1454426_2591111986", "data_type": "image"},
        ),
        row(
            120001,
            "What rolls?",
            ["a ball", "a cat", "a car", "rain"],
            "A",
            10,
            {"data_id": "1.mp4", "data_type": "video", "segment": [0, 2]},
        ),
    ]
    kinds = {"Scene Understanding": 1, "Action Recognition": 10}
    _json(folder / "SEED-Bench.json", {"questions": questions, "question_type": kinds})
    (folder / "SEED-Bench-image").mkdir(exist_ok=True)
    with Image.open(EXAMPLES / _CAT) as image:
        image.convert("RGB").save(folder / "SEED-Bench-image/1454426_2591111986", "JPEG")
    _picture(_SHAPES, folder / "SEED-Bench-video-image/120001.png")


def _llava_bench(folder: Path) -> None:
    _json_lines(
        folder / "questions.jsonl",
        [{"question_id": 0, "image": "001.jpg", "text": "What animal is this?", "category": "conv"}],
    )
    _json_lines(folder / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "A drawn cat."}])
    _json_lines(folder / "answers_gpt4.jsonl", [{"question_id": 0, "text": "It is a cat.", "answer_id": "a"}])
    _picture(_CAT, folder / "images/001.jpg")


def _mm_vet(folder: Path) -> None:
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "cat<OR>kitten", "imagesource": "made"}
    _json(folder / "mm-vet.json", {"v1_0": row | {"capability": ["rec", "know"]}})
    _picture(_CAT, folder / "images/v1_0.png")


def _zero_shot(videos: str, name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        _json(folder / "test_q.json", [{"video_name": name, "question": "what rolls", "question_id": "q_0"}])
        _json(folder / "test_a.json", [{"answer": "ball", "type": 2, "question_id": "q_0"}])
        _video(folder / videos / (f"v_{name}.mp4" if videos == "all_test" else f"{name}.mp4"))

    return write


def _video_chatgpt(folder: Path) -> None:
    row = {"Q": "What happens in the video?", "A": "A ball rolls behind a box.", "video_name": "v_one"}
    _json(folder / "generic_qa.json", [row])
    _json(folder / "temporal_qa.json", [row | {"Q": "What rolls?", "A": "A ball."}])
    pair = {"Q1": "What rolls?", "Q2": "Which thing rolls?", "A": "A ball.", "video_name": "v_one"}
    _json(folder / "consistency_qa.json", [pair])
    _video(folder / "Test_Videos/v_one.mp4")


def _mvbench(folder: Path) -> None:
    for place, (task, (videos, part)) in enumerate(MVBENCH.items()):
        row: dict[str, Any] = {
            "video": "one.mp4",
            "question": "What rolls?",
            "candidates": ["the ball", "the boat"] if place % 2 else ["the boat", "the ball"],
        }
        row["answer"] = "the ball"
        frames = task == "episodic_reasoning"
        if part:
            row |= {"start": 0.0, "end": 2.0}
        if frames:
            row["video"] = "friends_s01e01_seg02_clip_00"
            for number, example in enumerate((_SHAPES, _CAT, _APPLE), 1):
                _picture(example, folder / "video" / videos / row["video"] / f"{number:05d}.jpg")
        else:
            _video(folder / "video" / videos / "one.mp4")
        _json(folder / f"json/{task}.json", [row])


def _mlvu(folder: Path) -> None:
    for task in MLVU:
        row = {
            "video": "one.mp4",
            "duration": 4,
            "question": "What rolls?",
            "candidates": ["the ball", "the boat"],
        }
        _json(folder / f"json/{task}.json", [row | {"answer": "the ball", "question_type": task.partition("_")[2]}])
        _video(folder / "video" / task / "one.mp4")


def _egoschema(folder: Path) -> None:
    options = {f"option {place}": f"C shows shape {place}." for place in range(5)}
    rows = [{"q_uid": f"0000-{number}", "google_drive_id": "x", "question": "What does C do?"} for number in range(2)]
    _json(folder / "questions.json", [row | options for row in rows])
    _json(folder / "subset_answers.json", {"0000-0": 1})
    for row in rows:
        _video(folder / "videos" / f"{row['q_uid']}.mp4")


_WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": _vqav2,
    "gqa": _gqa,
    "vizwiz": _vizwiz,
    "scienceqa": _scienceqa,
    "textvqa": _textvqa,
    "pope": _pope,
    "mme": _mme,
    "mmbench": _mmbench("mmbench_dev_20230712.tsv", "What animal is shown?", ("a dog", "a cat", "a bird")),
    "mmbench_cn": _mmbench("mmbench_dev_cn_20231003.tsv", "图中是什么动物？", ("狗", "猫", "鸟")),
    "seed_bench": _seed_bench,
    "llava_bench": _llava_bench,
    "mm_vet": _mm_vet,
    "msvd_qa": _zero_shot("videos", "-4wsuPCjDBc_5_15"),
    "msrvtt_qa": _zero_shot("all", "video7010"),
    "activitynet_qa": _zero_shot("all_test", "1QIUV7WYKXg"),
    "video_chatgpt": _video_chatgpt,
    "mvbench": _mvbench,
    "mlvu": _mlvu,
    "egoschema": _egoschema,
}
