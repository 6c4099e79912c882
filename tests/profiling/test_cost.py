"""Estimates are what the roofline says of counted operations; curves begin at the same question."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_config

from llava_mini import cli
from llava_mini.profiling.cost import AXES, DEVICES, Device, Point, curves, draw, estimate, turning_points
from llava_mini.profiling.flops import FlopsOf, Question


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of two points: to count operations takes seconds a question."""
    for axis, points in AXES.items():
        monkeypatch.setitem(AXES, axis, (points[0], 8 if axis == "frames" else points[-1]))


SLOW = Device("slow", tflops=1e-6, gb_s=1e-3)


def test_a_part_takes_its_operations_or_the_reading_of_its_weights() -> None:
    counter = FlopsOf(tiny_config())
    flops, weights = counter.count(Question(8, 1, 4)), counter.weight_bytes()
    made = estimate(tiny_config(), Question(8, 1, 4), SLOW)
    for way, parts in made.items():
        for part in ("vision", "pre_fusion", "llm"):
            slowest = max(flops[way][part] / 1e-6, weights[way][part] / 1e6) if flops[way][part] else 0
            assert parts[part] == pytest.approx(1e3 * slowest)
        assert parts["total"] == pytest.approx(sum(ms for part, ms in parts.items() if part != "total"))
    assert made["second"]["vision"] == 0
    assert made["second"]["total"] < made["first"]["total"] < made["llava"]["total"]


def test_weights_are_those_of_the_model() -> None:
    weights = FlopsOf(tiny_config()).weight_bytes()
    assert weights["first"]["llm"] == 2 * (3 * (4 * 32 * 32 - 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32 + 32 * 400)
    assert weights["llava"]["pre_fusion"] == 0
    recalling = FlopsOf(tiny_config(memory_words=7)).weight_bytes()
    assert recalling["first"]["compression"] - weights["first"]["compression"] == 2 * (7 * 32 + 2)
    assert recalling["llava"]["compression"] == weights["llava"]["compression"]
    hearing = FlopsOf(tiny_config(fusion_context=6)).weight_bytes()
    said = (32 + 1) * 6 + 2 * (9 * 6 + 1) * 6 + (6 + 1) * 6 + 2 * (6 + 1) * 32
    assert hearing["first"]["pre_fusion"] - weights["first"]["pre_fusion"] == 2 * said
    assert hearing["second"]["pre_fusion"] == weights["second"]["pre_fusion"]  # it was heard when the picture was read
    assert hearing["llava"] == weights["llava"]
    assert weights["released"]["vision"] > weights["first"]["vision"]  # a layer that nobody reads


def test_every_curve_goes_through_the_same_question() -> None:
    points = {(point.axis, point.at): point for point in curves(tiny_config(), SLOW)}
    assert len(points) == sum(map(len, AXES.values()))
    first = points["frames", 1]
    for axis in ("batch_size", "questions"):
        assert points[axis, 1].seconds == first.seconds
    assert sum(points["batch_size", 64].seconds.values()) <= sum(first.seconds.values())
    many = points["questions", 32]
    assert many.tflops["vision"] == pytest.approx(first.tflops["vision"] / 32)
    assert points["frames", 8].tflops["vision"] == pytest.approx(8 * first.tflops["vision"])


def test_where_another_part_leads_is_found() -> None:
    def point(at: int, **seconds: float) -> Point:
        return Point("frames", at, {}, seconds, 0.0, 0.0)

    points = [
        point(1, vision=1, llm=2),
        point(2, vision=2, llm=2.5),
        point(4, vision=4, llm=3),
        point(8, vision=8, llm=4),
    ]
    assert turning_points(points) == [("frames", 1, "llm"), ("frames", 4, "vision")]


def test_the_figure_is_drawn_and_the_command_marks_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config().save_pretrained(tmp_path / "tiny")
    points = curves(tiny_config(), DEVICES["A100"], axes=("questions",))
    draw(points, DEVICES["A100"], tmp_path / "one.png", model="tiny")
    with Image.open(tmp_path / "one.png") as figure:
        assert figure.width > 300
    assert (tmp_path / "one.svg").is_file()
    command = ["llava-mini", "profile", "cost", "--model", str(tmp_path / "tiny")]
    for more, words in (([], "a roofline estimate"), (["--json"], "estimate_ms"), (["--gpu", "H100"], "")):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert words in said.out
        if "--json" in more:
            assert set(json.loads(said.out)) == {"estimate_ms", "paper_ms", "gpu", "curves"}
        if "H100" in more:
            assert ended.value.code
            assert "no data sheet of 'H100' is known" in said.err
