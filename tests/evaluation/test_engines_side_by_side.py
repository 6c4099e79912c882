"""Engines are asked the same questions, and compared with the first of them."""

from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant
from llava_mini.engines import attach
from llava_mini.errors import ConfigError
from llava_mini.evaluation.controls import Item
from llava_mini.evaluation.engines import compare_engines, pictures_of
from llava_mini.evaluation.suites import BENCHMARK, SUITES, Suite
from llava_mini.inputs.media import Picture, Video


def test_an_engine_is_compared_with_the_first_one() -> None:
    def load(engine: str) -> Assistant:
        model = tiny_model()
        model.generation_config.eos_token_id = None
        attach(model, engine)
        return Assistant(model, tiny_processor(), engine=engine)

    red, blue = [Picture(Image.new("RGB", (50, 40), colour), colour) for colour in ("red", "blue")]
    asked = [
        (red, Item("kind", 0, "What is this?", lambda text: True)),
        (blue, Item("kind", 1, "What colour?", lambda text: False)),
    ]
    told: list[None] = []
    plain, again, small = compare_engines(load, ["torch", "torch", "int8"], asked, lambda: told.append(None))
    assert len(told) == 6
    assert plain == type(plain)(
        **{**vars(again), "first_token_s": plain.first_token_s, "tokens_per_s": plain.tokens_per_s}
    )
    assert (plain.n, plain.same, plain.right) == (2, 1.0, 0.5)
    assert small.engine == "int8"
    assert 0 < small.weights_mb < plain.weights_mb


def test_the_benchmarks_pictures_are_asked_about_and_its_videos_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def suite(sources: Path, limit: int | None = None, first: int = 0) -> Suite:
        picture = Picture(Image.new("RGB", (8, 8)), f"from {first}")
        return Suite([picture], [Item("kind", 0, f"{limit}", bool), Item("kind", 0, "again", bool)])

    def films(sources: Path, limit: int | None = None, first: int = 0) -> Suite:
        return Suite([Video.of([Image.new("RGB", (8, 8))], "film")], [Item("kind", 0, "What moves?", bool)])

    for name in SUITES:
        monkeypatch.setitem(SUITES, name, films if name == "videos" else suite)
    asked = pictures_of("embedded", Path(), 7)
    firsts = [f"from {first}" for name, _, first, _ in BENCHMARK if name != "videos" for _ in range(2)]
    assert [shown.name for shown, _ in asked] == firsts
    assert {item.question for _, item in asked} == {"7", "again"}
    assert [shown.name for shown, _ in pictures_of("scenes", Path(), 7)] == ["from 0", "from 0"]
    with pytest.raises(ConfigError, match="videos has no pictures; ask about embedded, scenes"):
        pictures_of("videos", Path(), 7)
    with pytest.raises(ConfigError, match="no suite of questions is called 'film'"):
        pictures_of("film", Path(), 7)
