"""The shipped model says the right noun about the bundled pictures (not exact words), and not without looking."""

import re
from pathlib import Path

import pytest

from llava_mini import Assistant
from llava_mini.cli.demo import QUESTIONS
from llava_mini.serving.page import EXAMPLES as SHOWN_ON_PAGE

EXAMPLES = Path(__file__).parents[2] / "src" / "llava_mini" / "examples"


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.load()


RIGHT = {
    ("shapes.png", "How many shapes are there?"): "two",
    ("shapes.png", "What shape is the red object?"): "circle",
    ("shapes.png", "What colour is the square?"): "blue",
    ("shapes.png", "Is the circle to the left of the square?"): "yes",
    ("shapes.png", "Is the square to the left of the circle?"): "no",
    ("counting.png", "How many stars are there?"): "three",
    ("counting.png", "What shape is this?"): "star",
    ("counting.png", "What color is the background?"): "yellow",
    ("counting.png", "What color are the stars?"): "green",
    ("apple.png", "Is there an apple in the picture?"): "yes",
    ("apple.png", "Is there a banana in the picture?"): "no",
    ("apple.png", "What colour is the apple?"): "red",
    ("video.mp4", "What appears first?"): "circle",
    ("video.mp4", "What color is the circle?"): "red",
}


@pytest.mark.parametrize(("asked", "right"), RIGHT.items())
def test_an_answer_holds_the_right_word(assistant: Assistant, asked: tuple[str, str], right: str) -> None:
    file, question = asked
    assert right in re.findall(r"\w+", assistant.ask(question, EXAMPLES / file).text.lower())


def test_demo_and_page_ask_nothing_whose_answer_is_not_known() -> None:
    assert {(file, question) for question, file in SHOWN_ON_PAGE} <= set(RIGHT)
    assert {(file, question) for file, questions in QUESTIONS.items() for question in questions} <= set(RIGHT)
    assert sum(file.endswith(".png") for file in QUESTIONS) >= 3
    assert sum(file.endswith(".mp4") for file in QUESTIONS) == 1


def test_two_questions_about_one_picture_get_two_right_answers(assistant: Assistant) -> None:
    picture = EXAMPLES / "counting.png"
    assert "star" in assistant.ask("What shape is this?", picture).text.lower()
    assert "yellow" in assistant.ask("What color is the background?", picture).text.lower()


def test_questions_of_different_lengths_in_one_batch_are_answered_as_alone(assistant: Assistant) -> None:
    questions = ("What is this?", "Which colour does the background of this picture have? Answer in one word.")
    picture = {"type": "image", "path": str(EXAMPLES / "counting.png")}
    chats = [[{"role": "user", "content": [picture, {"type": "text", "text": text}]}] for text in questions]
    inputs = assistant.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    made = assistant.model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    together = assistant.processor.tokenizer.batch_decode(made, skip_special_tokens=True)
    assert together == [assistant.ask(text, EXAMPLES / "counting.png").text for text in questions]


def test_the_picture_decides_and_not_the_question(assistant: Assistant) -> None:
    files = ("apple.png", "cat.png", "house.png")
    assert len({assistant.ask("What is this?", EXAMPLES / file).text for file in files}) == 3


def test_a_picture_costs_one_token_and_a_video_one_a_frame(assistant: Assistant) -> None:
    assert assistant.ask("What is this?", EXAMPLES / "cat.png").vision_tokens == 1
    chat = assistant.chat(EXAMPLES / "video.mp4")
    assert chat.ask("What shape do you see?").vision_tokens == chat.frame_count == 4


def test_text_alone_is_answered(assistant: Assistant) -> None:
    answer = assistant.ask("What is the capital of France?")
    assert "paris" in answer.text.lower()
    assert answer.vision_tokens == 0
