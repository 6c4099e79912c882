"""A tiny model folder and five samples on disk, and the recipe that real runs of the tests take."""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini.data.readers import DataFile
from llava_mini.training.stages import Files, Pretrained, Recipe, Stage

ALL = {"language_model": 1e-2, "head": 1e-2, "compression": 1e-2, "pre_fusion": 1e-2, "projector": 1e-2}
COLOURS = ("red", "blue", "green", "yellow")


def make_model(folder: Path, **changes: Any) -> Path:
    if not folder.exists():
        model = tiny_model(**changes)
        model.save_pretrained(folder)
        tiny_processor(model.config).save_pretrained(folder)
    return folder


def make_data(folder: Path) -> Path:
    """Four pictures with a question each, one of them asked twice, and a text alone."""
    path = folder / "data.json"
    if path.is_file():  # several processes use it: nobody writes what another reads
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (56, 56), colour).save(folder / f"{colour}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhat colour is this?"},
            {"from": "gpt", "value": f"It is {colour}." * (number + 1)},
        ]
        rows.append({"id": colour, "image": f"{colour}.png", "conversations": turns})
    text = [{"from": "human", "value": "How many are there?"}, {"from": "gpt", "value": "There are three."}]
    rows.append({"id": "text", "conversations": text})
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def make_recipe(tmp_path: Path, *, steps: int = 4, save_every: int = 200, **changes: Any) -> Recipe:
    """Train all parts of the tiny model on the five samples; `changes` are fields of the stage or of its files."""
    data = {name: changes.pop(name) for name in list(changes) if name in Files.__dataclass_fields__}
    files: dict[str, Any] = {"batch_size": 4, "per_device": 2, "workers": 0, **data}
    if "files" not in files:
        files["files"] = (DataFile(str(make_data(tmp_path / "data"))),)
    options: dict[str, Any] = {
        "objective": "answers",
        "learning_rates": dict(ALL),
        "steps": steps,
        "warmup_ratio": 0.0,
        **changes,
    }
    stage = Stage("tune", data=Files(**files), **options)
    model = make_model(tmp_path / "tiny")
    return Recipe("test", "a test", Pretrained(str(model)), (stage,), save_every=save_every)
