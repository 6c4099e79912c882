"""The controls are what they are called, and the figures are the textbook's."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cutout_library import library
from PIL import Image
from tiny import tiny_config, tiny_model, tiny_processor

from llava_mini.assistant import Assistant
from llava_mini.errors import ConfigError
from llava_mini.evaluation import moments
from llava_mini.evaluation.controls import Asked, Item, ask_with_controls, score, table
from llava_mini.inputs.media import Picture, Video
from llava_mini.inputs.processor import Media
from llava_mini.intervals import clustered_wilson, wilson
from llava_mini.reply import Sampling

_COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant(tiny_model(), tiny_processor(tiny_config()), "tiny")


def pictures() -> list[Media]:
    return [Picture(Image.new("RGB", (60, 60), colour), colour) for colour in _COLOURS]


def films() -> list[Media]:
    """Videos of two, three and one frame."""
    red, green, blue = (Image.new("RGB", (60, 60), colour) for colour in _COLOURS)
    return [Video.of([red, blue]), Video.of([green, red, green]), Video.of([blue])]


def shown(item: Media) -> Image.Image:
    assert isinstance(item, Picture)
    return item.image


def items() -> list[Item]:
    questions = ("What is this?", "What colour is the star in the picture?")
    return [Item("colour", i % 3, questions[i % 2], lambda text: "a" in text) for i in range(6)]


def test_a_batch_of_questions_gets_the_answers_that_single_questions_get(assistant: Assistant) -> None:
    asked = ask_with_controls(assistant, pictures(), items(), batch_size=4, max_new_tokens=6)
    for one in asked:
        alone = assistant.ask(
            one.item.question, shown(pictures()[one.item.picture]), sampling=Sampling(max_new_tokens=6)
        )
        assert one.answer == alone.text


def test_shuffled_shows_another_picture_and_blank_a_grey_one(assistant: Assistant) -> None:
    limit = Sampling(max_new_tokens=6)
    others = {
        colour: assistant.ask("What is this?", shown(picture), sampling=limit).text
        for colour, picture in zip(_COLOURS, pictures(), strict=True)
    }
    grey = assistant.ask("What is this?", Image.new("RGB", (256, 256), (128, 128, 128)), sampling=limit).text
    asked = ask_with_controls(
        assistant, pictures(), [Item("name", i, "What is this?", bool) for i in range(3)], max_new_tokens=6
    )
    assert sorted(one.shuffled for one in asked) == sorted(others.values())
    assert {one.blank for one in asked} == {grey}
    # The tiny model's answers differ by picture, so a shuffled answer that equals the right one would be its own.
    assert len(set(others.values())) == 3
    assert all(one.shuffled != one.answer for one in asked)


def test_the_question_alone_is_asked_without_a_picture(assistant: Assistant) -> None:
    asked = ask_with_controls(assistant, pictures(), items(), batch_size=4, max_new_tokens=6)
    words = {one.item.question: assistant.ask(one.item.question, sampling=Sampling(max_new_tokens=6)) for one in asked}
    assert all(one.question_only == words[one.item.question].text for one in asked)


def test_videos_of_several_lengths_are_asked_about_with_blank_ones_as_long(assistant: Assistant) -> None:
    asked = ask_with_controls(
        assistant, films(), [Item("order", i, "What is this?", bool) for i in range(3)], max_new_tokens=6
    )
    for one, film in zip(asked, films(), strict=True):
        for text, frames in (
            (one.answer, film),
            (one.blank, Video.of([Image.new("RGB", (256, 256), (128, 128, 128))] * _length(film))),
        ):
            chat = assistant.chat()
            chat.media = [frames]
            assert chat.ask("What is this?", sampling=Sampling(max_new_tokens=6)).text == text


def _length(film: Media) -> int:
    assert isinstance(film, Video)
    return len(film)


def test_scores_count_each_kind_and_all() -> None:
    right: Callable[[str], bool] = lambda text: text == "yes"  # noqa: E731
    asked = [Asked(Item(kind, 0, "?", right, expected, (expected,)), *a) for kind, expected, a in _ANSWERS]
    rows = {row.kind: row for row in score(asked)}
    assert (rows["name"].n, rows["name"].accuracy, rows["name"].shuffled, rows["name"].blank) == (2, 0.5, 0.5, 0.0)
    assert (rows["all"].n, rows["all"].accuracy) == (3, 2 / 3)
    assert (rows["name"].question_only, rows["where"].question_only) == (0.5, 0.0)
    assert (rows["name"].majority, rows["where"].majority) == (1.0, 0.0)
    assert "66.7" in table(list(rows.values()))


_ANSWERS = [
    ("name", "yes", ("yes", "no", "no", "yes")),
    ("name", "no", ("no", "yes", "no", "no")),
    ("where", "no", ("yes", "no", "yes", "no")),
]


def test_the_majority_knows_what_form_of_answer_is_asked_for() -> None:
    def item(kind: str, question: str, *accepted: str) -> Asked:
        return Asked(Item(kind, 0, question, lambda text: text in accepted, accepted[0], accepted), "", "", "", "")

    sides = [item("side", "Is the dog left of the cat?", "yes"), item("side", "Which side is the dog on?", "left")]
    assert score(sides)[0].majority == 1.0
    names_ = [item("name", "What is this?", "gull", "bird"), item("name", "What is this?", "owl", "bird")]
    assert score(names_)[0].majority == 1.0
    others = [item("name", "What is this?", "cat"), item("name", "What is this?", "dog")]
    rows = {row.kind: row.majority for row in score([*sides, *others])}
    assert rows == {"side": 1.0, "name": 0.5, "all": 0.75}


def test_one_picture_cannot_be_shuffled(assistant: Assistant) -> None:
    with pytest.raises(ConfigError, match="1 picture or video was given"):
        ask_with_controls(assistant, pictures()[:1], items()[:1])


def test_answers_about_one_picture_count_together() -> None:
    right = [True] * 30 + [False] * 10
    assert clustered_wilson(right, range(40)) == wilson(30, 40)
    # All four answers about a picture are right or wrong together: ten pictures are what is known.
    low, high = clustered_wilson(sorted([True, False] * 20), [place // 4 for place in range(40)])
    expected = wilson(5, 10)
    assert (low, high) == pytest.approx(expected)
    assert clustered_wilson([True] * 8, [0] * 8) == wilson(8, 8)


def test_the_interval_is_wilsons() -> None:
    # Newcombe (1998), Table I, method 3: 81 of 263.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_the_moment_that_is_attended_to_most_is_looked_for(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = library(tmp_path)
    monkeypatch.setattr(moments, "load_cutouts", lambda *_: made.trained)
    found = moments.find_moments(assistant, tmp_path, 4)
    assert found.n == 4
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    # An attention that knows the frame finds it, and one that always takes the first is as right without the thing.
    monkeypatch.setattr(moments, "_most_attended", lambda *given: odd_one_out(given[1]))
    assert moments.find_moments(assistant, tmp_path, 12).accuracy == 1.0
    monkeypatch.setattr(moments, "_most_attended", lambda *_: 0)
    always_first = moments.find_moments(assistant, tmp_path, 12)
    assert always_first.accuracy == always_first.blank
    with pytest.raises(ConfigError, match="0 videos were asked for"):
        moments.find_moments(assistant, tmp_path, 0)


def odd_one_out(frames: list[Image.Image]) -> int:
    content = [frame.tobytes() for frame in frames]
    return min(range(len(frames)), key=lambda i: content.count(content[i]))
