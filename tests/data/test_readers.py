"""Every format becomes the same example; a record that fits nothing is one line with its id."""

import io
import json
import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava_mini.data.examples import BadExample, Example, example_of
from llava_mini.data.readers import DataFile, Examples, ExampleStream
from llava_mini.errors import DataError


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def read(record: Any, root: Path = Path("/pictures")) -> Example:
    return example_of(record, "file, record 7", root)


def shown(example: Example) -> list[Any]:
    """Roles and contents, parts as texts or (kind, source)."""
    rows: list[Any] = []
    for message in example.messages:
        content = message["content"]
        if isinstance(content, list):
            content = [
                p["text"] if p["type"] == "text" else (p["type"], p.get("path", p.get(p["type"]))) for p in content
            ]
        rows.append((message["role"], content))
    return rows


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"conversations": turns("Hello?", "Yes.")}, [("user", "Hello?"), ("assistant", "Yes.")]),
        (
            {"image": "a.png", "conversations": turns("What is it?\n<image>", "A cat.", "Sure?", "Yes.")},
            [
                ("user", [("image", "/pictures/a.png"), "What is it?"]),
                ("assistant", "A cat."),
                ("user", "Sure?"),
                ("assistant", "Yes."),
            ],
        ),
        (
            {"image": ["a.png", "b.png"], "conversations": turns("<image> or <image>?", "Both; <image> is a word.")},
            [
                ("user", [("image", "/pictures/a.png"), " or ", ("image", "/pictures/b.png"), "?"]),
                ("assistant", "Both; <image> is a word."),
            ],
        ),
        (
            {"video": "a.mp4", "conversations": turns("<image>\nWhat happens?", "A fall.")},
            [("user", [("video", "/pictures/a.mp4"), "What happens?"]), ("assistant", "A fall.")],
        ),
        (
            {"video": "a.mp4", "conversations": turns("<video>\nWhat happens?", "A fall.")},
            [("user", [("video", "/pictures/a.mp4"), "What happens?"]), ("assistant", "A fall.")],
        ),
        (
            {"q": "What happens? ", "a": "A fall.", "video_id": "v_1"},
            [("user", [("video", "/pictures/v_1"), "What happens?"]), ("assistant", "A fall.")],
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be short."},
                    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
                ],
                "images": [{"bytes": b"png", "path": None}],
            },
            [("system", "Be short."), ("user", [("image", b"png"), "What?"]), ("assistant", "A cat.")],
        ),
        (
            {"messages": [{"role": "user", "content": "<image>What?"}], "images": ["/else/a.png"]},
            [("user", [("image", "/else/a.png"), "What?"])],
        ),
    ],
    ids=["text", "one picture", "two pictures", "video as image", "video", "video-chatgpt", "messages", "absolute"],
)
def test_a_record_of_each_format_becomes_messages_with_media_in_place(record: Any, messages: list[Any]) -> None:
    assert shown(read(record)) == messages


def test_a_video_chatgpt_file_is_found_by_its_name_without_ending(tmp_path: Path) -> None:
    (tmp_path / "v_1.mkv").write_bytes(b"")
    example = read({"q": "?", "a": "!", "video_id": "v_1"}, tmp_path)
    assert example.media[0]["path"] == str(tmp_path / "v_1.mkv")
    long = "v" * 5000  # no file can have this name
    assert read({"q": "?", "a": "!", "video_id": long}, tmp_path).media[0]["path"] == str(tmp_path / long)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("text", "must be an object"),
        ({"id": 3, "image": "a.png"}, r"record 7 \(id 3\): fields are id, image; 'conversations'"),
        (
            {"id": "x", "image": "a.png", "conversations": turns("No place.", "!")},
            r"id x\): the text has 0 × <image>, but 1",
        ),
        ({"conversations": turns("<image> <image>", "!"), "image": "a.png"}, "2 × <image>, but 1 are given"),
        ({"conversations": turns("<image>", "!")}, "1 × <image>, but 0 are given"),
        ({"conversations": turns("Hello", " ")}, "an answer is empty"),
        ({"conversations": turns("<image>", "!"), "video": ["a", "b"]}, "1 × <video>, but 2 are given"),
        ({"conversations": None}, "at least one turn"),
        ({"conversations": [{"from": "robot", "value": "!"}]}, "a turn must be"),
        ({"conversations": ["?"]}, "a turn must be"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn must be"),
        ({"conversations": [{"from": ["human"], "value": "?"}]}, "a turn must be"),
        ({"messages": "hello"}, "at least one turn"),
        ({"messages": [{"role": "user"}]}, "the content of a message"),
        ({"messages": [{"role": 3, "content": "?"}]}, "a message must be"),
        ({"messages": [{"role": "user", "content": ["?"]}]}, "a part of a message"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a part of a message"),
        (
            {"messages": [{"role": "user", "content": "<image>"}], "images": [3]},
            "a picture or video must be a file name",
        ),
    ],
)
def test_a_record_that_fits_nothing_is_one_line_with_its_id(record: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        read(record)
    assert "file, record 7" in str(error.value)
    assert "\n" not in str(error.value)


RECORDS = [
    {
        "id": f"r{n}",
        "messages": [{"role": "user", "content": "<image>\nWhich?"}, {"role": "assistant", "content": f"No. {n}."}],
    }
    for n in range(4)
]


def written(folder: Path, kind: str) -> Path:
    """Four examples with a picture each, in a file of a kind."""
    path = folder / f"data.{kind}"
    if kind in ("json", "jsonl"):
        (folder / "a.png").write_bytes(png())
        rows = [{**record, "images": ["a.png"]} for record in RECORDS]
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)) + "\n")
    elif kind == "parquet":
        import datasets

        rows = [{**record, "images": [{"bytes": png(), "path": None}]} for record in RECORDS]
        features = datasets.Features(
            {
                "id": datasets.Value("string"),
                "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
                "images": datasets.List(datasets.Image()),
            }
        )
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    else:
        with tarfile.open(path, "w") as tar:
            for record in RECORDS:
                for ending, content in (("json", json.dumps(record).encode()), ("png", png())):
                    entry = tarfile.TarInfo(f"{record['id']}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return path


def answers(examples: Sequence[Example]) -> list[str]:
    return [example.messages[-1]["content"] for example in examples]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # five seconds at the end of each stream


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "tar"])
def test_a_file_of_each_kind_is_read_at_random_places(tmp_path: Path, kind: str) -> None:
    examples = Examples(DataFile(str(written(tmp_path, kind))))
    assert len(examples) == 4
    assert answers([examples[i] for i in (2, 0, 3, 1)]) == ["No. 2.", "No. 0.", "No. 3.", "No. 1."]
    (part,) = examples[1].media
    source = part.get("path", part.get("image"))
    assert isinstance(source, bytes) == (kind in ("parquet", "tar"))
    assert Image.open(io.BytesIO(source) if isinstance(source, bytes) else source).size == (8, 8)
    assert "r2" in examples[2].id


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_readers_of_a_stream_share_its_examples(tmp_path: Path, kind: str, parts: int) -> None:
    stream = ExampleStream(DataFile(str(written(tmp_path, kind)), stream=True))
    seen: list[str] = []
    for part in range(parts):
        own = len([n for n in range(4) if n % parts == part])
        seen += answers(list(islice(stream.read(part, parts, seed=0), own)))
    assert sorted(seen) == ["No. 0.", "No. 1.", "No. 2.", "No. 3."]


@pytest.mark.parametrize("files", [1, 2, 4])
def test_workers_of_a_loader_share_the_files_of_a_stream_once(
    tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(files):
        (tmp_path / str(number)).mkdir()
        written(tmp_path / str(number), "parquet").rename(tmp_path / f"{number}.parquet")
    stream = ExampleStream(DataFile(str(tmp_path / "*.parquet"), stream=True))
    seen = 0
    for worker in range(2):
        info = torch.utils.data._utils.worker.WorkerInfo(id=worker, num_workers=2, seed=0, dataset=None)
        monkeypatch.setattr("torch.utils.data._utils.worker._worker_info", info)
        own = answers(list(islice(stream.read(worker, 2, seed=0), 2 * files)))  # half of all: an epoch of this reader
        seen += len(own)
        assert max(own.count(f"No. {n}.") for n in range(4)) <= max(1, files // 2)
    assert seen == 4 * files


def test_a_reader_for_whom_nothing_is_left_says_so(tmp_path: Path) -> None:
    stream = ExampleStream(DataFile(str(written(tmp_path, "parquet")), stream=True))
    with pytest.raises(DataError, match="has no record for reader 6 of 6; use fewer workers"):
        next(stream.read(5, 6, seed=0))


def test_a_bad_record_of_a_stream_has_one_name_in_every_epoch(tmp_path: Path) -> None:
    path = written(tmp_path, "jsonl")
    import datasets

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["images"] = []
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "bad.parquet"))
    stream = ExampleStream(DataFile(str(tmp_path / "bad.parquet"), stream=True))
    bad = [one.id for one in islice(stream.read(0, 1, seed=0), 12) if isinstance(one, BadExample)]
    assert len(bad) == 3
    assert len(set(bad)) == 1


def test_a_stream_goes_on_for_ever_in_another_order(tmp_path: Path) -> None:
    stream = ExampleStream(DataFile(str(written(tmp_path, "parquet")), stream=True))
    seen = answers(list(islice(stream.read(0, 1, seed=0), 12)))
    assert all(sorted(seen[i : i + 4]) == ["No. 0.", "No. 1.", "No. 2.", "No. 3."] for i in (0, 4, 8))
    assert seen == answers(list(islice(stream.read(0, 1, seed=0), 12)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "no such file"),
        ("a.csv", b"x", "of no known kind"),
        ("a.json", b"{", "is no JSON"),
        ("a.json", b"{}", "holds one object; it must be a list"),
        ("a.json", b"[]", "holds no records"),
        ("a.parquet", b"junk", "cannot be read"),
        ("*.tar", None, "no file matches"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        Examples(DataFile(str(tmp_path / name)))
    assert "\n" not in str(error.value)


def test_a_broken_line_of_jsonl_is_named_when_it_is_met(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"conversations": []}\n{broken\n')
    with pytest.raises(DataError, match=r"a.jsonl, record 1: it is no JSON"):
        Examples(DataFile(str(tmp_path / "a.jsonl")))[1]
