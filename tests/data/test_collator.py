"""What is supervised, whose picture is whose, what does not fit; packing loses no token; what `data check` reports."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_config, tiny_processor
from typer.testing import CliRunner

from llava_mini.cli import app
from llava_mini.data.check import check
from llava_mini.data.collator import ExampleCollator, pack_rows
from llava_mini.data.examples import Example
from llava_mini.data.readers import DataFile, Examples
from llava_mini.errors import DataError
from llava_mini.inputs.chat import read_template


def example(answer: str = "It is a cat.", colour: str | None = "red", id_: str = "one") -> Example:
    text = {"type": "text", "text": "What is this?"}
    picture = [{"type": "image", "image": Image.new("RGB", (56, 56), colour)}] if colour else []
    return Example(id_, [{"role": "user", "content": [*picture, text]}, {"role": "assistant", "content": answer}])


def collator(**changes: object) -> ExampleCollator:
    return ExampleCollator(tiny_processor(tiny_config()), 1, **changes)  # type: ignore[arg-type]


def test_answers_and_their_ends_are_supervised_and_nothing_else() -> None:
    made = collator()
    batch = made.join([made.prepare(example())])
    learned = batch["labels"][batch["labels"] != -100].tolist()
    assert made.processor.tokenizer.decode(learned).strip() == "It is a cat.<|im_end|>"


def test_each_sample_keeps_its_own_picture_also_beside_words_alone() -> None:
    made = collator()
    samples = [made.prepare(example(colour=colour)) for colour in ("red", None, "blue")]
    batch = made.join(samples)
    assert batch["frames"].tolist() == [1, 0, 1]
    first, third = samples[0].pixels, samples[2].pixels
    assert first is not None
    assert third is not None
    assert torch.equal(batch["pixel_values"], torch.cat([first, third]))
    assert not torch.equal(first, third)
    is_image = batch["input_ids"] == made.processor.image_token_id
    assert is_image.sum(dim=1).tolist() == [1, 0, 1]


def test_words_alone_come_with_a_tensor_of_no_frame() -> None:
    made = collator()
    assert made.join([made.prepare(example(colour=None))])["pixel_values"].shape == (0, 1, 3, 56, 56)


def test_stage_1_shows_all_patches_and_the_caption_alone() -> None:
    processor = tiny_processor(tiny_config())
    made = ExampleCollator(processor, 16, template=read_template("plain"))
    ids = made.prepare(example("a cat")).tokens.ids
    assert ids.count(processor.image_token_id) == 16
    assert processor.tokenizer.decode(ids[-4:]).endswith("cat\n")
    assert "What" not in processor.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Example("id 3", [{"role": "user", "content": "Hello?"}]), "id 3: no token is supervised"),
        (
            Example("id 4", [{"role": "user", "content": [{"type": "image", "path": "/none.png"}]}]),
            "id 4: no such file",
        ),
        (Example("id 5", [{"role": "user", "content": 3}]), "id 5: a message must be"),
    ],
)
def test_a_bad_sample_is_named(broken: Example, words: str) -> None:
    with pytest.raises(DataError, match=words):
        collator().prepare(broken)


def test_what_is_too_long_is_cut_at_its_end_but_never_a_picture() -> None:
    long = example("It is a cat. " * 30)
    assert len(collator(max_tokens=40).prepare(long).tokens.ids) == 40
    with pytest.raises(DataError, match="one: 1 vision tokens and the text before them exceed 3 tokens"):
        collator(max_tokens=3).prepare(example())
    with pytest.raises(DataError, match="no token is supervised"):
        collator(max_tokens=8).prepare(example())


def test_packing_places_every_token_once_in_few_even_rows() -> None:
    lengths = [7, 3, 5, 9, 1, 4]
    packed = pack_rows(lengths, 9, 12)
    places = packed[packed >= 0].tolist()
    assert sorted(places) == [row * 9 + column for row, length in enumerate(lengths) for column in range(length)]
    assert packed.shape == (3, 10)  # 29 tokens do not fit into two rows of 12; three are about equally long
    for row in packed:
        samples = (row[row >= 0] // 9).unique_consecutive()
        assert len(samples) == len(samples.unique())  # a sample stands in one piece


def data_file(folder: Path) -> Path:
    Image.new("RGB", (56, 56), "red").save(folder / "a.png")
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:60])
    ask = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "It is a cat."}]
    rows = [
        {"id": "good", "image": "a.png", "conversations": ask},
        {
            "id": "text",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "is it a cat " * 20}],
        },
        {"id": "gone", "image": "none.png", "conversations": ask},
        {"id": "torn", "image": "torn.png", "conversations": ask},
        {"id": "silent", "image": "a.png", "conversations": ask[:1]},
        {"id": "twice", "image": ["a.png", "a.png"], "conversations": ask},
    ]
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_check_counts_what_is_there_and_lists_what_is_bad(tmp_path: Path) -> None:
    report = check([Examples(DataFile(str(data_file(tmp_path))))], collator(max_tokens=50))
    assert (report.examples, report.text_only, report.images, report.videos, report.answers) == (6, 1, 1, 0, 2)
    assert (report.bad, report.missing_media, report.cut) == (4, 1, 1)
    for name in ("gone", "torn", "silent", "twice"):
        assert any(f"(id {name})" in reason for reason in report.reasons)
    assert "id text" in report.longest[0]
    assert "id good" in report.least_supervised[0]
    assert 0.3 < report.supervised_share < 1
    assert report.tokens_95 == report.tokens_longest > report.tokens_median


def test_the_command_prints_json_and_ends_with_1_when_anything_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_processor(tiny_config()).save_pretrained(tmp_path / "model")
    path = data_file(tmp_path)
    ran = CliRunner().invoke(app, ["data", "check", str(path), "--model", str(tmp_path / "model"), "--json"])
    assert ran.exit_code == 1
    assert json.loads(ran.stdout.splitlines()[-1])["bad"] == 4
    path.write_text(json.dumps(json.loads(path.read_text())[:2]))
    ran = CliRunner().invoke(app, ["data", "check", str(path), "--model", str(tmp_path / "model")])
    assert ran.exit_code == 0
    assert "2 examples (1 of text alone): 1 images" in ran.stdout
