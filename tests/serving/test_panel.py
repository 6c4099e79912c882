"""The panel: its numbers, its estimate, its heat maps and key moments."""

import base64
import io
import re
from typing import Any

import numpy as np
from PIL import Image
from served import data_uri, png

from llava_mini.serving.panel import draw, heat_map, key_moments, numbers_line, say, time_line

FLOPS = {"first": 0.0051, "second": 0.0009, "all_tokens": 0.0203}


def frame(time_s: float | None = None, attention: float | None = None, file: int = 0) -> dict[str, Any]:
    looked = [[0.0, 0.25], [0.25, 0.5]]
    return {"file": file, "time_s": time_s, "picture": data_uri(png()), "looked": looked, "attention": attention}


def told(*frames: dict[str, Any], tflops: Any = FLOPS) -> dict[str, Any]:
    return {"vision_tokens": len(frames), "all_tokens": 81 * len(frames), "tflops": tflops, "frames": list(frames)}


def test_the_numbers_are_one_plain_line() -> None:
    assert numbers_line(told(frame())) == (
        "1 vision token instead of 81 · 5.1 GFLOP instead of 20.3 · second question 0.9"
    )
    large = {"first": 1.5, "second": 0.25, "all_tokens": 12.0}
    assert numbers_line(told(*[frame()] * 20, tflops=large)) == (
        "20 vision tokens instead of 1,620 · 1.5 TFLOP instead of 12 · second question 0.25"
    )
    assert numbers_line(told(frame(), tflops=None)) == "1 vision token instead of 81"


def test_what_is_measured_and_what_is_estimated_are_told_apart() -> None:
    first = time_line(told(frame()), 0.5)
    assert first.startswith("First word after 0.5 s (measured).")
    assert "4 times the FLOPs: about 2 s" in first
    assert first.endswith("(an estimate).")
    assert time_line(told(frame()), 0.5, followed=True) == "First word after 0.5 s (measured)."
    assert time_line(told(frame(), tflops=None), 0.5) == "First word after 0.5 s (measured)."


def test_a_heat_map_is_light_where_most_was_looked_and_dark_where_nothing_was() -> None:
    grey = Image.new("RGB", (90, 90), (128, 128, 128))
    grid = np.zeros((9, 9))
    grid[6, 2] = 1.0  # row 6, column 2
    drawn = np.asarray(heat_map(grey, grid.tolist()).convert("L"))
    assert drawn.shape == (90, 90)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (row // 10, column // 10) == (6, 2)
    assert drawn[6 * 10 + 5, 2 * 10 + 5] > 2 * drawn[10, 80]
    flat = np.asarray(heat_map(grey, np.full((3, 3), 1 / 9).tolist()))
    assert (flat == flat[0, 0]).all()


def test_key_moments_are_few_and_in_the_order_of_time() -> None:
    frames = [frame(float(second), share) for second, share in enumerate((0.1, 0.3, 0.2, 0.0, 0.1, 0.0, 0.25, 0.05))]
    assert key_moments(frames) == [1, 2, 6]
    assert key_moments(frames[:4]) == [1, 2]
    assert key_moments([frame(0.0, 0.1)]) == key_moments([frame(0.0), frame(1.0)]) == []


def test_the_panel_of_a_video_names_and_frames_its_key_moments() -> None:
    drawn = draw(told(frame(0.0, 0.02), frame(62.0, 0.06), frame(63.5, 0.0)))
    assert "Key moments: 1:02 (75%)" in drawn
    assert re.findall(r"<figcaption>(.*?)</figcaption>", drawn) == ["0:00 · 25%", "1:02 · 75%", "1:03 · 0%"]
    assert drawn.count('class="key"') == 1


def test_the_panel_holds_all_it_shows() -> None:
    drawn = draw(told(frame(), frame(file=1)), 0.5)
    sources = re.findall(r'src="([^"]*)"', drawn)
    assert len(sources) == 2
    for source in sources:
        assert Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,")))).size[0] > 200
    assert "http" not in drawn


def test_a_model_that_does_not_compress_is_shown_without_heat() -> None:
    assert "<img" in draw(told(frame() | {"looked": None}, tflops=None))


def test_words_are_never_markup() -> None:
    assert "<b>" not in say("<b>no</b>")
