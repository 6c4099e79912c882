"""The paper's eleven picture benchmarks: how their published files are read, and what is asked.

The words of the prompts are those that LLaVA-1.5 was trained to and that the paper's models are asked with.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from llava_mini.errors import DataError
from llava_mini.evaluation.metrics import COGNITION, LETTERS, PERCEPTION
from llava_mini.evaluation.published import Published
from llava_mini.evaluation.samples import Sample

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTER_CN = "\n请直接回答选项字母。"
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_TURN = 1_000_000  # MMBench publishes turn t of question i with the index i + t million


def vqav2(files: Published) -> Iterator[Sample]:
    """VQAv2: test-dev, whose answers the server keeps, or val2014 with its annotations."""
    test = "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    name = files.first(test, "v2_OpenEnded_mscoco_val2014_questions.json")
    split = "test2015" if name == test else "val2014"
    people: dict[Any, tuple[str, ...]] = {}
    kinds: dict[Any, str] = {}
    if split == "val2014":
        for row in files.json("v2_mscoco_val2014_annotations.json")["annotations"]:
            people[row["question_id"]] = tuple(one["answer"] for one in row["answers"])
            kinds[row["question_id"]] = row["answer_type"]
    for row in files.json(name)["questions"]:
        picture = files.media(split, f"COCO_{split}_{int(row['image_id']):012d}.jpg")
        number = row["question_id"]
        yield Sample(str(number), row["question"] + SHORT, picture, people.get(number, ()), kinds.get(number, ""))


def gqa(files: Published) -> Iterator[Sample]:
    """GQA: the balanced questions of testdev."""
    for number, row in files.json("testdev_balanced_questions.json").items():
        picture = files.media("images", f"{row['imageId']}.jpg")
        kind = row.get("types", {}).get("structural", "")
        yield Sample(str(number), row["question"] + SHORT, picture, (row["answer"],), kind)


def vizwiz(files: Published) -> Iterator[Sample]:
    """VizWiz: test, whose answers the server keeps, or val."""
    name = files.first("test.json", "val.json")
    split = name.removesuffix(".json")
    for row in files.json(name):
        people = tuple(one["answer"] for one in row.get("answers", ()))
        question = row["question"] + UNANSWERABLE + SHORT
        picture = files.media(split, row["image"])
        yield Sample(row["image"], question, picture, people, row.get("answer_type", ""))


def scienceqa(files: Published) -> Iterator[Sample]:
    """ScienceQA: the questions of the test split that have a picture."""
    problems = files.json("problems.json")
    for number in files.json("pid_splits.json")["test"]:
        row = problems[number]
        if not row.get("image"):
            continue
        context = f"Context: {row['hint']}\n" if row.get("hint") else ""
        question = f"{context}{row['question']}\n{_listed(row['choices'])}{LETTER}"
        picture = files.media("images", "test", str(number), row["image"])
        truth = LETTERS[row["answer"]]
        yield Sample(str(number), question, picture, (truth,), row.get("subject", ""), choices=tuple(row["choices"]))


def textvqa(files: Published) -> Iterator[Sample]:
    """TextVQA: val, each question with the words that Rosetta read, where its file is there."""
    read_words = "TextVQA_Rosetta_OCR_v0.2_val.json"
    words: dict[str, list[str]] = {}
    if files.has(read_words):
        words = {row["image_id"]: row["ocr_tokens"] for row in files.json(read_words)["data"]}
    for row in files.json("TextVQA_0.5.1_val.json")["data"]:
        question = row["question"][:1].upper() + row["question"][1:]
        if words.get(row["image_id"]):
            question += f"\nReference OCR token: {', '.join(words[row['image_id']])}"
        picture = files.media("train_images", f"{row['image_id']}.jpg")
        yield Sample(str(row["question_id"]), question + SHORT, picture, tuple(row["answers"]))


def pope(files: Published) -> Iterator[Sample]:
    """POPE: its three splits on COCO, each half yes and half no."""
    for split in ("adversarial", "popular", "random"):
        name = files.first(f"coco/coco_pope_{split}.json", f"coco_pope_{split}.json")
        for row in files.json_lines(name):
            picture = files.media("val2014", row["image"])
            number = f"{split}-{row['question_id']}"
            yield Sample(number, row["text"] + SHORT, picture, (row["label"],), split)


def mme(files: Published) -> Iterator[Sample]:
    """MME: 14 tasks, two questions a picture; the texts lie beside the pictures or in a folder of their own."""
    for task in (*PERCEPTION, *COGNITION):
        folder = files.root / files.first(task, f"MME_Benchmark_release_version/{task}")
        apart = (folder / "questions_answers_YN").is_dir()
        texts, pictures = (folder / "questions_answers_YN", folder / "images") if apart else (folder, folder)
        endings = {path.stem: path.name for path in sorted(pictures.iterdir()) if path.suffix in (".jpg", ".png")}
        for text in sorted(texts.glob("*.txt")):
            picture = pictures / endings.get(text.stem, f"{text.stem}.jpg")
            lines = files.text(str(text.relative_to(files.root))).splitlines()
            for number, line in enumerate(line for line in lines if line.strip()):
                question, _, truth = line.rpartition("\t")
                if truth.strip().lower() not in ("yes", "no"):
                    raise DataError(f"{files.title}: {text}, line {number + 1}: it must end with a tab and Yes or No")
                question = question.replace("Please answer yes or no.", "").rstrip() + SHORT
                unit = f"{task}/{text.stem}"
                yield Sample(f"{unit}#{number}", question, picture, (truth.strip().lower(),), task, unit)


def mmbench(files: Published) -> Iterator[Sample]:
    """MMBench: dev, in every order of the options."""
    return _mmbench(files, ("mmbench_dev_20230712.tsv", "MMBench_DEV_EN.tsv"), LETTER)


def mmbench_cn(files: Published) -> Iterator[Sample]:
    """MMBench-CN: dev, in every order of the options."""
    return _mmbench(files, ("mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv"), LETTER_CN)


def _mmbench(files: Published, names: Sequence[str], ask: str) -> Iterator[Sample]:
    """Read a table; where it has but one order of a question's options, the others are made."""
    rows = list(files.table(files.first(*names)))
    written = {row["index"]: row["image"] for row in rows}
    pictures: dict[str, bytes] = {}
    turned = {int(row["index"]) % _TURN for row in rows if int(row["index"]) >= _TURN}
    for row in rows:
        base = int(row["index"]) % _TURN
        options = list(takewhile(_is_there, (row.get(letter, "") for letter in "ABCD")))
        # A picture that was shown before stands as the index of that row.
        image = written[row["image"]] if row["image"] in written else row["image"]
        if image not in pictures:
            pictures[image] = _decoded(image, files, row["index"])
        turns = range(1) if base in turned else range(len(options))
        for turn in turns:
            order = options[-turn:] + options[:-turn] if turn else options
            truth = row.get("answer", "")
            if truth:
                place = LETTERS[: len(options)].index(truth)
                truth = LETTERS[(place + turn) % len(options)]
            hint = f"{row['hint']}\n" if _is_there(row.get("hint", "")) else ""
            yield Sample(
                f"{row['index']}#{turn}" if turn else row["index"],
                f"{hint}{row['question']}\n{_listed(order)}{ask}",
                pictures[image],
                (truth,) if truth else (),
                row.get("category", ""),
                str(base),
                tuple(order),
                fields={"asked": row["question"]} | ({"made": "yes"} if turn else {}),
            )


def seed_bench(files: Published) -> Iterator[Sample]:
    """SEED-Bench: pictures, and of each video the one frame that LLaVA's evaluation takes."""
    published = files.json("SEED-Bench.json")
    kinds = {number: name for name, number in published["question_type"].items()}
    told = list(files.json_lines("llava-seed-bench.jsonl")) if files.has("llava-seed-bench.jsonl") else []
    named = {str(row["question_id"]).removeprefix("v"): row["image"] for row in told}  # how LLaVA's frames are called
    for row in published["questions"]:
        options = [row[f"choice_{letter}"] for letter in "abcd"]
        if row["data_type"] == "image":
            picture = files.media("SEED-Bench-image", row["data_id"])
        else:
            number = str(row["question_id"])
            picture = files.media(named.get(number, f"SEED-Bench-video-image/{number}.png"))
        question = f"{row['question']}\n{_listed(options)}{LETTER}"
        kind = kinds.get(row["question_type_id"], "")
        yield Sample(str(row["question_id"]), question, picture, (row["answer"],), kind, choices=tuple(options))


def llava_bench(files: Published) -> Iterator[Sample]:
    """LLaVA-Bench in the wild: 60 questions about 24 pictures, with GPT-4's answers from descriptions."""
    scenes = {row["image"]: row["caption"] for row in files.json_lines("context.jsonl")}
    references = {str(row["question_id"]): row["text"] for row in files.json_lines("answers_gpt4.jsonl")}
    for row in files.json_lines("questions.jsonl"):
        number = str(row["question_id"])
        fields = {"scene": _joined(scenes[row["image"]]), "reference": references[number], "asked": row["text"]}
        picture = files.media("images", row["image"])
        yield Sample(number, row["text"], picture, (references[number],), row["category"], fields=fields)


def mm_vet(files: Published) -> Iterator[Sample]:
    """MM-Vet: 218 open questions, each with the capabilities that it needs."""
    for number, row in files.json("mm-vet.json").items():
        picture = files.media("images", row["imagename"])
        kind = ", ".join(sorted(row["capability"]))
        yield Sample(number, row["question"], picture, (row["answer"],), kind, fields={"asked": row["question"]})


def _is_there(cell: str) -> bool:
    """Tell a filled cell from an empty one, which tables of pandas may hold as "nan"."""
    return cell.strip().lower() not in ("", "nan")


def _listed(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(map(str, value))


def _decoded(image: str, files: Published, index: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{files.title}: the picture of row {index} is not written in base64") from error
