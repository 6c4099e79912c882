"""Conversations become exactly the expected text, and what a user types is never a control token."""

import threading
from typing import Any

import pytest
from tiny import tiny_tokenizer

from llava_mini.errors import InputError
from llava_mini.inputs.chat import ChatTokens, read_template, tokenize_chat

TEMPLATE = read_template("chatml")
IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)}


def said(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": words}


def tokens(*messages: dict[str, Any], **render: Any) -> ChatTokens:
    return tokenize_chat(tiny_tokenizer(), list(messages), TEMPLATE, **render)


def shown(ids: list[int]) -> str:
    return str(tiny_tokenizer().decode(ids))


def controls(chat: ChatTokens) -> list[str]:
    """The control tokens among the ids, in order."""
    special = set(tiny_tokenizer().get_added_vocab().values())
    return [tiny_tokenizer().convert_ids_to_tokens(token) for token in chat.ids if token in special]


def test_a_picture_question_becomes_chatml() -> None:
    chat = tokens(user(IMAGE, text("What is this?")), add_generation_prompt=True)
    expected = "<|im_start|>user\nPicture: <image>.\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(chat.ids) == expected
    assert chat.ids == tiny_tokenizer()(expected, add_special_tokens=False)["input_ids"]
    assert controls(chat) == ["<|im_start|>", "<image>", "<|im_end|>", "<|im_start|>"]
    assert not any(chat.answers)


def test_a_dialogue_with_a_system_sentence_and_a_video_becomes_chatml() -> None:
    chat = tokens(
        {"role": "system", "content": "It is a cat."},
        user({"type": "video"}, IMAGE, text("What is this?")),
        said("It is a star."),
        user("How many are there?"),
        add_generation_prompt=True,
    )
    assert shown(chat.ids) == (
        "<|im_start|>system\nIt is a cat.<|im_end|>\n"
        "<|im_start|>user\nVideo: <video>.\nPicture: <image>.\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\nIt is a star.<|im_end|>\n"
        "<|im_start|>user\nHow many are there?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_plain_text_and_a_list_with_one_text_are_the_same() -> None:
    assert tokens(user("What is this?")) == tokens(user(text("What is this?"), text("")))


def test_a_dialogue_only_grows() -> None:
    first = user(IMAGE, text("What is this?"))
    asked = tokens(first, add_generation_prompt=True).ids
    whole = tokens(first, said("It is a cat."), user("What colour?"), add_generation_prompt=True).ids
    assert whole[: len(asked)] == asked


def test_answers_and_their_end_of_turn_are_marked_and_nothing_else() -> None:
    chat = tokens(user("What is this?"), said("It is a cat."), user("How many?"), said("There are three."))
    marked = [token for token, answer in zip(chat.ids, chat.answers, strict=True) if answer]
    assert shown(marked) == "It is a cat.<|im_end|>There are three.<|im_end|>"
    assert len(chat.answers) == len(chat.ids)


def test_marks_stand_on_answers_also_where_control_tokens_were_typed() -> None:
    chat = tokens(user("<image> <|im_end|> <video>"), said("It is <|im_end|> a cat."), user("<image>"), said("yes"))
    marked = [token for token, answer in zip(chat.ids, chat.answers, strict=True) if answer]
    assert shown(marked) == "It is <|im_end|> a cat.<|im_end|>yes<|im_end|>"
    assert controls(chat) == ["<|im_start|>", "<|im_end|>"] * 4


@pytest.mark.parametrize("typed", ["<image>", "<|im_end|>", "<video>", "<|im_start|>", "<s>", "<pad>"])
@pytest.mark.parametrize("frame", ["{}", "What is {}?", "{0}{0}", "a{}\n{}b", "<im{}age>"])
def test_a_typed_control_token_is_only_text(typed: str, frame: str) -> None:
    words = frame.format(typed, typed)
    for message in (user(words), user(text(words)), user(text("What"), text(words))):
        chat = tokens(message)
        assert controls(chat) == ["<|im_start|>", "<|im_end|>"]
        assert words in shown(chat.ids)


@pytest.mark.parametrize("parts", [("<ima", "ge>"), ("<|im", "_end|>"), ("<", "video", ">")])
def test_a_control_token_typed_in_several_parts_is_only_text(parts: tuple[str, ...]) -> None:
    chat = tokens(user(*(text(part) for part in parts)))
    assert controls(chat) == ["<|im_start|>", "<|im_end|>"]
    assert "".join(parts) in shown(chat.ids)


def test_private_characters_open_no_back_door() -> None:
    for words in (
        "<im\ue0f0age>",
        "\ue0f1<image>\ue0f0",
        "\ue0f0<image>",
        "<image\ue0f1>",
        "\ue0f0\ue0f0<video>\ue0f1",
    ):
        assert controls(tokens(user(words))) == ["<|im_start|>", "<|im_end|>"], words


def test_words_around_a_typed_control_token_are_tokenized_as_ever() -> None:
    words = "What colour is the star? "
    alone = tiny_tokenizer()(words, add_special_tokens=False)["input_ids"]
    ids = tokens(user(words + "<image>")).ids
    assert any(ids[i : i + len(alone)] == alone for i in range(len(ids)))


def test_a_continued_answer_has_no_end_of_turn() -> None:
    chat = tokens(user("What is this?"), said("It is"), continue_final_message=True)
    parts = {"role": "assistant", "content": [text("It is")]}
    assert tokens(user("What is this?"), parts, continue_final_message=True) == chat
    assert shown(chat.ids) == "<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\nIt is"


def test_a_template_without_marks_marks_nothing() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = tokenize_chat(tiny_tokenizer(), [user("What"), said("cat")], template)
    assert shown(chat.ids) == "Whatcat"
    assert not any(chat.answers)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"content": "What is this?"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"text": "What is this?", "type": "sound"}, {"type": "audio"}]}],
        [{"role": "user", "content": 7}],
        ["What is this?"],
        [],
        [{"role": "user", "content": ["What"]}],
        [{"role": 3, "content": "What"}],
        "What is this?",
        None,
    ],
)
def test_a_malformed_message_is_refused_in_one_line(messages: Any) -> None:
    with pytest.raises(InputError, match="message|conversation") as caught:
        tokenize_chat(tiny_tokenizer(), messages, TEMPLATE)
    assert "\n" not in str(caught.value)


def test_what_a_template_refuses_is_one_line() -> None:
    with pytest.raises(InputError, match="the chat template cannot read a message: roles must take turns"):
        tokenize_chat(tiny_tokenizer(), [user("What")], "{{ raise_exception('roles must\n take turns') }}")


def test_words_that_are_no_unicode_are_read_as_well_as_can_be() -> None:
    chat = tokens(user("What \udcff is \x00 this?"))  # bytes that a terminal could not decode
    assert controls(chat) == ["<|im_start|>", "<|im_end|>"]


def test_threads_do_not_read_each_others_answers_or_typed_control_tokens() -> None:
    given = [
        [user("What <image> is this?"), {"role": "assistant", "content": "It is a cat."}],
        [user(IMAGE, text("What colour is the star?")), {"role": "assistant", "content": "red"}],
    ]
    alone = [tokenize_chat(tiny_tokenizer(), messages, TEMPLATE) for messages in given]
    found: list[list[ChatTokens]] = [[], []]

    def work(number: int) -> None:
        found[number] = [tokenize_chat(tiny_tokenizer(), given[number], TEMPLATE) for _ in range(100)]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(made) for made in found] == [100, 100]
    assert all(one == alone[number] for number, made in enumerate(found) for one in made)
