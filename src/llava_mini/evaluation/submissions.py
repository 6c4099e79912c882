"""Files for the servers that keep the truth of a benchmark: the forms that each of them takes."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from llava_mini.evaluation.metrics import LETTERS, chosen_letter
from llava_mini.evaluation.samples import Answered
from llava_mini.evaluation.vqa import m4c_form

Submission = Callable[[Sequence[Answered], Path], Path]
"""Writes all answers of a benchmark into a folder, and returns the file."""


def vqav2(answered: Sequence[Answered], folder: Path) -> Path:
    """EvalAI's JSON: question_id and answer."""
    rows = [{"question_id": int(one.sample.id), "answer": m4c_form(one.answer)} for one in answered]
    return _json(rows, folder)


def vizwiz(answered: Sequence[Answered], folder: Path) -> Path:
    """EvalAI's JSON: image and answer."""
    return _json([{"image": one.sample.id, "answer": m4c_form(one.answer)} for one in answered], folder)


def mm_vet(answered: Sequence[Answered], folder: Path) -> Path:
    """The JSON that MM-Vet's own evaluator reads: the answer by id."""
    return _json({one.sample.id: one.answer for one in answered}, folder)


def mmbench(answered: Sequence[Answered], folder: Path) -> Path:
    """A sheet with the published columns' names, a row for each published row, and the letter that was chosen."""
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook()
    sheet = book.active
    sheet.append(["index", "question", *"ABCD", "category", "prediction"])
    for one in answered:
        if one.sample.fields.get("made"):
            continue  # the server turns the options itself
        options = [*one.sample.choices, "", "", ""][:4]
        letter = chosen_letter(one.answer, one.sample.choices) or one.answer[:200]
        cells = [one.sample.fields["asked"], *options, one.sample.kind, letter]
        sheet.append([int(one.sample.id), *(ILLEGAL_CHARACTERS_RE.sub("", cell) for cell in cells)])
        for cell in sheet[sheet.max_row][1:]:
            cell.data_type = "s"  # words, also where they begin as a formula does
    path = folder / "submission.xlsx"
    book.save(path)
    return path


def egoschema(answered: Sequence[Answered], folder: Path) -> Path:
    """A table of q_uid and the number of the option, counted from 0; -1 where no option was chosen."""
    path = folder / "submission.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["q_uid", "answer"])
        for one in answered:
            letter = chosen_letter(one.answer, one.sample.choices)
            rows.writerow([one.sample.id, LETTERS.index(letter) if letter else -1])
    return path


def _json(value: object, folder: Path) -> Path:
    path = folder / "submission.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
