"""A Ray Data pipeline gives the answers of `llava-mini batch`."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import png, tiny_assistant

from llava_mini import Assistant, Sampling
from llava_mini.errors import ModelError
from llava_mini.serving.many import Many, answer_rows
from llava_mini.serving.ray_data import answer_dataset

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: on a busy machine they would hardly start
    import ray

    ray.init(
        num_cpus=2,  # one for the model, one for reading
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


@needs_ray
def test_a_pipeline_gives_the_answers_of_one_process(cluster: Any, tmp_path: Path) -> None:
    whole = tiny_assistant()
    whole.model.save_pretrained(tmp_path / "model")
    whole.processor.save_pretrained(tmp_path / "model")
    (tmp_path / "red.png").write_bytes(png())
    part = {"type": "image", "path": "red.png"}
    said = [{"role": "user", "content": [part, {"type": "text", "text": "where"}]}]
    rows: list[dict[str, Any]] = [
        {"id": "a", "image": "red.png", "question": "what"},
        {"id": "b", "question": "is it red", "max_new_tokens": 3},
        {"id": "c", "image": "gone.png", "question": "what"},
        {"id": "d", "messages": said},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sampling = Sampling(max_new_tokens=6)
    made = answer_dataset(
        cluster.data.read_json(str(file)),
        str(tmp_path / "model"),
        media=str(tmp_path),
        batch_size=2,
        sampling=sampling,
        device="cpu",
        num_cpus=1,
    ).take_all()
    many = Many(media=tmp_path, batch_size=2, sampling=sampling)
    alone = list(answer_rows(Assistant.load(tmp_path / "model"), rows, many))
    assert [{name: value for name, value in row.items() if value is not None} for row in made] == alone
    assert {row["id"] for row in alone if "error" in row} == {"c"}


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    with pytest.raises(ModelError, match=r"pip install llava-mini\[ray\]"):
        answer_dataset(None)  # type: ignore[arg-type]
